"""Random graphs, grown in random ways: ONNX Runtime loads the result, and it computes what the original computes.

What counts as the same is measured, not chosen: the original's own weights and inputs are moved by rounding errors, and a result may
differ by a small multiple of what that does. Graphs are of double precision where ONNX Runtime has the kernels, so that rounding is nine
orders of magnitude below an error. float16 graphs are judged in double precision too, by files whose weights are the same numbers; what
single precision cannot tell apart is decided by onnx's own evaluator in double.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from random_graphs import Choices, Graph
from random_networks import SINGLE, random_graph

from onnx_grow.axes.table import KINDS
from onnx_grow.errors import NothingToGrowError
from onnx_grow.growth import AxisGrowth, WidenPlan, apply, deepen, history, inspect, widen
from onnx_grow.growth.deepen_plan import DeepenPlan, DeepenScheme
from onnx_grow.growth.plan import DEFAULT_KINDS, Scheme
from onnx_grow.model import Model, load
from onnx_grow.shapes import infer as infer_shapes
from onnx_grow.verification.replay import replay

Arrays = dict[str, np.ndarray]
Setting = int | Mapping[str, Sequence[int]]

SCHEMES = ("auto", "split", "copy", *get_args(Scheme))
DEEPEN_SCHEMES = (None, *get_args(DeepenScheme))
PRECISIONS = {"double": (np.float64, np.float32), "single": (np.float32,), "half": (np.float16, np.float32)}
IN_SINGLE = frozenset({"GroupNormalization", "RMSNormalization"})
"""Operators that compute in single precision whatever their operands are."""
UNSTABLE = 0.05
"""Relative noise above which an output proves nothing."""
SECOND_LOOK = 8
"""Further measurements of the noise before an output counts as wrong."""


class Wrong(AssertionError):
    """Growth broke a promise."""


class Inexact(Wrong):
    """Numbers differ by `ratio` times what rounding is thought to explain."""

    def __init__(self, message: str, ratio: float) -> None:
        super().__init__(message)
        self.ratio = ratio


@dataclass(frozen=True)
class Outcome:
    """What became of a graph: "grown", "nothing to grow", "unusable" (ONNX Runtime does not run the original), or "rounding":
    grown, and the same in double precision, but in its own so sensitive that it proves nothing.

    `operators` are those of the graph, `touched` those of which an operand or a result grew.
    """

    kind: str
    axes: int = 0
    dtype: str = ""
    steps: tuple[str, ...] = ()
    operators: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()


# How a graph grows


@dataclass(frozen=True)
class Widening:
    """`share` is the percentage of growable axes that do grow, all of `kinds` when it is 100; with `more`, one axis alone grows by that
    many channels; with `budget`, the model grows to that many times its parameters. Where that is nothing, all that can grows by two."""

    factor: float
    scheme: Any
    kinds: tuple[str, ...]
    share: int
    more: int = 0
    seed: int = 0
    budget: float = 0.0
    multiple: int = 1

    @classmethod
    def of(cls, choices: Choices) -> Widening:
        return cls(
            choices.pick((2.0, 1.5, 3.0, 1.3, 1.1, 2.5)),
            choices.pick(SCHEMES),
            choices.pick((KINDS, DEFAULT_KINDS)),
            choices.pick((100, 100, 50, 20)),
            choices.pick((0, 0, 0, 0, 3)),
            choices.below(3),
            choices.pick((0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.8)),
            choices.pick((1, 1, 1, 1, 1, 1, 1, 4)),
        )

    def __str__(self) -> str:
        return f"widen:{self.scheme}"

    def grow(self, model: Model, noise: float) -> Model:
        """The model, wider. Raises NothingToGrowError where nothing can grow by any whole factor."""
        settings: dict[str, Any] = {"scheme": self.scheme, "noise": noise, "seed": self.seed}
        try:
            return widen(model, kind=self.kinds, multiple_of=self.multiple, **settings, **self._which(model))
        except NothingToGrowError:
            return widen(model, factor=2.0, kind=KINDS, **settings)

    def _which(self, model: Model) -> dict[str, Any]:
        if self.budget and model.parameters:
            return {"to_params": round(model.parameters * self.budget)}
        if self.share == 100 and not self.more:
            return {"factor": self.factor}
        rng = np.random.default_rng(self.seed)
        rows = inspect(model).growable
        if not rows:
            return {"factor": self.factor}
        if self.more:
            row = rows[rng.integers(len(rows))]
            return {"widths": {row.name: row.size + self.more}}
        chosen = [row.name for row in rows if rng.integers(100) < self.share] or [rows[0].name]
        return {"factor": self.factor, "only": chosen}


@dataclass(frozen=True)
class Deepening:
    """A layer after every so many places, of one scheme or of the one that fits."""

    scheme: Any
    every: int | None
    seed: int
    expansion: float = 1.0
    activation: str | None = None

    @classmethod
    def of(cls, choices: Choices) -> Deepening:
        return cls(
            choices.pick(DEEPEN_SCHEMES),
            choices.pick((1, 2, None)),
            choices.below(3),
            choices.pick((1.0, 1.0, 0.5, 2.0)),
            choices.pick((None, None, None, "Relu", "Tanh")),
        )

    def __str__(self) -> str:
        return f"deepen:{self.scheme or 'default'}"

    def grow(self, model: Model, noise: float) -> Model:
        """The model, deeper. Raises NothingToGrowError where nothing can be inserted."""
        settings: dict[str, Any] = {}
        if self.scheme in (None, "residual-new"):
            settings["expansion"] = self.expansion
        if self.scheme in (None, "residual-new", "parametric"):
            settings["activation"] = self.activation
        return deepen(model, scheme=self.scheme, every=self.every, seed=self.seed, **settings)


Step = Widening | Deepening


@dataclass(frozen=True)
class Request:
    """The precision of a graph, and how it grows, one step after the other."""

    precision: str
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, choices: Choices) -> Request:
        precision = choices.pick(("double", "single", "double", "single", "half"))
        kinds = choices.pick((*["w"] * 10, "ww", "ww", "d", "wd", "wd", "dw", "dw", "dwd", "wdw"))
        return cls(
            precision, tuple(Widening.of(choices) if kind == "w" else Deepening.of(choices) for kind in kinds)
        )

    def graph(self, choices: Choices, dtype: Any, wide: bool = False) -> tuple[Graph, onnx.ModelProto]:
        """The graph that the remaining choices make; `wide`: with all weights of that type."""
        return random_graph(
            choices, dtype, avoided=SINGLE if self.precision == "double" else frozenset(), wide=wide
        )


# Original and result, run and compared


def session(proto: onnx.ModelProto, optimised: bool = False) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


@dataclass
class Subject:
    """A graph that ONNX Runtime runs, in its own precision and in that of `judge`, where numbers are compared."""

    graph: Graph
    proto: onnx.ModelProto
    judge: Any
    unit: float
    opened: Callable[..., Any] = session

    def __post_init__(self) -> None:
        original = self.promoted(self.proto)
        self.runner = self.opened(original)
        self.moved = [(self.opened(original, optimised=True), 0), (self.opened(self._shaken(1)), 1)]

    def promoted(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        return proto if self.judge == self.graph.dtype else promoted(proto, self.judge)

    def feeds(self, setting: Setting) -> Arrays:
        feeds = self.graph.feeds(setting)
        return {k: a.astype(self.judge) if a.dtype == self.graph.dtype else a for k, a in feeds.items()}

    def look_again(self) -> None:
        """Measure the noise several more times."""
        self.moved += [(self.opened(self._shaken(seed)), seed) for seed in range(2, 2 + SECOND_LOOK)]

    def expected(self, setting: Setting) -> tuple[list[np.ndarray], list[float]] | None:
        """The outputs at one setting, and how far rounding moves each; None if they are of no use."""
        feeds = self.feeds(setting)
        try:
            plain = arrays(self.runner, feeds)
            others = [arrays(runner, self._moved(feeds, seed)) for runner, seed in self.moved]
        except Exception:  # sizes that this graph does not take
            return None
        noises = []
        for k, y in enumerate(plain):
            if not np.abs(y).max(initial=0) <= 1e6 or any(other[k].shape != y.shape for other in others):
                return None
            noises.append(max(float(np.abs(other[k] - y).max(initial=0)) for other in others))
        return plain, noises

    def _shaken(self, seed: int) -> onnx.ModelProto:
        return self.promoted(shaken(self.proto, self.unit, seed))

    def _moved(self, feeds: Arrays, seed: int) -> Arrays:
        rng = np.random.default_rng([seed, 2])
        return {
            name: (a * (1 + self.unit * seed * rng.choice((-1.0, 1.0), a.shape))).astype(a.dtype)
            if a.dtype == self.judge
            else a
            for name, a in feeds.items()
        }


def arrays(runner: Any, feeds: Arrays) -> list[np.ndarray]:
    return [np.asarray(array) for array in runner.run(None, feeds)]


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and constants, those of bodies too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def promoted(proto: onnx.ModelProto, dtype: Any) -> onnx.ModelProto:
    """The same numbers as a model of another type, in place of float16."""
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    old, new = TensorProto.FLOAT16, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for tensor in tensors(out.graph):
        if tensor.data_type == old:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    stack = [out.graph]
    while stack:
        graph = stack.pop()
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.type.tensor_type.elem_type == old:
                info.type.tensor_type.elem_type = new
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            if attribute.HasField("g"):
                stack.append(attribute.g)
            if attribute.name == "to" and attribute.i == old:
                attribute.i = new
    return out


def shaken(proto: onnx.ModelProto, unit: float, seed: int) -> onnx.ModelProto:
    """The model with every weight moved by a random relative error of `unit`; whole numbers and single ones are meant exactly.

    Attributes that growth may change are of single precision in any file, and move by that.
    """
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    rng = np.random.default_rng([seed, 3])
    for tensor in tensors(out.graph):
        if (
            tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
            and prod(tensor.dims) > 1
        ):
            array = numpy_helper.to_array(tensor)
            moved = (array * (1 + unit * rng.choice((-1.0, 1.0), array.shape))).astype(array.dtype)
            moved = np.where(array == np.rint(array), array, moved)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    for attribute in (attribute for node in nodes(out.graph) for attribute in node.attribute):
        if attribute.name in ("epsilon", "scale"):
            attribute.f *= 1 + rng.choice((-1.0, 1.0)) * float(np.finfo(np.float32).eps)
    return out


def subject(taken: Sequence[int], request: Request) -> Subject | None:
    """The graph of some choices in the precision asked for or the next that ONNX Runtime has the kernels of; None if in none."""
    for dtype in PRECISIONS[request.precision]:
        choices = Choices.replayed(taken)
        Request.of(choices)
        graph, proto = request.graph(choices, dtype)
        unit = unit_of(proto, dtype, request)
        try:
            arrays(session(proto), graph.feeds(0))
        except Exception:  # ONNX Runtime's errors are not worth telling apart: such a graph is of no use
            continue
        for judge in (np.float64, np.float32) if dtype == np.float16 else (dtype,):
            try:
                return Subject(graph, proto, judge, unit)
            except Exception:  # no kernels in that precision
                continue
    return None


def unit_of(proto: onnx.ModelProto, dtype: Any, request: Request) -> float:
    """The relative error that every number of a graph may have."""
    unit = (2.0 if dtype != np.float16 else 0.5) * float(np.finfo(dtype).eps)
    if IN_SINGLE.intersection(node.op_type for node in nodes(proto.graph)):
        unit = max(unit, float(np.finfo(np.float32).eps))
    if any(getattr(step, "scheme", None) == "noise" for step in request.steps):
        unit = max(unit, noise_of(dtype))
    return unit


def noise_of(dtype: Any) -> float:
    """The noise of the scheme that has some: so small that what it does is proportional to it."""
    return {np.float64: 1e-12, np.float32: 1e-6, np.float16: 1e-3}[dtype]


# What growth must keep


def check(choices: Choices, repeat: bool = True) -> Outcome:
    """Draw a graph and a way to grow it, and do so. Raises Wrong where the result is not what it has to be."""
    request = Request.of(choices)
    request.graph(choices, np.float64)
    found = subject(choices.taken, request)
    if found is None:
        return Outcome("unusable")
    trial = Trial(found, request, choices.taken)
    if trial.expected[0] is None or trial.expected[1] is None:
        return Outcome("unusable")
    original = load(found.proto).to_proto().SerializeToString()
    for step in request.steps:
        trial.grow(step, repeat)
    if not trial.outcome.steps:
        trial.grow(Widening(2.0, "split", KINDS, 100), repeat)
    if repeat and load(found.proto).to_proto().SerializeToString() != original:
        raise Wrong("the original was changed")
    if repeat and trial.outcome.steps:
        _replayed(load(found.proto), load(trial.model.to_proto()))
    return trial.outcome


class Trial:
    """A graph on its way: what it has to compute, the model so far and what came of it."""

    def __init__(self, found: Subject, request: Request, taken: Sequence[int]) -> None:
        self.found, self.request, self.taken = found, request, taken
        self.model = load(found.proto)
        self.steps: list[Step] = []
        self.shapes = infer_shapes(self.model)
        self.settings: list[Setting] = [0, 1, 2, dict(self.shapes.inputs)]
        self.expected = [found.expected(setting) for setting in self.settings]
        self.outcome = Outcome(
            "nothing to grow",
            dtype=np.dtype(found.graph.dtype).name,
            operators=frozenset(map(name_of, nodes(found.proto.graph))),
        )

    def grow(self, step: Step, repeat: bool) -> None:
        """One step, if anything can grow; with `repeat` also that a second one gives the same bytes."""
        try:
            grown = step.grow(self.model, noise_of(self.found.graph.dtype))
        except NothingToGrowError:
            return
        self.steps.append(step)
        result, plan = grown.to_proto(), json.dumps(history(grown)[-1]["plan"])
        growths = WidenPlan.from_json(plan).axes if isinstance(step, Widening) else ()
        shapes = infer_shapes(grown, self.shapes.inputs)
        _same_interface(self.found.proto, result)
        touched = _promises(self.model, grown, growths, self.shapes.shape, shapes.shape)
        if repeat:
            _repeated(step, self.model, result, plan, noise_of(self.found.graph.dtype))
        kind = self._judged(result)
        before = self.outcome
        self.outcome = Outcome(
            "rounding" if "rounding" in (kind, before.kind) else "grown",
            before.axes + len(growths),
            before.dtype,
            (*before.steps, str(step)),
            before.operators,
            before.touched | touched,
        )
        self.model, self.shapes = grown, shapes

    def _judged(self, result: onnx.ModelProto) -> str:
        """ "rounding" where the numbers prove nothing. Raises Wrong, after a second look, where they are wrong."""
        try:
            return _compare(self.found, result, self.settings, self.expected)
        except Inexact:
            self.found.look_again()
            self.expected = [
                known and self.found.expected(s)
                for s, known in zip(self.settings, self.expected, strict=True)
            ]
        try:
            return _compare(self.found, result, self.settings, self.expected)
        except Inexact as error:
            exact = _exact_in_double(self.taken, self.request, self.steps)
            if exact is False or (exact is None and error.ratio > 30):
                raise
            return "rounding"


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of bodies too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def name_of(node: onnx.NodeProto) -> str:
    """An operator's name with its domain."""
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def _repeated(step: Step, model: Model, grown: onnx.ModelProto, plan: str, noise: float) -> None:
    """A second run, and a run of the plan, give the same bytes."""
    parsed = (WidenPlan if isinstance(step, Widening) else DeepenPlan).from_json(plan)
    for what, same in (("run", step.grow(model, noise)), ("run of the plan", apply(model, parsed))):
        if same.to_proto().SerializeToString() != grown.SerializeToString():
            raise Wrong(f"a second {what} gives other bytes")


