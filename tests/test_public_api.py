"""`import onnx_grow as og`: every public name is there, documented, and cheap until it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import onnx_grow as og


def isolated(code: str) -> str:
    """What `code` prints in a fresh interpreter."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", og.__all__)
def test_every_name_is_there_and_documented(name):
    value = getattr(og, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert inspect.getdoc(value)
    assert name in dir(og)


@pytest.mark.parametrize("name", [name for name in og.__all__ if inspect.isfunction(getattr(og, name))])
def test_every_function_is_typed(name):
    signature = inspect.signature(getattr(og, name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'wident'"):
        og.wident  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    heavy = "'onnx', 'numpy', 'onnxruntime', 'onnx_graphsurgeon', 'rich', 'google.protobuf'"
    assert (
        isolated(f"import sys, onnx_grow; print([m for m in ({heavy}) if m in sys.modules])").strip() == "[]"
    )


def test_a_room_does_not_hide_the_function_of_the_same_name():
    code = "from onnx_grow.verification import Report; import onnx_grow as og; print(og.verify.__class__.__name__)"
    assert isolated(code).strip() == "function"


def test_the_package_is_typed_and_versioned():
    from importlib.metadata import version
    from importlib.resources import files

    assert og.__version__ == version("onnx-grow")
    assert (files("onnx_grow") / "py.typed").is_file()


def test_errors_are_one_family_with_exit_codes():
    codes = {
        error: error.exit_code
        for error in vars(og).values()
        if inspect.isclass(error) and issubclass(error, og.OnnxGrowError)
    }
    assert codes == {
        og.OnnxGrowError: 2,
        og.InvalidModelError: 2,
        og.InvalidRequestError: 2,
        og.OutputError: 2,
        og.NothingToGrowError: 3,
        og.DeviceUnavailableError: 4,
        og.MissingLibraryError: 2,
        og.TrainingFailedError: 1,
        og.UnsupportedOperatorError: 2,
        og.VerificationFailedError: 1,
    }
