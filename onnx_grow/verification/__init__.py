"""Proof that a grown model computes what the original computes: same inputs through both, errors against measured noise."""

from __future__ import annotations

from onnx_grow.verification.promotion import doubled
from onnx_grow.verification.proof import EXACT, Proof, prove
from onnx_grow.verification.providers import Device, choose
from onnx_grow.verification.report import Check, Output, Report
from onnx_grow.verification.trace import Departure, trace
from onnx_grow.verification.verification import Standard, verify

__all__ = [
    "EXACT",
    "Check",
    "Departure",
    "Device",
    "Output",
    "Proof",
    "Report",
    "Standard",
    "choose",
    "doubled",
    "prove",
    "trace",
    "verify",
]
