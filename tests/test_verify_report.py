import json
import math
from dataclasses import replace

import pytest

from onnx_grow.errors import VerificationFailedError
from onnx_grow.verification import Check, Output, Report

GOOD = Output("logits", "float32", False, 2e-7, 4e-7, 3e-7, 5e-7, 0.8, "seed 1, scale 1: x 2x3", 1.0)
BAD = replace(GOOD, name="boxes", error_l2=1e-3, ratio=3333.3, top1=None)
FLIPPED = replace(GOOD, name="label", exact=True, error_l2=0.25, ratio=math.inf, top1=None)
LOST = replace(GOOD, name="lost", error_l2=math.inf, error_max=math.inf, ratio=math.inf, top1=None)


UNCHANGED = Check("versions", True, "unchanged")


def report(*outputs, checks=(UNCHANGED,), warnings=()):
    return Report(
        "cpu",
        "CPU (CUDA does not answer: no NVIDIA driver)",
        3.0,
        ("seed 0", "seed 1"),
        outputs,
        checks,
        warnings,
        1.25,
    )


def test_everything_has_to_hold():
    assert report(GOOD).ok
    assert report(replace(GOOD, ratio=3.0)).ok
    assert not report(GOOD, BAD).ok
    assert not report(GOOD, checks=(Check("versions", False, "changed"),)).ok
    assert report(GOOD, BAD).ratio == 3333.3
    assert report().ratio == 0


def test_a_failure_is_raised_on_request_and_names_everything():
    good = report(GOOD)
    assert good.raise_if_failed() is good
    with pytest.raises(VerificationFailedError) as raised:
        report(
            BAD, FLIPPED, LOST, checks=(Check("versions", False, "IR version 8 became 9"),)
        ).raise_if_failed()
    message = str(raised.value)
    assert "versions: IR version 8 became 9" in message
    assert (
        "output 'boxes' deviates by 3e+03 times the original's own rounding noise, 3 times is allowed"
        in message
    )
    assert "output 'label' differs in 25.00% of its elements" in message
    assert "output 'lost' cannot be compared" in message
    assert raised.value.exit_code == 1


def test_the_first_line_says_which_device_ran_and_why():
    assert (
        str(report(GOOD)).splitlines()[0]
        == "equal on CPU (CUDA does not answer: no NVIDIA driver); 2 inputs, 1.2 s"
    )
    assert str(report(BAD)).startswith("NOT EQUAL on CPU")


def test_the_text_shows_errors_beside_noise_the_worst_first():
    lines = str(report(GOOD, BAD, warnings=("the output is constant",))).splitlines()
    assert lines[3].split()[:4] == ["boxes", "l2", "1.0e-03", "3.0e-07"]
    assert "FAIL (seed 1, scale 1: x 2x3)" in lines[3]
    assert lines[4].split()[:5] == ["logits", "max", "4.0e-07", "5.0e-07", "0.80"]  # these divide
    assert "same top class: 100.0%" in lines[4]
    assert lines[5] == "  warning: the output is constant"


def test_the_text_fits_a_screen_and_a_terminal():
    many = [
        replace(GOOD, name=f"output {index} \x1b[31m\nof a very long name indeed") for index in range(500)
    ]
    text = str(report(*many, warnings=[f"warning {index}" for index in range(500)]))
    assert len(text.splitlines()) < 40
    assert "and 488 more" in text
    assert "\x1b" not in text


def test_json_has_stable_keys_and_no_infinities():
    value = json.loads(json.dumps(report(GOOD, LOST, warnings=("w",)).to_json(), allow_nan=False))
    assert list(value) == [
        "ok", "provider", "device", "tolerance", "max_error", "seconds", "ratio", "float64", "recorded", "inputs", "checks", "outputs",
        "warnings",
    ]  # fmt: skip
    assert value["checks"] == [{"name": "versions", "ok": True, "detail": "unchanged"}]
    assert list(value["outputs"][0]) == [
        "name", "dtype", "exact", "error_l2", "error_max", "noise_l2", "noise_max", "ratio", "worst_input", "top1", "excused",
        "norm", "ok", "why",
    ]  # fmt: skip
    assert value["outputs"][1]["ratio"] is None
    assert value["ok"] is False


@pytest.mark.parametrize(
    ("allowed", "verdict"),
    [
        ({}, "equal on"),
        ({"tolerance": 1.0}, "equal on"),
        ({"tolerance": 100.0}, "within 100 x noise on"),
        ({"max_error": 0.01}, "within 0.01 on"),
        ({"max_error": 1e-9}, "NOT EQUAL on"),
    ],
)
def test_the_verdict_says_equal_only_where_no_more_was_allowed(
    allowed: dict[str, float], verdict: str
) -> None:
    assert str(replace(report(GOOD), **allowed)).startswith(verdict)


def test_in_a_notebook():
    text = report(GOOD, warnings=("a < b",))._repr_html_()
    assert text.startswith("<pre>equal on CPU")
    assert text.endswith("warning: a &lt; b</pre>")
