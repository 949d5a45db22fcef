"""Rewriting a model whose axes grow: every weight, attribute and shape literal that must change, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import NodeProto, TensorProto, helper

from onnx_grow.axes.algebra import (
    Axis,
    Dim,
    Indices,
    Maps,
    grown_size,
    index_map,
    leaves,
    new_indices,
    resolve,
    size,
)
from onnx_grow.axes.equations import Contraction, Dilution
from onnx_grow.axes.inference import Analysis, Dims
from onnx_grow.growth.absorb import (
    Absorption,
    Asked,
    Factors,
    Held,
    Place,
    along,
    condensed,
    insert_after,
    insert_mean,
    insert_scale,
)
from onnx_grow.growth.budget import Footprint
from onnx_grow.growth.carry import Stuck, carry
from onnx_grow.growth.constants import FLOATS, Constants, Refusal
from onnx_grow.growth.order import chosen, following, insert_rounds, rounds
from onnx_grow.growth.padding import NotLinear, Padding, padding
from onnx_grow.growth.plan import Scheme, WidenPlan
from onnx_grow.growth.recipes import Draw, Grown, Mask, Mix, Scale, Share, Split, Step
from onnx_grow.growth.sizes import Sizes
from onnx_grow.model import Draft, Inline, Model, Weight, holds_parameters
from onnx_grow.shapes import infer as infer_shapes


def draw_map(name: str, old: int, new: int, seed: int) -> Indices:
    """The index map g of one axis: the old channels first, then copies (Net2WiderNet).

    Whole rounds copy every channel once; what remains is drawn without replacement, so that the numbers of copies differ by at most
    one. Copies come in the order of the originals, so that most lie beside each other in the file, too. The draw depends on the seed and
    the axis' name only: other axes do not change it.
    """
    rng = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()])
    rounds, more = divmod(new, old)
    drawn = np.sort(rng.permutation(old)[:more])
    return np.concatenate([np.tile(np.arange(old), rounds), drawn]).astype(np.int64)


def draw_maps(analysis: Analysis, axes: Mapping[str, Axis], plan: WidenPlan) -> Maps:
    """The index maps of the axes of a plan, by their names in `axes`, and of those that follow them."""
    drawn = {axes[g.name]: draw_map(g.name, g.size, g.new_size, plan.seed) for g in plan.axes}
    return following(analysis, drawn, set(axes.values()))


def rewrite(
    analysis: Analysis, axes: Mapping[str, Axis], plan: WidenPlan, metadata: Mapping[str, str] | None = None
) -> Model:
    """The model with the axes of `plan` grown; weights are lazy. Raises Refusal when that cannot be done exactly."""
    return _rewriting(analysis, axes, plan).run(metadata or {})


def footprint(analysis: Analysis, axes: Mapping[str, Axis], plan: WidenPlan) -> Footprint:
    """The parameters of the model that `rewrite` makes, at any sizes of the axes of `plan`. Raises Refusal as `rewrite` does.

    Which weights are cloned or inserted is found out once, at the sizes of the plan.
    """
    return _rewriting(analysis, axes, plan).footprint()


def _rewriting(analysis: Analysis, axes: Mapping[str, Axis], plan: WidenPlan) -> _Rewrite:
    return _Rewrite(
        analysis,
        draw_maps(analysis, axes, plan),
        _by(axes, plan, "fresh"),
        _paddings(analysis, axes, plan),
        plan,
    )


def _by(axes: Mapping[str, Axis], plan: WidenPlan, scheme: Scheme) -> dict[Axis, int]:
    """The axes that grow by a scheme, and their new sizes."""
    return {axes[g.name]: g.new_size for g in plan.axes if (g.scheme or plan.scheme) == scheme}


def _paddings(analysis: Analysis, axes: Mapping[str, Axis], plan: WidenPlan) -> dict[Axis, Padding]:
    padded = _by(axes, plan, "pad")
    try:
        return {axis: padding(analysis, axis, n, inserting=True) for axis, n in padded.items()}
    except NotLinear as reason:
        raise Refusal(list(padded), str(reason)) from reason


_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")
_SUMS = (
    *_WITH_BIAS,
    "Einsum",
    "FusedMatMul",
    "MatMul",
    "ReduceL1",
    "ReduceL2",
    "ReduceSum",
    "ReduceSumSquare",
)


@dataclass
class _Use:
    """What happens to a constant where one input reads it: its dimensions are copied by `maps`, shared, drawn afresh and scaled.

    `summed` is, for each dimension that is shared, what is summed of it.
    """

    maps: tuple[Indices | None, ...]
    summed: dict[int, Dim] = field(default_factory=dict)
    shares: dict[int, Share] = field(default_factory=dict)
    draws: list[Draw] = field(default_factory=list)
    mixes: dict[int, Mix] = field(default_factory=dict)
    scales: list[Scale] = field(default_factory=list)

    @property
    def steps(self) -> list[Step]:
        return [*self.shares.values(), *self.draws, *self.mixes.values(), *self.scales]

    @property
    def unchanged(self) -> bool:
        return not self.steps and all(g is None for g in self.maps)

    def key(self) -> tuple[object, ...]:
        maps = tuple(None if g is None else g.tobytes() for g in self.maps)
        return maps, tuple(map(_key, self.steps))


class _Rewrite:
    def __init__(
        self,
        analysis: Analysis,
        maps: Maps,
        fresh: Collection[Axis],
        paddings: Mapping[Axis, Padding],
        plan: WidenPlan,
    ) -> None:
        self.analysis = analysis
        self.maps = maps
        self.fresh = {*fresh, *paddings}
        self.paddings = paddings
        self.plan = plan
        self.draft = Draft(analysis.model)
        self.constants = Constants(analysis, self.draft)
        self.sizes = Sizes(analysis, maps, self.constants)
        self.absorption = Absorption(analysis, maps, self.sizes)
        self.shifted: set[int] = set()  # softmaxes with nodes of their own around them
        self.uses = {
            use: _Use(tuple(index_map(d, maps) for d in dims)) for use, dims in analysis.uses.items()
        }

    def run(self, metadata: Mapping[str, str]) -> Model:
        self._choices()
        self._grow_weights()
        self._windows()
        self._attributes()
        self._listed()
        self._tuned()
        self.sizes.regenerate()
        self._value_infos()
        grown = self.draft.freeze(metadata)
        self._check(grown)
        return grown

    def footprint(self) -> Footprint:
        products = [
            tuple(factor for dim in self.analysis.uses[use] for factor in dim) for use in self._grow_weights()
        ]
        grown = sum(grown_size(product, self.maps) for product in products)
        return Footprint(self.draft.freeze().parameters - grown, tuple(products))

    def _grow_weights(self) -> list[tuple[int, int]]:
        """Give every weight its copies, shares and scales; one use (node, input) of each weight of numbers that came of it."""
        self._mix()
        self._shift()
        self._contract()
        self._draw()
        return self._weights()

    def _contract(self) -> None:
        """Share what the copies of contracted dimensions are summed to: between weights, or by scales that weights take."""
        waiting: dict[Contraction, dict[Place, Factors]] = {}
        for contraction in map(self._without_zeros, self.analysis.said.contractions):
            if any(leaf in self.maps for leaf in leaves(contraction.over)) and not self._shared(contraction):
                self._refuse_fresh(contraction)
                places = {
                    (contraction.node, i): self._factors(contraction, i, d) for i, d in contraction.operands
                }
                waiting[contraction] = places
        ahead = self._cancelling(waiting)
        summing: dict[int, list[Contraction]] = {}
        for contraction in waiting:
            summing.setdefault(contraction.node, []).append(contraction)
        able: dict[Place, Factors] = {}  # the places of those that are not ahead and alone at their node
        for contraction in waiting.keys() - ahead:
            if len(summing[contraction.node]) == 1:
                able |= waiting[contraction]
        for contraction in [each for each in waiting if each not in ahead]:
            if contraction not in waiting:  # settled together with an earlier one
                continue
            places = waiting.pop(contraction)
            for place in places:
                able.pop(place, None)
            taken = self._taken(places, able)
            if taken is None:
                waiting[contraction] = places
                ahead.add(contraction)
                continue
            self._rescale(self._parted(taken, contraction))
            for node in {place[0] for place in taken if place in able}:
                for place in waiting.pop(summing[node].pop()):
                    del able[place]
            remaining = summing[contraction.node]
            remaining.remove(contraction)
            if len(remaining) == 1 and remaining[0] not in ahead:
                able |= waiting[remaining[0]]
        self._carry(waiting)

    def _refuse_fresh(self, contraction: Contraction) -> None:
        """Refuse fresh channels that an operator sums over alone: it would hear of them, or they would have to be silent."""
        fresh = [leaf for leaf in leaves(contraction.over) if leaf in self.fresh]
        if (
            fresh
            and len(contraction.operands) == 1
            and not self._is_known(contraction.node, contraction.operands[0][0])
        ):
            label = self.analysis.labels[contraction.node]
            raise Refusal(fresh, f"{label} sums over it, with no weight that could leave new channels out")

    def _cancelling(self, contractions: Iterable[Contraction]) -> set[Contraction]:
        """The contractions of what is diluted as much as they sum: probabilities, say."""
        topology = self.analysis.topology
        diluted = {(topology.proto(d.node).output[0], d.position, d.power) for d in self._dilutions()}
        return {
            contraction
            for contraction in contractions
            if contraction.power == -1.0
            for i, position in contraction.operands
            if (topology.proto(contraction.node).input[i], position, 1.0) in diluted
        }

    def _carry(self, contractions: Iterable[Contraction]) -> None:
        """Make up for what contractions and dilutions change where constants behind them can; else insert a Mul."""
        sums: dict[int, list[Contraction]] = {}
        thinned = {d.node: d for d in self._dilutions() if self._growth(d) != 1.0}
        sources = {node: self._growth(dilution) ** -dilution.power for node, dilution in thinned.items()}
        for contraction in contractions:
            i, d = contraction.operands[0]
            portions = self._factors(contraction, i, d).reshape(-1)
            scales_result = self._gives_sums(contraction.node) and self._is_float(contraction.node, i)
            if (portions != portions[0]).any() or not scales_result:
                self._insert(contraction)
                continue
            square = self.analysis.topology.proto(contraction.node).op_type == "ReduceSumSquare"
            factor = float(portions[0]) ** (-2 if square else -1)
            sources[contraction.node] = sources.get(contraction.node, 1.0) * factor
            sums.setdefault(contraction.node, []).append(contraction)
        while sources:
            try:
                self._rescale(carry(self.analysis, self.absorption, sources))
                return
            except Stuck as stuck:
                for node in sorted(stuck.sources):
                    del sources[node]
                    for contraction in sums.get(node, ()):
                        self._insert(contraction)
                    if node in thinned:
                        factor = self._growth(thinned[node]) ** thinned[node].power
                        insert_after(self.analysis, self.constants, node, factor)

    def _shift(self) -> None:
        """Where softmax's indices have different numbers of copies: shift the logits, and give every copy the whole probability."""
        for dilution in self.analysis.said.dilutions:
            dims = self.analysis.input_dims(dilution.node, 0) if dilution.logits else None
            g = index_map(dims[dilution.position], self.maps) if dims else None
            if dims is None or g is None or (counts := np.bincount(g)[g]).min() == counts.max():
                continue
            name = self.analysis.topology.proto(dilution.node).input[0]
            if dilution.position in self.sizes.open(name):
                grown = [leaf for leaf in leaves(dims[dilution.position]) if leaf in self.maps]
                label = self.analysis.labels[dilution.node]
                raise Refusal(
                    grown,
                    f"{label} normalises over it together with a dimension that the file leaves open",
                )
            factors = along(counts.astype(np.float64), dilution.position, len(dims))
            insert_scale(self.analysis, self.constants, dilution.node, 0, -np.log(factors), "Add")
            insert_after(self.analysis, self.constants, dilution.node, factors)
            self.shifted.add(dilution.node)

    def _dilutions(self) -> list[Dilution]:
        """Those that contractions and constants behind them make up for."""
        return [said for said in self.analysis.said.dilutions if said.node not in self.shifted]

    def _gives_sums(self, node: int) -> bool:
        """Whether the result of a node is what it sums, as that of attention or of a sum with a bias is not."""
        proto = self.analysis.topology.proto(node)
        has_bias = proto.op_type in _WITH_BIAS and len(proto.input) > 2
        return proto.op_type in _SUMS and not has_bias

    def _growth(self, dilution: Dilution) -> float:
        name = self.analysis.topology.proto(dilution.node).output[0]
        dims = self.analysis.dims.get(name)
        if (
            dims is None
        ):  # a node that turned out not to be what its operator has to be: all that it touches stays
            return 1.0
        dim = dims[dilution.position]
        return grown_size(dim, self.maps) / size(dim)

    def _mix(self) -> None:
        """Let padded channels be what they have to be, and norms of more channels give what they gave."""
        for padded in self.paddings.values():
            for place, (d, weights) in padded.mixtures.items():
                self.uses[place].mixes[d] = Mix(d, weights)
            for place, factor in padded.factors.items():
                rank = len(self.analysis.uses[place])
                self.uses[place].scales.append(Scale(np.full((1,) * rank, factor)))
            for node, epsilon in padded.epsilons.items():
                _set(self.draft.node(node), "epsilon", epsilon)
            for node, factor in padded.inserted.items():
                insert_after(self.analysis, self.constants, node, factor)
        for axis, padded in self.paddings.items():
            old, new = axis.size, len(self.maps[axis])
            for node in sorted(padded.centred):
                dims = self.analysis.input_dims(node, 0) or ()
                insert_mean(
                    self.analysis,
                    self.constants,
                    node,
                    self._at(dims, axis),
                    np.arange(new) >= old,
                    new / old,
                )
            for node in sorted(padded.masked):
                dims = self.analysis.dims[self.analysis.topology.proto(node).output[0]]
                kept = (np.arange(new) < old).astype(np.float64)
                insert_after(
                    self.analysis, self.constants, node, along(kept, self._at(dims, axis), len(dims))
                )

    def _at(self, dims: Dims, axis: Axis) -> int:
        return next(d for d, dim in enumerate(dims) if axis in leaves(dim))

    def _without_zeros(self, contraction: Contraction) -> Contraction:
        """What is summed, but for padded channels that are zero here: any weights will do for them."""
        zeros = {axis for axis, padded in self.paddings.items() if contraction.node in padded.free}
        over = tuple(leaf for leaf in leaves(contraction.over) if leaf not in zeros)
        return replace(contraction, over=over) if zeros else contraction

    def _shared(self, contraction: Contraction) -> bool:
        """Share between the copies in a weight, if there is one."""
        behind = (
            self.absorption.weight(contraction.node, i, d, contraction.over) for i, d in contraction.operands
        )
        sums = contraction.power == -1.0
        weights = [w for w in behind if w is not None and (sums or not (w.quantized or w.narrow))]
        if weights:
            self._share(next((w for w in weights if w.node == contraction.node), weights[0]), contraction)
        return bool(weights)

    def _taken(self, places: Asked, others: Asked) -> Asked | None:
        """The scales of constants, and what lies between, that scale one of `places`, or each by a root."""
        ways = [{place: factors} for place, factors in places.items()]
        if len(places) > 1:
            ways.append({place: factors ** (1 / len(places)) for place, factors in places.items()})
        return next((taken for way in ways if (taken := self.absorption.take(way, others)) is not None), None)

    def _parted(self, taken: Asked, contraction: Contraction) -> Asked:
        """Split constants between copies, element by element, where scaling them was asked for; the scales that remain to be taken.

        Of q k, summed over copies, all that q is linear in may be any parts of what it was, as long as the copies of k are equal; and
        as those of q are not, those of k do not get the same gradients. Scaled copies would stay twins.
        """
        scaled = [(contraction.node, i) for i, _ in contraction.operands if (contraction.node, i) in taken]
        if self.plan.scheme in ("copy", "noise") or len(scaled) > 1 or not self.absorption.is_linear(taken):
            return taken
        remaining = dict(taken)
        for place in taken.keys() & self.uses.keys():
            share = self._parts(place, taken[place], contraction.over)
            if share is not None:
                self.uses[place].shares[share.dim] = share
                del remaining[place]
        return remaining

    def _parts(self, place: Place, factors: Factors, over: Dim) -> Share | None:
        """The scales of a constant as parts of what its copies sum to; None where they are not."""
        use, dims = self.uses[place], self.analysis.uses[place]
        holding = [k for k, dim in enumerate(dims) if set(leaves(over)) & set(leaves(dim)) & self.maps.keys()]
        if len(holding) != 1 or holding[0] in use.shares:
            return None
        (d,) = holding
        g = use.maps[d]
        if g is None or factors.shape[d] != factors.size:
            return None
        portions = np.broadcast_to(factors.reshape(-1), g.shape)
        for copies in (self._classes(dims[d], over), g):
            classes = np.where(portions == 1.0, len(g) + np.arange(len(g)), copies)
            sums = np.bincount(classes, weights=portions)
            if np.allclose(sums[classes], 1.0, rtol=1e-12):
                return Share(d, np.unique(classes, return_inverse=True)[1], "unequal")
        return None

    def _insert(self, contraction: Contraction) -> None:
        i, d = contraction.operands[0]
        over = [leaf for leaf in leaves(contraction.over) if leaf in self.maps]
        fresh = [leaf for leaf in over if leaf in self.fresh]
        label = self.analysis.labels[contraction.node]
        if fresh:
            raise Refusal(fresh, f"{label} sums over it, and no weight could leave new channels out")
        if not self._is_float(contraction.node, i):
            raise Refusal(over, f"{label} sums over it in integers")
        factors = condensed(self._factors(contraction, i, d))
        if factors.size > 1 and d in self.sizes.open(self.analysis.topology.proto(contraction.node).input[i]):
            raise Refusal(over, f"{label} sums over it together with a dimension that the file leaves open")
        insert_scale(self.analysis, self.constants, contraction.node, i, factors)

    def _share(self, weight: Held, contraction: Contraction) -> None:
        place = (weight.node, weight.input)
        use, dims = self.uses[place], self.analysis.uses[place]
        for d in weight.dims:
            if contraction.power != -1.0:
                use.scales.append(
                    Scale(along(self._portions(dims[d], contraction.over, contraction.power), d, len(dims)))
                )
                continue
            # Of several factors of one dimension that are summed, the copies share together.
            use.summed[d] = (*use.summed.get(d, ()), *contraction.over)
            classes = self._classes(dims[d], use.summed[d])
            # Unequal parts sum exactly; thirds in half precision would be too coarse for a product in single.
            unequal = self.plan.scheme not in ("copy", "noise") or weight.narrow
            split: Split = "first" if weight.quantized else "unequal" if unequal else "equal"
            silent = self._silent(dims[d], use.summed[d])
            fill = self.analysis.said.zeros.get(place) or 0
            use.shares[d] = Share(d, classes, split, fill, silent if silent.any() else None)

    def _draw(self) -> None:
        """Draw what weights hold of fresh channels, where these are computed; what else has them takes copies along.

        Copies stay in the domain of what reads them: scales, variances, slopes.
        """
        places = {
            (held.node, held.input)
            for contraction in self.analysis.said.contractions
            if self.fresh
            for i, d in contraction.operands
            if (held := self.absorption.weight(contraction.node, i, d, contraction.over))
            and not held.quantized
        }
        places |= {place for place in self.uses if place[1] == 0 and self._is_table(*place)}
        mixed = {
            (self.analysis.topology.proto(node).input[i], d): mix
            for (node, i), use in self.uses.items()
            for d, mix in use.mixes.items()
            if len(self.analysis.uses[node, i]) > 1
        }
        for place in sorted(places):
            use = self.uses[place]
            for d, dim in enumerate(self.analysis.uses[place]):
                new = new_indices(dim, self.maps, self.fresh - set(leaves(use.summed.get(d, ()))))
                name = self.analysis.topology.proto(place[0]).input[place[1]]
                if d not in use.mixes and d not in use.shares and (name, d) in mixed:
                    use.mixes[d] = mixed[name, d]  # stays one weight with whoever computes the channels by it
                elif d not in use.mixes and new.any():
                    use.draws.append(Draw(d, new))

    def _is_table(self, node: int, i: int) -> bool:
        """Whether rows are looked up in a constant."""
        return self.analysis.topology.proto(node).op_type == "Gather" and self._is_float(node, i)

    def _silent(self, dim: Dim, over: Dim) -> Mask:
        """The new indices of a dimension that nothing must be heard of where `over` is summed."""
        return new_indices(dim, self.maps, self.fresh & set(leaves(over)))

    def _portions(self, dim: Dim, over: Dim, power: float = -1.0) -> Factors:
        """What every new index of a dimension counts where copies of it are summed: together as much as the old one."""
        classes, silent = self._classes(dim, over), self._silent(dim, over)
        counts = np.bincount(classes[~silent], minlength=int(classes.max()) + 1)[classes]
        portions: Factors = counts.astype(np.float64) ** power
        portions[silent] = 0.0
        return portions

    def _is_known(self, node: int, i: int) -> bool:
        """Whether an input is a constant or computed from constants."""
        name = self.analysis.topology.proto(node).input[i]
        return name in self.analysis.constants or name in self.analysis.folded

    def _is_float(self, node: int, i: int) -> bool:
        return self.analysis.shapes.dtype.get(self.analysis.topology.proto(node).input[i]) in FLOATS

    def _rescale(self, scales: Asked) -> None:
        """Scale the constants among some inputs."""
        for place in scales.keys() & self.uses.keys():
            factors, use = scales[place], self.uses[place]
            # A broadcast constant takes one value per channel from now on.
            use.maps = tuple(
                np.zeros(n, np.int64) if g is None and n > 1 and size(dim) == 1 else g
                for g, n, dim in zip(use.maps, factors.shape, self.analysis.uses[place], strict=True)
            )
            use.scales.append(Scale(np.where(np.isnan(factors), 1.0, factors)))

    def _factors(self, contraction: Contraction, i: int, d: int) -> Factors:
        dims = self.analysis.input_dims(contraction.node, i)
        assert dims is not None
        return along(self._portions(dims[d], contraction.over, contraction.power), d, len(dims))

    def _classes(self, dim: Dim, over: Dim) -> Indices:
        """For every new index of a dimension, the sum it belongs to: copies of `over` share, all else is apart."""
        shared = set(leaves(over))
        out = np.zeros(1, np.int64)
        for factor in resolve(dim):
            if shared.issuperset(leaves((factor,))):
                g, n = index_map((factor,), self.maps), factor.size
                part = np.arange(n) if g is None else g
            else:
                n = grown_size((factor,), self.maps)
                part = np.arange(n)
            out = (out[:, None] * n + part[None, :]).reshape(-1)
        return out

    def _weights(self) -> list[tuple[int, int]]:
        made: list[tuple[int, int]] = []
        by_name: dict[str, list[tuple[int, int]]] = {}
        for (node, i), use in self.uses.items():
            if not use.unchanged:
                by_name.setdefault(self.analysis.topology.proto(node).input[i], []).append((node, i))
        for name, places in by_name.items():
            alike: dict[tuple[object, ...], list[tuple[int, int]]] = {}
            for place in places:
                alike.setdefault(self.uses[place].key(), []).append(place)
            for same in alike.values():
                weight = self._grown(name, same[0])
                self.constants.replace(name, weight, same)
                if holds_parameters(weight.dtype):
                    made.append(same[0])
        return made

    def _grown(self, name: str, place: Place) -> Weight:
        use = self.uses[place]
        base = self.constants.weight(name)
        noisy = self.plan.scheme == "noise" and base.dtype in FLOATS and sum(n > 1 for n in base.shape) > 1
        noise = self.plan.noise if noisy else 0.0
        if base.dtype == TensorProto.STRING:  # has no bytes that could be computed block by block
            picked = (np.arange(n) if g is None else g for n, g in zip(base.shape, use.maps, strict=True))
            return Inline.of(base.array()[np.ix_(*picked)])
        fresh = [new_indices(dim, self.maps, self.fresh) for dim in self.analysis.uses[place]]
        return Grown(
            base,
            use.maps,
            use.steps,
            noise=noise,
            seed=f"{self.plan.seed}/{name}",
            fresh=[mask if mask.any() else None for mask in fresh],
        )

    def _choices(self) -> None:
        """Let lists of channels say where these are now."""
        for choice in self.analysis.said.choices:
            source, result = index_map(choice.source, self.maps), index_map(choice.result, self.maps)
            if source is None and result is None:
                continue
            new = chosen(
                np.asarray(choice.channels),
                np.arange(size(choice.source)) if source is None else source,
                size(choice.source),
                np.arange(size(choice.result)) if result is None else result,
                originals=any(leaf in self.fresh for leaf in leaves(choice.source)),
            )
            proto = self.draft.node(choice.node)
            if proto.op_type == "Gather":
                self.uses.pop((choice.node, 1), None)
                self.constants.put(choice.node, 1, new)
            else:
                order = self.constants.add(f"{proto.output[0]}_order", new)
                gather = helper.make_node(
                    "Gather", [proto.input[0], order], proto.output, proto.name, axis=choice.position
                )
                proto.CopyFrom(gather)

    def _windows(self) -> None:
        """Give what looks at neighbours its copies in rounds."""
        for window in self.analysis.said.windows:
            dims = self.analysis.input_dims(window.node, 0)
            dim = dims[window.position] if dims else ()
            g = index_map(dim, self.maps)
            if g is not None:
                taken, back = rounds(g, size(dim), window.reach)
                insert_rounds(self.analysis, self.constants, window.node, window.position, taken, back)

    def _attributes(self) -> None:
        for said in self.analysis.said.attributes:
            attribute = next(a for a in self.draft.node(said.node).attribute if a.name == said.name)
            if said.scalar:
                attribute.i = grown_size(said.elements[0], self.maps)  # type: ignore[arg-type]
                continue
            for k, element in enumerate(said.elements):
                dim: Dim = element if isinstance(element, tuple) else element.dim if element else ()
                if any(leaf in self.maps for leaf in leaves(dim)):
                    count = grown_size(dim, self.maps)
                    attribute.ints[k] = count if isinstance(element, tuple) else -count

    def _listed(self) -> None:
        """Write the attributes that are weights: copied, and shared equally where copies are summed."""
        for said in self.analysis.said.listed:
            attribute = next(a for a in self.draft.node(said.node).attribute if a.name == said.name)
            numbers = attribute.floats or attribute.ints
            values = np.array(numbers).reshape([size(dim) for dim in said.dims])
            for k, dim in enumerate(said.dims):
                g = index_map(dim, self.maps)
                if g is not None:
                    values = np.take(values, g, axis=k)
                if set(leaves(said.over)) & set(leaves(dim)) & self.maps.keys():
                    values = values * along(self._portions(dim, said.over), k, values.ndim)
            numbers[:] = values.reshape(-1).tolist()

    def _tuned(self) -> None:
        """Write the attributes that depend on sizes."""
        for tuned in self.analysis.said.tuned:
            new, old = grown_size(tuned.dim, self.maps), size(tuned.dim)
            if new != old:
                _set(self.draft.node(tuned.node), tuned.name, tuned.value * (new / old) ** tuned.power)

    def _value_infos(self) -> None:
        """Correct the shapes that the file declares of tensors inside the graph; what it leaves open or names stays open."""
        for info in self.draft.proto.graph.value_info:
            constant = info.name in self.analysis.constants
            new = self.constants.shapes.get(info.name) if constant else self.sizes.shape(info.name)
            old = self.analysis.shapes.shape.get(info.name)
            declared = info.type.tensor_type.shape.dim
            if new is None or old is None or len(declared) != len(new):
                continue
            for dim, n, before in zip(declared, new, old, strict=True):
                if n != before and dim.HasField("dim_value"):
                    dim.dim_value = n
                elif n != before:
                    dim.Clear()

    def _check(self, grown: Model) -> None:
        """Infer the shapes of the grown model afresh: each must be the one that the algebra predicts.

        Where shapes depend on data, which differ by rounding, dimensions that do not grow may differ.
        """
        before = self.analysis.shapes
        now = infer_shapes(grown, before.inputs)
        depends = bool(before.observed or now.observed)
        for index in range(len(self.analysis.topology.nodes)):
            for name in self.analysis.topology.proto(index).output:
                wanted = self.sizes.shape(name)
                if name in self.analysis.constants or wanted is None:
                    continue
                found = now.shape.get(name, wanted)
                stays = [depends and n == old for n, old in zip(wanted, before.shape[name], strict=True)]
                if len(found) != len(wanted) or any(
                    n != due and not may for n, due, may in zip(found, wanted, stays, strict=True)
                ):
                    dims = self.analysis.dims.get(name, ())
                    axes = [leaf for dim in dims for leaf in leaves(dim) if leaf in self.maps]
                    label = self.analysis.labels[index]
                    raise Refusal(axes, f"{label} would give shape {list(found)} where {list(wanted)} is due")


def _set(proto: NodeProto, name: str, value: float) -> None:
    """Give a node an attribute in place of what it has of that name."""
    kept = [attribute for attribute in proto.attribute if attribute.name != name]
    del proto.attribute[:]
    proto.attribute.extend([*kept, helper.make_attribute(name, value)])


def _key(step: Step) -> tuple[object, ...]:
    """What makes two steps the same."""
    match step:
        case Share():
            silent = None if step.silent is None else step.silent.tobytes()
            return step.dim, step.split, step.fill, step.classes.tobytes(), silent
        case Draw():
            return step.dim, step.new.tobytes()
        case Mix():
            return step.dim, step.weights.tobytes()
        case Scale():
            return step.factors.shape, step.factors.tobytes()
