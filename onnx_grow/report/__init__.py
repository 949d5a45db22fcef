"""What people and programs read: tables and JSON documents, pure functions of the values of the other rooms."""

from onnx_grow.report.difference import Differences
from onnx_grow.report.growth import Growth
from onnx_grow.report.inspection import Inspection
from onnx_grow.report.verification import Verification

__all__ = ["Differences", "Growth", "Inspection", "Verification"]