def _replayed(original: Model, grown: Model) -> None:
    """All that the result records, done again, makes the result."""
    replayed = replay(original, grown)
    if replayed is None or not replayed.same:
        raise Wrong(replayed.told if replayed else "it records no growth")


def _compare(
    found: Subject, result: onnx.ModelProto, settings: Sequence[Setting], expected: Sequence[Any]
) -> str:
    """Whether the outputs are the same ("same"), or too unstable to tell ("rounding"). Raises Wrong otherwise."""
    try:
        runners = [found.opened(found.promoted(result))]
        if found.judge != found.graph.dtype:
            runners.append(session(result))
    except Exception as error:
        raise Wrong(f"ONNX Runtime does not load it: {error}") from error
    unstable = False
    for setting, known in zip(settings, expected, strict=True):
        if known is None:
            continue
        for runner in runners:
            own = runner is not runners[0]
            feeds = found.graph.feeds(setting) if own else found.feeds(setting)
            try:
                results = arrays(runner, feeds)
            except Exception as error:
                raise Wrong(f"it does not run at {setting}: {error}") from error
            for output, y, wanted, noise in zip(result.graph.output, results, *known, strict=True):
                if y.shape != wanted.shape:
                    raise Wrong(
                        f"output '{output.name}' has shape {y.shape}, not {wanted.shape}, at {setting}"
                    )
                if own:
                    continue  # rounded after every operator: that it runs is all that can be told
                unstable |= _differs(found, output.name, y, wanted, noise, setting)
    return "rounding" if unstable else "same"


