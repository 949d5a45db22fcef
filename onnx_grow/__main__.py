"""`python -m onnx_grow` is `onnx-grow`."""

from onnx_grow.cli import main

main(prog_name="onnx-grow")
