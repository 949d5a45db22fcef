"""Concrete shapes, dtypes and known values of every tensor of a model's main graph."""

from onnx_grow.shapes.evaluation import evaluate
from onnx_grow.shapes.inference import Shapes, infer
from onnx_grow.shapes.sizes import candidates

__all__ = ["Shapes", "candidates", "evaluate", "infer"]
