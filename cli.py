"""Run the command line from a checkout: `python cli.py widen model.onnx`."""

from onnx_grow.cli import main

if __name__ == "__main__":
    main(prog_name="onnx-grow")
