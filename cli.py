"""Run the command line from a checkout: `python cli.py widen model.onnx`."""

from onnx_grow.__main__ import run

if __name__ == "__main__":
    run()