def _differs(
    found: Subject, name: str, y: np.ndarray, wanted: np.ndarray, noise: float, setting: Setting
) -> bool:
    """Whether an output is too unstable to tell. Raises Inexact where it is not and differs."""
    size = max(float(np.abs(wanted).max(initial=0)), 1e-2)
    if noise > UNSTABLE * size:
        return True
    # Pictures are large at the sizes of inference, and sums over all of one in single precision accordingly bad.
    floor = 1e-9 if found.judge == np.float64 else 1e-5 if isinstance(setting, int) else 1e-3
    tolerance = max(floor, 2 * found.unit) * size + 20 * noise
    error = float(np.abs(y - wanted).max(initial=0))
    if not error <= tolerance:
        off = f"output '{name}' is off by {error:.3g} (allowed {tolerance:.3g})"
        raise Inexact(f"{off} at {setting}, {np.dtype(found.graph.dtype)}", error / tolerance)
    return False


def _exact_in_double(taken: Sequence[int], request: Request, steps: Sequence[Step]) -> bool | None:
    """Whether the same growth of the same graph is exact where all weights are of double precision; None if nobody can run that.

    ONNX Runtime tells where it has the kernels, otherwise onnx's own evaluator.
    """
    choices = Choices.replayed(taken)
    Request.of(choices)
    graph, proto = request.graph(choices, np.float64, wide=True)
    for opened in (session, _Evaluator):
        try:
            grown = load(proto)
            for step in steps:
                with suppress(NothingToGrowError):
                    grown = step.grow(grown, noise_of(np.float64))
            found = Subject(graph, proto, np.float64, unit_of(proto, np.float64, request), opened)
            found.look_again()
            return _compare(found, grown.to_proto(), [0], [found.expected(0)]) == "same"
        except Inexact:
            return False
        except Exception:  # some operators exist in single precision only, some only in ONNX Runtime
            continue
    return None


