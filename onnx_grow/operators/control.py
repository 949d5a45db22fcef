"""Operators with graphs of their own, lists of tensors, and signals: what they touch keeps its size, for a reason that can be told."""

from __future__ import annotations

from onnx_grow.axes.equations import Rule, unsupported

_BODIES = "If Loop Scan SequenceMap"
_LISTS = """
    ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence
    Optional OptionalGetElement OptionalHasElement
"""
_SIGNALS = "BlackmanWindow DFT HammingWindow HannWindow MelWeightMatrix STFT"
_TEXTS = "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer"
_LOSSES = "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss"

RULES = {
    ("", op): Rule(unsupported(reason))
    for operators, reason in (
        (_BODIES, "what its body computes is not analysed"),
        (_LISTS, "it works on a list of tensors, or on one that may be missing"),
        (_SIGNALS, "it works on a signal as a whole"),
        (_TEXTS, "it works on texts"),
        (_LOSSES, "it is a loss, which depends on how many classes there are"),
        ("ImageDecoder ImageScaler", "it makes pictures with as many channels as its attributes say"),
    )
    for op in operators.split()
}
