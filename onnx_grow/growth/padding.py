"""Padding: an axis under LayerNormalization or RMSNormalization grows to any size, by channels that the norm does not notice.

    RMSNormalization      new channels are 0: the mean square becomes n / n' of what it was
    LayerNormalization    new channels are the mean of the old ones: the mean stays, the variance becomes n / n' of what it was

With gamma sqrt(n / n') and epsilon n / n' the old channels come out as before, and the new ones as beta, which is 0. Whoever reads
them there may have any weights for them; whoever reads them before the norm needs weights of zero.

Who computes the channels has to make the new ones: a weight by a mixture of its rows, `sum_i m[i] W[i]`, with m = 1/n for the mean and
m = 0 for zero. The mixture is demanded of the norm's input and handed back through all that is linear in the channels, as far as
the weights; a factor per channel on the way is divided out. What is not linear refuses, and the reason names it.

Where the mean cannot come from weights (the result of one LayerNormalization is added to what the next one normalises), it can still be
put in front of the norm: new channels are zero up to there, and x + [0 .. 0, n'/n .. n'/n] mean(x) has the mean in them. That takes
nodes, so it is done on request only.

Norms that exporters spelled out (ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div) are not matched but computed with: a mean
of zeros and n old channels is n / n' of what it was, and this factor is carried along until a constant can take it. The
constant added to a variance takes it, so that epsilon is scaled; gamma takes its root.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import frexp, sqrt

import numpy as np
from onnx import NodeProto, TensorProto, helper

from onnx_grow.axes.algebra import Axis, leaves, resolve
from onnx_grow.axes.inference import Analysis
from onnx_grow.growth.constants import FLOATS
from onnx_grow.growth.norms import Mixture, Norm, NotLinear, Over, attribute

__all__ = ["NotLinear", "Padding", "padding", "unpaddable", "unsuited"]

Place = tuple[int, int]  # a node and one of its inputs


@dataclass
class Padding:
    """What padding one axis takes.

    `mixtures`: constants whose new indices along a dimension are mixtures of the old ones. `factors`: constants that are scaled.
    `epsilons`: attributes of norms. `inserted`: nodes behind which a factor is put right. `free`: nodes that sum over the axis where
    its new channels are zero, so that their weights may be anything. `centred`: norms in front of which nodes put the mean
    into the new channels. `masked`: nodes behind which new channels are made zero.
    """

    mixtures: dict[Place, tuple[int, Mixture]] = field(default_factory=dict)
    factors: dict[Place, float] = field(default_factory=dict)
    epsilons: dict[int, float] = field(default_factory=dict)
    inserted: dict[int, float] = field(default_factory=dict)
    free: set[int] = field(default_factory=set)
    centred: set[int] = field(default_factory=set)
    masked: set[int] = field(default_factory=set)


def padding(analysis: Analysis, axis: Axis, new_size: int, *, inserting: bool = False) -> Padding:
    """How to pad an axis to a size, by weights alone or, where these cannot do it and if `inserting`, with nodes before the norms.

    Raises NotLinear when that would not be exact, naming the node.
    """
    try:
        return _Pad(analysis, axis, new_size).found()
    except NotLinear:
        if not inserting:
            raise
    return _Pad(analysis, axis, new_size, inserting=True).found()


def unpaddable(analysis: Analysis, axis: Axis, new_size: int, *, inserting: bool = False) -> str | None:
    """Why an axis cannot be padded; None if it can."""
    try:
        padding(analysis, axis, new_size, inserting=inserting)
    except NotLinear as reason:
        return str(reason)
    return None


def unsuited(analysis: Analysis, axis: Axis, new_size: int) -> str | None:
    """Why whole copies keep the function of a model better than padding by weights alone does; None if they do not.

    Where padding cannot be, or rounds to half precision: scales of norms by a root, means of weights.
    """
    try:
        found = padding(analysis, axis, new_size)
    except NotLinear as reason:
        return str(reason)
    rounded = [place for place, (_, mixture) in found.mixtures.items() if mixture.any()]
    rounded += [place for place, factor in found.factors.items() if abs(frexp(factor)[0]) != 0.5]
    for node, i in rounded:
        if analysis.shapes.dtype[analysis.topology.proto(node).input[i]] in (
            TensorProto.FLOAT16,
            TensorProto.BFLOAT16,
        ):
            return f"{analysis.labels[node]} would have its weights rounded to half precision"
    return None


_ZERO_AT_ZERO = frozenset(
    {"Abs", "Celu", "Elu", "Erf", "FastGelu", "Gelu", "HardSwish", "LeakyRelu", "Mish", "PRelu", "QuickGelu"}
    | {"Relu", "Round", "Selu", "Sin", "Softsign", "Swish", "Tanh"}
)
"""Activations that keep zero what is zero but for rounding, as Sign does not."""
_KEEPS_ZERO = ("AveragePool", "Div", "GlobalAveragePool", "MaxPool", "Neg")
_SUMS = ("Add", "Mean", "Sub", "Sum")
_COARSE = 1 / 64
"""A relative change by rounding that is too much for a constant that is scaled."""


def _is_zero_at_zero(proto: NodeProto) -> bool:
    """Whether a node is an activation that keeps zero what is zero, as FastGelu with a bias does not."""
    return proto.op_type in _ZERO_AT_ZERO and (len(proto.input) == 1 or proto.op_type == "PRelu")


class _Stuck(Exception):
    """A tensor comes out scaled, and somebody reads it who cannot make up for it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Ahead:
    """Numbers in ascending order, each once; what is added on the way has to be larger than those that came."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._known = set(numbers)
        self._heap = sorted(self._known)

    def add(self, number: int) -> None:
        """Have this number come, too."""
        if number not in self._known:
            self._known.add(number)
            heappush(self._heap, number)

    def __iter__(self) -> Iterator[int]:
        while self._heap:
            yield heappop(self._heap)


class _Pad:
    def __init__(self, analysis: Analysis, axis: Axis, new_size: int, *, inserting: bool = False) -> None:
        self.inserting = inserting
        self.analysis = analysis
        self.topology = analysis.topology
        self.axis = axis
        self.over = Over(analysis, axis)
        self.ratio = axis.size / new_size
        self.nothing: Mixture = np.zeros(axis.size)
        self.mean: Mixture = self.nothing if inserting else np.full(axis.size, 1.0 / axis.size)
        self.result = Padding()
        self.demands: dict[str, Mixture] = {}
        self.zero: set[str] = set()
        self.restored: set[str] = set()
        self.understood: set[int] = set()
        self.differences: set[int] = set()
        self.second_moments: set[int] = set()
        self.concerned = analysis.concerned.get(axis, ())
        self.ahead = _Ahead([])  # where to look next: only there does anything change

    def found(self) -> Padding:
        if self.axis.replicated:
            raise NotLinear(self.axis.replicated[0])
        for choice in self.analysis.said.choices:
            if self.axis in leaves(choice.source) and self.axis in leaves(choice.result):
                raise NotLinear(f"{self.over.label(choice.node)} picks what each of its channels is")
        self.ahead = _Ahead([-index for index in (*self.concerned, *self._subtractions())])
        for index in self.ahead:
            self._demand(-index)
        for index in self.concerned:
            taken = any(self.axis in leaves(dim) for dim in self.analysis.statistics.get(index, ()))
            if taken and index not in self.understood:
                raise NotLinear(
                    f"{self.over.label(index)} takes other statistics over it than those of a norm"
                )
        while True:
            try:
                return self._carried()
            except _Stuck as stuck:
                producer = self.topology.producers[stuck.name]
                if stuck.name in self.restored or self.topology.proto(producer).output[0] != stuck.name:
                    raise NotLinear(f"{self.over.label(producer)} cannot be scaled") from stuck
                self.restored.add(stuck.name)

    # Backward: what the norms demand of their inputs, handed back to the weights.

    def _demand(self, index: int) -> None:
        proto = self.topology.proto(index)
        norm = self.over.norm(index)
        if norm is not None:
            self._demand_of_norm(index, norm)
        elif self.over.averages(index):
            self._demand_of_mean(index)
        else:
            self._note_difference(index, proto)
            for name in proto.output:
                if name in self.demands:
                    self._hand_back(index, proto, self.demands[name])

    def _demand_of_norm(self, index: int, norm: Norm) -> None:
        proto = self.topology.proto(index)
        if any(
            self.over.is_read(name)
            for o, name in enumerate(proto.output)
            if name and o not in (0, norm.total)
        ):
            raise NotLinear(f"{self.over.label(index)} gives away its statistics")
        if norm.gamma >= len(proto.input) or not self.over.is_known(proto.input[norm.gamma]):
            raise NotLinear(f"{self.over.label(index)} has no constant scale")
        self.understood.add(index)
        if self.inserting and norm.centred:
            if norm.total is not None:
                raise NotLinear(
                    f"{self.over.label(index)} adds by itself, which leaves no place before the norm"
                )
            self.result.centred.add(index)
        wanted = self.mean if norm.centred else self.nothing
        self._agree(
            self.demands.get(proto.output[norm.total]) if self._has_output(proto, norm.total) else None,
            wanted,
            index,
        )
        for i in norm.summed:
            if i < len(proto.input) and proto.input[i]:
                self._give(index, i, wanted)
        asked = self.demands.get(proto.output[0], self.nothing)
        if asked.any():
            gamma = self.over.along(index, norm.gamma)
            if not norm.centred or not np.allclose(asked * gamma, (asked * gamma)[0], rtol=1e-6, atol=0):
                reason = "is added to what is normalised again, and its scales differ between channels"
                raise NotLinear(f"the result of {self.over.label(index)} {reason}")
        if norm.beta is not None and norm.beta < len(proto.input) and proto.input[norm.beta]:
            self._give(index, norm.beta, asked)
        elif asked.any() and not norm.centred:
            raise NotLinear(f"{self.over.label(index)} has no bias")

    def _demand_of_mean(self, index: int) -> None:
        """The mean of squares leaves zeros out, any other mean is not changed by itself."""
        self.understood.add(index)
        squared = self.over.squared(self.topology.proto(index).input[0])
        if index in self.second_moments:
            self._agree(self.demands.get(squared or ""), self.mean, index)
            self._ask(squared or "", self.mean)
        else:
            self._give(index, 0, self.mean if squared is None else self.nothing)

    def _subtractions(self) -> Iterator[int]:
        """The nodes that subtract from a mean over the axis, once moved."""
        moved = [
            self.topology.proto(index).output[0] for index in self.concerned if self.over.averages(index)
        ]
        while moved:
            for reader, _ in self.topology.consumers.get(moved.pop(), ()):
                proto = self.topology.proto(reader)
                if proto.op_type == "Sub":
                    yield reader
                elif self.over.is_move(proto):
                    moved += proto.output

    def _note_difference(self, index: int, proto: NodeProto) -> None:
        """mean(x^2) - mean(x)^2 is the variance, too: with the mean in new channels n / n' of what it was."""
        if proto.op_type != "Sub" or self.inserting:
            return
        moment, mean = self.over.averaging(proto.input[0]), self.over.squared(proto.input[1])
        if moment is None or mean is None or len(self.topology.consumers[proto.input[0]]) > 1:
            return
        squared = self.over.squared(self.topology.proto(moment).input[0])
        if (
            squared is not None
            and squared == self.over.mean_of(mean)
            and squared not in self.analysis.constants
        ):
            self.differences.add(index)
            self.second_moments.add(moment)

    def _hand_back(self, index: int, proto: NodeProto, mixture: Mixture) -> None:
        """Demand of a node's operands what makes its result as demanded."""
        op, zero = proto.op_type, not mixture.any()
        linear = self.over.is_linear(proto)
        if linear and op != "Expand" and self.over.position(index, 0) is None:
            raise NotLinear(f"{self.over.label(index)} picks what each of its channels is")
        keeps_zero = (
            op == "MaxPool"
            or _is_zero_at_zero(proto)
            or (op == "Pow" and self.over.is_positive(proto.input[1]))
        )
        if linear or (zero and keeps_zero):
            self._give(index, 0, mixture)
        elif zero and op == "Sub" and self.over.mean_of(proto.input[1]) == proto.input[0]:
            self._give(index, 0, self.mean)
            if self.inserting:
                self.result.masked.add(index)
        elif op in (*_SUMS, "Concat"):
            for i in range(len(proto.input)):
                self._give(index, i, mixture)
        elif op == "Where" and self.over.position(index, 0) is None:
            self._give(index, 1, mixture)
            self._give(index, 2, mixture)
        elif op in ("Mul", "Div"):
            self._hand_back_product(index, proto, mixture)
        elif op in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            self._hand_back_contraction(index, proto, mixture)
        else:
            raise NotLinear(f"{self.over.label(index)} is not linear in it")

    def _hand_back_product(self, index: int, proto: NodeProto, mixture: Mixture) -> None:
        having = [i for i in (0, 1) if self.over.position(index, i) is not None]
        known = [i for i in having if self.over.is_known(proto.input[i])]
        if having == [0] or (having == [1] and proto.op_type == "Mul"):
            self._give(index, having[0], mixture)
        elif not mixture.any():
            # One zero is enough; a gate is never zero.
            open_ = [i for i in having if i not in known and not self.over.is_gate(proto.input[i])]
            if not open_ or (proto.op_type == "Div" and open_[0] != 0):
                raise NotLinear(f"{self.over.label(index)} multiplies what cannot be zero")
            self._give(index, open_[0], mixture)
        elif len(having) == 2 and len(known) == 1 and (proto.op_type == "Mul" or known == [1]):
            factors = self.over.along(index, known[0])
            new = sqrt(float(np.mean(factors**2)))
            if not new or (proto.op_type == "Div" and not factors.all()):
                raise NotLinear(f"{self.over.label(index)} multiplies by zero")
            self._give(index, known[0], factors * new / float(factors @ factors))
            weighted = mixture * factors / new if proto.op_type == "Mul" else mixture / factors * new
            self._give(index, 1 - known[0], weighted)
        else:
            raise NotLinear(f"{self.over.label(index)} multiplies two tensors that are computed")

    def _hand_back_contraction(self, index: int, proto: NodeProto, mixture: Mixture) -> None:
        """Of the operand that has the channels of the result, and the bias."""
        made = [
            (i, d)
            for i, d in self._results(index, proto)
            if self.axis in leaves((self.analysis.input_dims(index, i) or ())[d])
        ]
        through = proto.op_type.startswith("Conv") and self._passes(index)
        if through and mixture.any():
            raise NotLinear(f"{self.over.label(index)} treats each channel in its own way")
        if through:
            self._give(index, 0, mixture)
        elif len(made) == 1:
            i, d = made[0]
            self._give(index, i, mixture, d)
        else:
            raise NotLinear(f"{self.over.label(index)} is not linear in it")
        if proto.op_type != "MatMul" and len(proto.input) > 2 and proto.input[2]:
            self._give(index, 2, mixture)

    def _results(self, index: int, proto: NodeProto) -> list[Place]:
        """The (input, dimension) pairs that become dimensions of channels of the result."""
        left, right = (len(self.analysis.input_dims(index, i) or ()) for i in (0, 1))
        match proto.op_type:
            case "MatMul":
                batch = [(1, d) for d in range(right - 2)]
                return batch + [(1, right - 1)] * (right > 1) + [(0, d) for d in range(max(left - 1, 0))]
            case "Gemm":
                return [
                    (1, 0 if attribute(proto, "transB", 0) else 1),
                    (0, 1 if attribute(proto, "transA", 0) else 0),
                ]
            case "Conv":
                return [(1, 0)]
            case _:
                return [(1, 1)]

    def _passes(self, index: int) -> bool:
        """Whether a convolution keeps the channels apart: in groups, of which the axis is the number."""
        return not self._sums(index) and self.over.position(index, 0) is not None

    def _give(self, index: int, i: int, mixture: Mixture, d: int | None = None) -> None:
        """Demand a mixture of one input of a node."""
        name = self.topology.proto(index).input[i]
        at = self.over.position(index, i) if d is None else d
        if at is None:
            self._shared_by_all(index, name, mixture)
        elif name in self.analysis.constants:
            dims = self.analysis.uses[index, i]
            if resolve(dims[at]) != (self.axis,) or self.analysis.shapes.dtype.get(name) not in FLOATS:
                raise NotLinear(f"{self.over.label(index)} has weights that cannot be mixed")
            self._agree(self.result.mixtures.get((index, i), (at, None))[1], mixture, index)
            self.result.mixtures[index, i] = at, mixture
        else:
            self._agree(self.demands.get(name), mixture, index)
            self._ask(name, mixture)

    def _ask(self, name: str, mixture: Mixture) -> None:
        self.demands[name] = mixture
        if (producer := self.topology.producers.get(name)) is not None:
            self.ahead.add(-producer)

    def _shared_by_all(self, index: int, name: str, mixture: Mixture) -> None:
        """A number that all channels share is its own mean, but not zero."""
        value = self.over.value(name) if self.over.is_known(name) else None
        none = value is not None and not np.any(value)
        if abs(float(mixture.sum()) - 1.0) > 1e-9 and not (none and not mixture.any()):
            raise NotLinear(f"{self.over.label(index)} adds to it what all its channels share")

    def _agree(self, said: Mixture | None, mixture: Mixture, index: int) -> None:
        if said is not None and not np.allclose(said, mixture, rtol=1e-9, atol=1e-15):
            raise NotLinear(
                f"{self.over.label(index)} and another node that reads it need different new channels"
            )

    # Forward: where new channels are zero, and which factors the statistics cause.

    def _carried(self) -> Padding:
        """The result, once every factor has found a constant that takes it."""
        self.result = Padding(
            dict(self.result.mixtures), centred=self.result.centred, masked=self.result.masked
        )
        self.zero = {name for name, mixture in self.demands.items() if not mixture.any()}
        factors: dict[str, float] = {}
        self.ahead = _Ahead([*self.concerned, *self.differences])
        for index in self.ahead:
            self._zeros(index)
            self._factor(index, factors)
        for index in self.concerned:
            if self._sums(index):
                self._free(index)
        return self.result

    def _sums(self, index: int) -> bool:
        """Whether a node sums over the axis."""
        return any(self.axis in leaves(each.over) for each in self.analysis.contractions.get(index, ()))

    def _free(self, index: int) -> None:
        proto = self.topology.proto(index)
        computed = [
            name
            for name in proto.input
            if not self.over.is_known(name)
            and any(self.axis in leaves(dim) for dim in self.analysis.dims.get(name, ()))
        ]
        if computed and all(name in self.zero for name in computed):
            if len(computed) > 1:
                reason = (
                    "multiplies new channels that are zero with one another, so that neither would ever learn"
                )
                raise NotLinear(f"{self.over.label(index)} {reason}")
            self.result.free.add(index)

    def _zeros(self, index: int) -> None:
        proto = self.topology.proto(index)
        name = proto.output[0] if proto.output else ""
        if not name or name in self.demands or self.over.tensor_position(name) is None:
            return
        norm = self.over.norm(index)
        if norm is not None:
            self.zero.add(name)
            return
        if proto.op_type in _KEEPS_ZERO or self.over.is_move(proto) or _is_zero_at_zero(proto):
            is_zero = proto.input[0] in self.zero
        elif proto.op_type == "Mul":
            is_zero = any(operand in self.zero for operand in proto.input)
        elif proto.op_type in ("Add", "Sub"):
            is_zero = self._zero_sum(index, proto)
        else:
            is_zero = bool(proto.input) and proto.op_type == "Concat" and self.zero.issuperset(proto.input)
        if is_zero:
            parts = proto.output if proto.op_type == "Split" else [name]
            self.zero.update(part for part in parts if self.over.tensor_position(part) is not None)

    def _zero_sum(self, index: int, proto: NodeProto) -> bool:
        """Whether a sum is zero; a bias is made so."""
        biases = [i for i in (0, 1) if self._is_bias(index, i)]
        others = [proto.input[i] for i in (0, 1) if i not in biases]
        if not others or not self.zero.issuperset(others):
            return False
        for i in biases:
            at = self.over.position(index, i)
            assert at is not None
            self.result.mixtures[index, i] = at, self.nothing
        return True

    def _is_bias(self, index: int, i: int) -> bool:
        at = self.over.position(index, i, strict=False)
        return (
            at is not None
            and self.over.is_constant(index, i)
            and (index, i) not in self.result.mixtures
            and resolve(self.analysis.uses[index, i][at]) == (self.axis,)
        )

    def _factor(self, index: int, factors: dict[str, float]) -> None:
        """By how much the results of a node are too large; constants take what they can."""
        proto = self.topology.proto(index)
        norm = self.over.norm(index)
        if norm is not None:
            if not self._take(index, norm.gamma, sqrt(self.ratio)):
                raise NotLinear(f"{self.over.label(index)} has no constant scale of its own")
            self.result.epsilons[index] = float(attribute(proto, "epsilon", norm.epsilon)) * self.ratio
        given = {i: factors[name] for i, name in enumerate(proto.input) if name in factors}
        out = self._passed(index, proto, given) if given else 1.0
        if index in self.differences or (self.over.averages(index) and proto.input[0] in self.zero):
            out *= self.ratio
        if out == 1.0:
            return
        name = proto.output[0]
        exposed = name in self.topology.outputs or name in self.topology.captured
        if name in self.restored or exposed:
            self.result.inserted[index] = 1.0 / out
        else:
            for name in filter(None, proto.output):
                factors[name] = out
                for reader, _ in self.topology.consumers.get(name, ()):
                    self.ahead.add(reader)

    def _passed(self, index: int, proto: NodeProto, given: dict[int, float]) -> float:
        """What becomes of the factors of a node's inputs. Raises _Stuck where one cannot be carried on."""
        op, first = proto.op_type, next(iter(given))
        known = [
            i for i, name in enumerate(proto.input) if i not in given and name and self.over.is_known(name)
        ]
        f = given[first]
        if (self.over.is_linear(proto) or op in ("Abs", "Relu")) and first == 0:
            return f
        if op == "Sqrt":
            return sqrt(f)
        if op == "Reciprocal":
            return 1.0 / f
        if op == "Pow" and first == 0:
            exponent = self.over.value(proto.input[1])
            if exponent is not None and exponent.size == 1:
                return float(f ** float(exponent.reshape(-1)[0]))
        alike = len(set(given.values())) == 1 and len(known) + len(given) == len(proto.input)
        if op in ("Add", "Sub", "Max", "Min") and alike and all(self._take(index, i, f) for i in known):
            return f
        if op == "Mul":
            if known and self._take(index, known[0], 1.0 / f):
                return 1.0
            return given.get(0, 1.0) * given.get(1, 1.0)
        if op == "Div":
            if known and self._take(index, known[0], f):
                return 1.0
            return given.get(0, 1.0) / given.get(1, 1.0)
        if (
            op in ("MatMul", "Gemm", "Conv")
            and known
            and known[0] <= 1
            and self._take(index, known[0], 1.0 / f)
        ):
            return 1.0
        raise _Stuck(proto.input[first])

    def _take(self, index: int, i: int, factor: float) -> bool:
        """Scale a constant or what is computed from constants; whether that is possible."""
        name = self.topology.proto(index).input[i]
        if name in self.analysis.constants:
            return self._take_constant((index, i), name, factor)
        producer = self.topology.producers.get(name)
        if producer is None or len(self.topology.consumers[name]) > 1 or not self.over.is_known(name):
            return False
        proto = self.topology.proto(producer)
        if self.over.is_move(proto):
            return self._take(producer, 0, factor)
        if proto.op_type in ("Add", "Sub"):
            if not all(self._take(producer, k, factor) for k in (0, 1)):
                raise NotLinear(f"{self.over.label(producer)} cannot be scaled")
            return True
        return proto.op_type in ("Mul", "Div") and self._take(producer, 0, factor)

    def _take_constant(self, place: Place, name: str, factor: float) -> bool:
        if self.analysis.shapes.dtype.get(name) not in FLOATS:
            return False
        value = self.over.value(name)
        if value is not None and value.size == 1:
            dtype = helper.tensor_dtype_to_np_dtype(self.analysis.shapes.dtype[name])
            wanted = float(value.reshape(-1)[0]) * factor
            rounded = float(np.asarray(wanted).astype(dtype))
            if abs(rounded - wanted) > _COARSE * abs(wanted):
                raise NotLinear(
                    f"{self.over.label(place[0])} adds {wanted / factor:.1e}, which is too small to be scaled"
                )
        self.result.factors[place] = self.result.factors.get(place, 1.0) * factor
        return True

    def _has_output(self, proto: NodeProto, o: int | None) -> bool:
        return o is not None and o < len(proto.output) and bool(proto.output[o])
