"""The rules: one file per family of operators, one line per operator where a signature says it."""

from __future__ import annotations

from onnx_grow.operators import (
    attention,
    contraction,
    control,
    elementwise,
    experts,
    generation,
    indexing,
    microsoft,
    ml,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    streaming,
)

RULES = {
    **elementwise.RULES,
    **contraction.RULES,
    **normalization.RULES,
    **pooling.RULES,
    **movement.RULES,
    **reduction.RULES,
    **generation.RULES,
    **recurrent.RULES,
    **attention.RULES,
    **quantization.RULES,
    **indexing.RULES,
    **microsoft.RULES,
    **ml.RULES,
    **experts.RULES,
    **streaming.RULES,
    **control.RULES,
}

__all__ = ["RULES"]