class _Evaluator:
    """onnx's own evaluator, as a session."""

    def __init__(self, proto: onnx.ModelProto, optimised: bool = False) -> None:
        self.evaluator = ReferenceEvaluator(proto)

    def run(self, names: None, feeds: Arrays) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            return self.evaluator.run(names, feeds)  # type: ignore[return-value]


def _same_interface(proto: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """Inputs and outputs stay what they are, and a file that is valid."""
    weights = {initializer.name for initializer in (*proto.graph.initializer, *result.graph.initializer)}
    for before, after in ((proto.graph.input, result.graph.input), (proto.graph.output, result.graph.output)):
        if [i for i in before if i.name not in weights] != [i for i in after if i.name not in weights]:
            raise Wrong("inputs or outputs changed")
    if _complaint(result) and not _complaint(proto):
        raise Wrong(f"onnx.checker: {_complaint(result)}")


def _complaint(proto: onnx.ModelProto) -> str:
    """What onnx has against a file: it does not know all operators that ONNX Runtime has in the standard's name."""
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        return str(error)
    return ""


def _promises(
    model: Model,
    grown: Model,
    axes: Sequence[AxisGrowth],
    old: Mapping[str, Sequence[int]],
    new: Mapping[str, Sequence[int]],
) -> set[str]:
    """That there are more weights, and that what the axes of a plan are dimensions of grew; the operators that touched it."""
    # A layer of one channel may have no parameters that are counted: single numbers in Constant nodes.
    deeper = not axes and len(grown.skeleton.graph.node) > len(model.skeleton.graph.node)
    if grown.parameters <= model.parameters and not deeper:
        raise Wrong(f"no weight grew for {axes}")
    graph = model.skeleton.graph
    named = {node.name or node.output[0]: node for node in graph.node}
    for growth in axes:
        # An axis has the name of the node that writes it or has it inside, or of a weight; the second of a node is called "...:2".
        node = named.get(growth.name.split(":")[0])
        tensors = [name for name in (*node.input, *node.output) if name in old] if node else ()
        if tensors and not any(name in new and prod(new[name]) > prod(old[name]) for name in tensors):
            raise Wrong(f"{growth.name} was to grow to {growth.new_size}, and nothing of it did")
    return {
        name_of(node)
        for node in nodes(graph)
        if any(old.get(name) != new.get(name) for name in (*node.input, *node.output) if name in new)
    }


# Small failures


def shrunk(
    taken: Sequence[int], fails: Callable[[Sequence[int]], bool], tries: int = 600, seconds: float = 120.0
) -> list[int]:
    """A shorter and smaller list of choices that still fails."""
    best = list(taken)
    left, end = tries, time.monotonic() + seconds

    def better(candidate: list[int]) -> bool:
        nonlocal best, left
        if left <= 0 or time.monotonic() > end or candidate == best:
            return False
        left -= 1
        if fails(candidate):
            best = candidate
            return True
        return False

    improved = True
    while improved and left > 0 and time.monotonic() < end:
        improved = False
        length = len(best) // 2
        while length:
            at = 0
            while at < len(best):
                if better(best[:at] + best[at + length :]):
                    improved = True
                else:
                    at += length
            length //= 2
        for k in range(len(best)):
            if k < len(best) and best[k]:
                improved |= better([*best[:k], 0, *best[k + 1 :]]) or better(
                    [*best[:k], best[k] // 2, *best[k + 1 :]]
                )
    return best
