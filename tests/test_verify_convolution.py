import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from graphs import model
from onnx_grow.verification.convolution import Conv

