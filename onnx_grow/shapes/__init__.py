"""Concrete shapes, dtypes and known values of every tensor of a model's main graph."""

from onnx_grow.shapes.evaluation import evaluate
from onnx_grow.shapes.inference import Shapes, asked, elsewhere, infer
from onnx_grow.shapes.jumps import may_jump
from onnx_grow.shapes.sizes import candidates

__all__ = ["Shapes", "asked", "candidates", "elsewhere", "evaluate", "infer", "may_jump"]
