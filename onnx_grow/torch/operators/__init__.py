"""What every operator computes: one function each, in files by family.

A function takes the inputs of a node in order (None for one that is left out) and its attributes as keywords, under their ONNX names
and with ONNX's defaults. An input annotated `Host` comes as a NumPy array. Keywords that are no attributes: `opset` (version of the
operator set) and `outputs` (how many a node has) where behaviour depends on them, `training` and `device` of the run.

A function of `HOST` has the same form and computes the same from arrays alone; it answers NotImplemented where it does not.
"""

from __future__ import annotations

from onnx_grow.torch.operators import (
    attention,
    contraction,
    control,
    detection,
    elementwise,
    experts,
    generation,
    host,
    indexing,
    microsoft,
    ml,
    movement,
    normalization,
    packed,
    pooling,
    quantization,
    recurrent,
    reduction,
    resampling,
    sequences,
    signal,
)
from onnx_grow.torch.operators.unsupported import Unsupported

TABLE = {
    **attention.TABLE,
    **contraction.TABLE,
    **control.TABLE,
    **detection.TABLE,
    **elementwise.TABLE,
    **experts.TABLE,
    **generation.TABLE,
    **indexing.TABLE,
    **microsoft.TABLE,
    **ml.TABLE,
    **movement.TABLE,
    **normalization.TABLE,
    **packed.TABLE,
    **pooling.TABLE,
    **quantization.TABLE,
    **recurrent.TABLE,
    **reduction.TABLE,
    **resampling.TABLE,
    **sequences.TABLE,
    **signal.TABLE,
}
"""The functions, by domain and operator."""
HOST = host.TABLE
"""Those that work on the host."""

__all__ = ["HOST", "TABLE", "Unsupported"]
