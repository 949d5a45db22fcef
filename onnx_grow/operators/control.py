"""Operators with graphs of their own, lists of tensors, and signals.

Bodies are part of the graph (`onnx_grow.model.bodies`), so that only their borders are left to describe. A state of a Loop or Scan is one
tensor for all iterations: initial value = input of the body = result of the body = final value.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx_grow.axes.algebra import Dim, size
from onnx_grow.axes.equations import Node, Rule, Unsupported, unsupported
from onnx_grow.model.bodies import ENTRY, EXIT, FORMALS, JOIN

_BODIES = "If Loop Scan SequenceMap"
_LISTS = """
    ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence
    Optional OptionalGetElement OptionalHasElement
"""
_SIGNALS = "BlackmanWindow DFT HammingWindow HannWindow MelWeightMatrix STFT"
_TEXTS = "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer"
_OF_TENSORRT = "DisentangledAttention_TRT EfficientNMS_TRT MultilevelCropAndResize_TRT PyramidROIAlign_TRT"
_IN_BLOCKS = """
    AveragePool Conv GlobalAveragePool GlobalMaxPool MaxPool ReorderInput ReorderOutput Upsample
"""
_LOSSES = "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss"


def _enter(node: Node) -> None:
    """(M, condition, states...) -> (iteration, condition, states...) of a Loop; (states..., scanned...) of a Scan."""
    first = 2 if node.op == "Loop" else 0
    scanned = node.attribute("num_scan_inputs", 0)
    axes = node.attribute("scan_input_axes") or [0] * scanned
    for o in range(first):
        node.set(o, [() for _ in node.out_shape(o)])
    for k in range(first, len(node.dims)):
        if not node.has(k):  # it is read from outside
            continue
        dims = list(node.input(k))
        j = k - (len(node.dims) - scanned)
        if j >= 0:
            node.freeze(dims.pop(node.axis(axes[j], len(dims))), "it is iterated over")
        for dim in dims if j < 0 else ():
            node.replicate(dim, "what is not a copy may grow beyond bounds with the iterations")
        node.set(k, dims)
    node.apart()


def _exit(node: Node) -> None:
    for k in range(len(node.dims)):
        if node.has(k):
            node.set(k, node.input(k))
    node.apart()


def _iterate(node: Node) -> None:
    """(formal inputs..., results...) -> (final states..., collected results...)."""
    first = 2 if node.op == "Loop" else 0
    formals = node.attribute(FORMALS)
    carried = formals - first - node.attribute("num_scan_inputs", 0)
    results = formals + first // 2
    for k in range(carried):
        if node.has(first + k):
            initial, last = node.input(first + k), node.input(results + k)
            if node.shape(first + k) != node.shape(results + k):
                raise Unsupported("a state changes its shape from one iteration to the next")
            for a, b in zip(initial, last, strict=True):
                node.unify(a, b)
            node.set(k, initial)
    axes = node.attribute("scan_output_axes") or [0] * len(node.out_shapes)
    for j, o in enumerate(range(carried, len(node.out_shapes))):
        if node.out_shapes[o] is not None:
            dims = list(node.input(results + o))
            place = node.axis(axes[j], len(dims) + 1)
            dims.insert(place, node.frozen(node.out_shape(o)[place], "it has one entry for each iteration"))
            node.set(o, dims)
    node.apart()


def _choose(node: Node) -> None:
    """(condition, results of one branch..., of the other...) -> results.

    A branch that is never taken may differ; by dimensions of size 1 only, as Squeeze does, its channels are the same.
    """
    count = len(node.out_shapes)
    condition = node.values[0]
    unknown = condition is None or condition.size != 1 or node.jumps(0)
    taken = None if condition is None or unknown else 0 if condition.all() else 1
    for o in range(count):
        results = [node.dims[1 + o], node.dims[1 + count + o]]
        wanted = [
            dims for branch, dims in enumerate(results) if taken in (None, branch) or _are(dims, node, o)
        ]
        if not all(_are(dims, node, o) for dims in wanted):
            raise Unsupported(
                "what its branches result in has different shapes, or shapes that are not known"
            )
        chosen = wanted[0] or ()
        for dims in results:
            _equate(node, chosen, dims or ())
        node.set(o, chosen)
    node.apart()


def _are(dims: Sequence[Dim] | None, node: Node, o: int) -> bool:
    return dims is not None and tuple(map(size, dims)) == node.out_shapes[o]


def _equate(node: Node, chosen: Sequence[Dim], other: Sequence[Dim]) -> None:
    """Make the dimensions of both branches the same, but for those of size 1; freeze the other's where they differ in more."""
    here, there = ([dim for dim in dims if size(dim) != 1] for dims in (chosen, other))
    if list(map(size, here)) == list(map(size, there)):
        for a, b in zip(here, there, strict=True):
            node.unify(a, b)
    else:
        for dim in other:
            node.freeze(dim, "the branch that is not taken results in another shape")


RULES = {
    **{
        ("com.microsoft.nchwc", op): Rule(
            unsupported("it was laid out for one machine: grow the model that it was optimised from")
        )
        for op in _IN_BLOCKS.split()
    },
    **{
        ("ai.onnx.preview.training", op): Rule(
            unsupported("it trains, and what it trains would have to grow with it")
        )
        for op in ("Adagrad", "Adam", "Gradient", "Momentum")
    },
    ("ai.onnx.preview", "FlexAttention"): Rule(unsupported("what its bodies compute is not analysed")),
    **{
        ("", op): Rule(unsupported(reason))
        for operators, reason in (
            (_BODIES, "what its body computes is not analysed"),
            (_LISTS, "it works on a list of tensors, or on one that may be missing"),
            (_SIGNALS, "it works on a signal as a whole"),
            (_TEXTS, "it works on texts"),
            (_LOSSES, "it is a loss, which depends on how many classes there are"),
            ("ImageDecoder ImageScaler", "it makes pictures with as many channels as its attributes say"),
            (
                "MemcpyFromHost MemcpyToHost",
                "ONNX Runtime puts it in by itself, and should have the model without it",
            ),
            (_OF_TENSORRT, "it runs in TensorRT only"),
            (
                "DynamicSlice GRUUnit GivenTensorFill",
                "it is an experiment of the past, with no definition to rely on",
            ),
        )
        for op in operators.split()
    },
}
RULES |= {
    (ENTRY, "If"): Rule(lambda node: None),
    (ENTRY, "Loop"): Rule(_enter),
    (ENTRY, "Scan"): Rule(_enter),
    **{(EXIT, op): Rule(_exit) for op in ("If", "Loop", "Scan")},
    (JOIN, "If"): Rule(_choose),
    (JOIN, "Loop"): Rule(_iterate),
    (JOIN, "Scan"): Rule(_iterate),
}
