"""The command line: parse, call the public API, render. Nothing heavy is imported before a command runs."""

from onnx_grow.cli.app import main

__all__ = ["main"]
