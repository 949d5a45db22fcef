"""The command line as its users meet it: files, pipes, exit codes, messages."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import onnx
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from onnx_grow.axes.table import KINDS
from onnx_grow.cli import main, options, screen
from onnx_grow.errors import DeviceUnavailableError
from onnx_grow.report.figures import count, printable, size
from onnx_grow.verification import Check, Report, choose

ESCAPE = "\x1b"


def network(width: int = 8, seed: int = 0) -> onnx.ModelProto:
    """x [n, 3, 8, 8] -> Conv, Relu, Conv, Relu, pool, Gemm -> y [n, 5]."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (width, 3, 3, 3), "w2": (width, width, 3, 3), "w3": (5, width), "b3": (5,)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 3, name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "second", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"], "relu2"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "pool"),
        helper.make_node("Flatten", ["e"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        weights,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `model.onnx` in it."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "model.onnx")
    return tmp_path


def run(*args: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, args, input=stdin)


def process(*args: str, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnx_grow", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **settings)  # type: ignore[call-overload,no-any-return]


def refused(result: Result, code: int, *words: str) -> None:
    """One line that says what is wrong, perhaps one with a way out, and nothing else."""
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert result.stdout == ""
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: "))
    for word in words:
        assert word in result.stderr


def too_early(*args: object, **options: object) -> None:
    raise AssertionError("the long work has begun")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


class TestTheMainJob:
    def test_widen_writes_a_verified_file_beside_the_input(self, folder: Path) -> None:
        before = Path("model.onnx").read_bytes()
        result = run("widen", "model.onnx")
        assert result.exit_code == 0, result.output
        assert files(folder) == ["model-wide.onnx", "model.onnx"]
        assert Path("model.onnx").read_bytes() == before
        widths = {w.name: list(w.dims) for w in onnx.load("model-wide.onnx").graph.initializer}
        assert widths["w1"] == [16, 3, 3, 3]
        assert widths["w3"] == [5, 16]
        for part in (
            "2 axes",
            "equal on",
            "rounding noise",
            "1/10",
            "onnx-grow verify model.onnx model-wide.onnx",
        ):
            assert part in result.stdout
        assert str(Path("model-wide.onnx").stat().st_size)[:2] in result.stdout

    def test_deepen_writes_a_verified_file_beside_the_input(self, folder: Path) -> None:
        result = run("deepen", "model.onnx")
        assert result.exit_code == 0, result.output
        assert files(folder) == ["model-deep.onnx", "model.onnx"]
        assert len(onnx.load("model-deep.onnx").graph.node) > 7
        assert "equal on" in result.stdout

    def test_verify_accepts_what_widen_wrote(self, folder: Path) -> None:
        run("widen", "model.onnx", "-o", "wide.onnx", "-q")
        result = run("verify", "model.onnx", "wide.onnx")
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("equal on C")

    def test_inspect_lists_what_can_grow_and_what_cannot(self, folder: Path) -> None:
        result = run("inspect", "model.onnx")
        assert result.exit_code == 0, result.output
        for part in (
            "input   x float [n, 3, 8, 8]",
            "Can grow: 2 axes",
            "first",
            "second",
            "Cannot grow",
            "head",
        ):
            assert part in result.stdout
        assert files(folder) == ["model.onnx"]

    def test_options_reach_the_plan(self, folder: Path) -> None:
        result = run(
            "widen",
            "model.onnx",
            "--dry-run",
            "--json",
            "--width",
            "first=11",
            "--scheme",
            "copy",
            "--seed",
            "7",
        )
        plan = json.loads(result.stdout)["plan"]
        assert [(axis["name"], axis["new_size"]) for axis in plan["axes"]] == [("first", 11)]
        assert (plan["scheme"], plan["seed"]) == ("copy", 7)
        result = run(
            "widen",
            "model.onnx",
            "--dry-run",
            "--json",
            "--only",
            "sec*",
            "--factor",
            "1.5",
            "--shape",
            "x:2,3,8,8",
        )
        plan = json.loads(result.stdout)["plan"]
        assert [(axis["name"], axis["new_size"]) for axis in plan["axes"]] == [("second", 12)]
        assert plan["inputs"] == {"x": [2, 3, 8, 8]}

    def test_the_same_seed_gives_the_same_bytes(self, folder: Path) -> None:
        for output in ("a.onnx", "b.onnx"):
            assert run("widen", "model.onnx", "-o", output, "--seed", "3", "--no-verify").exit_code == 0
        assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()

    def test_a_dry_run_shows_the_plan_and_writes_nothing(self, folder: Path) -> None:
        for command, step in (("widen", "first"), ("deepen", "identity")):
            result = run(command, "model.onnx", "--dry-run")
            assert result.exit_code == 0, result.output
            assert step in result.stdout
            assert "(not written)" in result.stdout
        assert files(folder) == ["model.onnx"]

    def test_noise_is_not_held_against_the_result(self, folder: Path) -> None:
        result = run("widen", "model.onnx", "--scheme", "noise", "--noise", "0.05")
        assert result.exit_code == 0, result.output
        assert run("verify", "model.onnx", "model-wide.onnx").exit_code == 1

    def test_inputs_of_ones_own(self, folder: Path) -> None:
        np.savez("data.npz", x=np.ones((2, 3, 8, 8), np.float32))
        result = run("widen", "model.onnx", "--inputs", "data.npz", "--json")
        assert json.loads(result.stdout)["verification"]["inputs"][0].startswith("data.npz")
        refused(run("widen", "model.onnx", "-o", "2.onnx", "--inputs", "none.npz"), 2, "none.npz")
        assert files(folder) == ["data.npz", "model-wide.onnx", "model.onnx"]


class TestRecipes:
    """grow, and what --plan writes for it."""

    def test_a_recipe(self, folder: Path) -> None:
        Path("r.yaml").write_text("steps:\n- widen: {factor: 1.5}\n- deepen\n- widen: {to_params: 8x}\n")
        result = run("grow", "model.onnx", "r.yaml", "-v")
        assert result.exit_code == 0, result.output
        assert "model.onnx -> model-grown.onnx" in result.output
        assert "2 axes (2 hidden), then " in result.output
        assert "verified" in result.output
        assert run("verify", "model.onnx", "model-grown.onnx").exit_code == 0

    @pytest.mark.parametrize("command", ["widen", "deepen", "grow"])
    def test_a_plan_does_the_same_again(self, folder: Path, command: str) -> None:
        Path("r.yaml").write_text("[deepen, widen]")
        recipe = ("r.yaml",) if command == "grow" else ()
        result = run(command, "model.onnx", *recipe, "-o", "once.onnx", "--plan", "plan.yaml")
        assert result.exit_code == 0, result.output
        assert "plan           plan.yaml" in result.output
        result = run("grow", "model.onnx", "plan.yaml", "-o", "twice.onnx", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["plan"]["operation"] == "grow"
        assert Path("once.onnx").read_bytes() == Path("twice.onnx").read_bytes()

    def test_a_dry_run_writes_the_plan_alone(self, folder: Path) -> None:
        assert run("widen", "model.onnx", "--dry-run", "--plan", "plan.yaml").exit_code == 0
        assert files(folder) == ["model.onnx", "plan.yaml"]
        assert "{name: first, kind: hidden, size: 8, new_size: 16, " in Path("plan.yaml").read_text()

    def test_what_fails_leaves_no_plan(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        room = import_module("onnx_grow.verification")
        honest = room.verify
        gone = (Check("interface", False, "output 'y' is gone"),)
        monkeypatch.setattr(room, "verify", lambda *pair, **more: replace(honest(*pair, **more), checks=gone))
        assert run("widen", "model.onnx", "--plan", "plan.yaml").exit_code == 1
        assert files(folder) == ["model.onnx"]

    def test_where_a_plan_cannot_go(self, folder: Path) -> None:
        Path("there.yaml").touch()
        for name, why in (
            ("there.yaml", "exists"),
            ("no/plan.yaml", "does not exist"),
            ("model.onnx", "is a model"),
            ("model-wide.onnx", "is a model"),
            ("-", "is written to a file"),
        ):
            refused(run("widen", "model.onnx", "--plan", name), 2, why)
        assert files(folder) == ["model.onnx", "there.yaml"]
        assert run("widen", "model.onnx", "--plan", "there.yaml", "--force").exit_code == 0

    def test_noise_in_a_recipe(self, folder: Path) -> None:
        Path("r.yaml").write_text("[{widen: {scheme: noise}}, {widen: {factor: 1.5}}]")
        result = run("grow", "model.onnx", "r.yaml")
        assert result.exit_code == 0, result.output
        assert "equal without the noise asked for" in result.output

    def test_bad_recipes(self, folder: Path) -> None:
        Path("r.yaml").write_text("[widen, {widen: {factr: 2}}]")
        refused(
            run("grow", "model.onnx", "r.yaml"),
            2,
            "r.yaml, step 2 (widen): there is no key 'factr'",
            "'factor'",
        )
        Path("r.yaml").write_text("[{widen: {kind: heads}}]")
        refused(run("grow", "model.onnx", "r.yaml"), 3, "r.yaml, step 1 (widen): ")
        refused(run("grow", "model.onnx", "nope.yaml"), 2, "nope.yaml")
        refused(run("grow", "model.onnx"), 2, "RECIPE")
        document = json.loads(run("grow", "model.onnx", "r.yaml", "--json").stdout)
        assert (document["ok"], document["error"]["kind"]) == (False, "NothingToGrowError")

    def test_budgets(self, folder: Path) -> None:
        assert (
            run("widen", "model.onnx", "--to-params", "2x", "--multiple-of", "4", "-o", "w.onnx").exit_code
            == 0
        )
        refused(
            run("widen", "model.onnx", "--to-params", "800"), 2, "837 parameters", "leave nothing to grow"
        )
        refused(run("widen", "model.onnx", "--to-params", "838"), 3, "would exceed 838")
        refused(run("widen", "model.onnx", "--to-params", "2y"), 2, "'2y' is no number of parameters")
        refused(run("widen", "model.onnx", "--to-macs", "2x", "--factor", "2"), 2, "cannot both decide")


class TestDiff:
    def test_what_grew(self, folder: Path) -> None:
        run("widen", "model.onnx", "-o", "wide.onnx", "-q")
        run("deepen", "wide.onnx", "-o", "deep.onnx", "-q")
        result = run("diff", "model.onnx", "deep.onnx")
        assert result.exit_code == 0, result.output
        assert "w1 [8, 3, 3, 3] -> [16, 3, 3, 3]" in result.stdout
        assert "added" in result.stdout
        assert result.stdout.count("history ") == 2
        document = json.loads(run("diff", "model.onnx", "deep.onnx", "--json").stdout)
        assert document["difference"]["parameters"]["before"] == 837
        assert document["difference"]["same"] is False

    def test_no_difference(self, folder: Path) -> None:
        assert run("diff", "model.onnx", "model.onnx").stdout == "model.onnx and model.onnx: no difference\n"
        model = Path("model.onnx").read_bytes()
        assert run("diff", "-", "model.onnx", stdin=model).exit_code == 0
        refused(run("diff", "-", "-"), 2, "Only one of the two models")
        refused(run("diff", "model.onnx", "model.onn"), 2, "did you mean model.onnx?")


class TestTheSummary:
    def test_the_check_can_be_repeated_as_it_was(self, folder: Path) -> None:
        np.savez("my data.npz", x=np.ones((2, 3, 8, 8), np.float32))
        for arguments in (
            ["--inputs", "my data.npz", "--shape", "x:2,3,8,8", "--provider", "cpu"],
            ["--scheme", "noise", "--noise", "0.05"],
        ):
            result = run("widen", "model.onnx", "--force", *arguments)
            line = next(line for line in result.stdout.splitlines() if line.startswith("check again"))
            words = shlex.split(line.removeprefix("check again"))
            again = run(*words[1:])
            assert again.exit_code == 0, again.output
        result = run("widen", "model.onnx", "--force", "--no-verify", "--shape", "x:2,3,8,8")
        assert "model.onnx model-wide.onnx --shape=x:2,3,8,8" in result.stdout
        assert "not verified (--no-verify)" in result.stdout

    def test_the_ratio_is_of_the_two_numbers_beside_it(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        room = import_module("onnx_grow.verification")
        honest = room.verify

        def measured(*args: object, **options: object) -> Report:
            report: Report = honest(*args, **options)
            pairs = {"error_l2": 1e-7, "noise_l2": 2e-7, "error_max": 6e-7, "noise_max": 3e-7, "ratio": 2.0}
            return replace(report, outputs=(replace(report.outputs[0], **pairs),))

        monkeypatch.setattr(room, "verify", measured)
        shown = run("widen", "model.onnx").stdout
        assert "6.0e-07 (max), rounding noise of the original 3.0e-07: ratio 2.00" in shown

    def test_weights_in_a_file_beside_are_told(self, folder: Path) -> None:
        onnx.save_model(network(), "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
        assert "kB (with e.data)" in run("inspect", "e.onnx").stdout
        assert "(weights in e-wide.onnx.data)" in run("widen", "e.onnx").stdout
        document = json.loads(run("widen", "e.onnx", "--force", "--json").stdout)
        assert document["data_file"] == "e-wide.onnx.data"
        assert json.loads(run("widen", "model.onnx", "--json").stdout)["data_file"] is None

    def test_parameters_without_an_axis_are_counted(self, folder: Path) -> None:
        model = network()
        model.graph.node[-1].domain = "my.ops"
        model.opset_import.append(helper.make_opsetid("my.ops", 1))
        Path("custom.onnx").write_bytes(model.SerializeToString())
        assert "Without an axis" not in run("inspect", "model.onnx").stdout
        shown = run("inspect", "custom.onnx")
        assert "Without an axis: 45 of 837 parameters" in shown.stdout

    def test_a_dry_run_foretells_the_size(self, folder: Path) -> None:
        shown = run("widen", "model.onnx", "--dry-run").stdout
        run("widen", "model.onnx", "--no-verify")
        foretold = re.search(r"on disk .* -> about ([\d.]+) kB", shown)
        assert foretold
        assert float(foretold[1]) * 1000 == pytest.approx(Path("model-wide.onnx").stat().st_size, rel=0.02)

    def test_more_reasons_are_announced_where_there_are_more(self, folder: Path) -> None:
        growth = import_module("onnx_grow.report.growth")
        assert growth._reasons((("a", "it is so"),)) == "1: a, because it is so"
        assert growth._reasons((("a", "it is so"),) * 2) == "2: a, because it is so (-v lists all)"

    def test_calibration_that_nothing_needs_is_told(self, folder: Path) -> None:
        np.savez("data.npz", x=np.ones((2, 3, 8, 8), np.float32))
        shown = run("deepen", "model.onnx", "--calibration", "data.npz").stdout
        assert "--calibration was not used" in shown
        refused(run("deepen", "model.onnx", "--calibration", "none.npz"), 2, "--calibration", "none.npz")

    def test_names_and_commands_stay_whole_on_a_narrow_screen(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = "/encoder/" + "/".join(f"block{n}" for n in range(16)) + "/Conv"
        model = network()
        model.graph.node[0].name = long
        model.graph.node[-1].name = f"{long}/head"
        onnx.save(model, f"{'long' * 20}.onnx")
        monkeypatch.setattr(screen, "is_terminal", lambda stream: stream is sys.stdout)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", "dumb")
        for arguments in (
            ["inspect"],
            ["inspect", "-v"],
            ["widen", "--dry-run"],
            ["deepen", "--dry-run", "--every", "1"],
        ):
            shown = run(arguments[0], f"{'long' * 20}.onnx", *arguments[1:]).stdout
            assert long in shown.split(), shown
            assert arguments[0] != "inspect" or f"{long}/head" in shown.split(), shown
        result = run("widen", f"{'long' * 20}.onnx", "-o", "wide.onnx")
        assert f"onnx-grow verify {'long' * 20}.onnx wide.onnx\n" in result.stdout, result.output


class TestCompletion:
    @pytest.mark.parametrize(
        "words",
        [
            ["inspect"],
            ["widen"],
            ["verify"],
            ["verify", "a.onnx"],
            ["widen", "a.onnx", "-o"],
            ["deepen", "a.onnx", "--calibration"],
            ["widen", "a.onnx", "--inputs"],
        ],
    )
    def test_files_are_completed(self, words: list[str]) -> None:
        shell = ShellComplete(main, {}, "onnx-grow", "_ONNX_GROW_COMPLETE")
        assert [item.type for item in shell.get_completions(words, "m")] == ["file"]


class Said(Exception):
    """What a function of the API was called with."""

    def __init__(self, *values: object, **options: object) -> None:
        super().__init__()
        self.options = options


class TestOptions:
    """Every option arrives at the function it is for."""

    def said(self, monkeypatch: pytest.MonkeyPatch, function: str, *arguments: str) -> dict[str, object]:
        def say(*values: object, **options: object) -> None:
            raise Said(*values, **options)

        room, name = function.rsplit(".", 1)
        monkeypatch.setattr(import_module(room), name, say)
        with pytest.raises(Said) as said:
            CliRunner().invoke(
                click.Group("onnx-grow", commands=main.commands), arguments, catch_exceptions=False
            )
        return said.value.options

    def test_inspect(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        options = self.said(
            monkeypatch, "onnx_grow.growth.inspect", "inspect", "model.onnx", "--shape", "a:0:1,2"
        )
        assert options == {"shapes": {"a:0": (1, 2)}}

    def test_widen(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        line = "--factor 1.5 --width a=b=7 --width c=8 --kind heads --kind state --only x* --only y --scheme noise"
        line += " --multiple-of 8"
        options = self.said(
            monkeypatch,
            "onnx_grow.growth.widened",
            *("widen", "model.onnx", *line.split(), "--noise", "0.5", "--seed", "9", "--shape", "x:1,3,8,8"),
        )
        assert options == {
            "factor": 1.5,
            "widths": {"a=b": 7, "c": 8},
            "to_params": None,
            "to_macs": None,
            "multiple_of": 8,
            "kind": ("heads", "state"),
            "only": ("x*", "y"),
            "scheme": "noise",
            "noise": 0.5,
            "seed": 9,
            "shapes": {"x": (1, 3, 8, 8)},
        }
        for name in ("to_params", "to_macs"):
            budget = f"--{name.replace('_', '-')}=3x"
            options = self.said(monkeypatch, "onnx_grow.growth.widened", "widen", "model.onnx", budget)
            assert {key for key, value in options.items() if value == "3x"} == {name}

    def test_deepen(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("data.npz").touch()
        line = "--after a --after b --every 3 --scheme residual-new --activation Relu --expansion 2 --seed 9 --shape x:1"
        options = self.said(monkeypatch, "onnx_grow.growth.deepened", "deepen", "model.onnx", *line.split())
        assert options == {
            "after": ("a", "b"),
            "every": 3,
            "to_params": None,
            "scheme": "residual-new",
            "activation": "Relu",
            "expansion": 2.0,
            "calibration": None,
            "seed": 9,
            "shapes": {"x": (1,)},
        }
        line = "--to-params 2x --calibration data.npz"
        options = self.said(monkeypatch, "onnx_grow.growth.deepened", "deepen", "model.onnx", *line.split())
        assert (options["to_params"], options["calibration"]) == ("2x", "data.npz")

    def test_verify(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("data").mkdir()
        line = "--inputs data --shape x:1 --provider cpu --tolerance 2.5 --proof"
        options = self.said(
            monkeypatch, "onnx_grow.verification.verify", "verify", "model.onnx", "model.onnx", *line.split()
        )
        assert options == {
            "inputs": "data",
            "shapes": {"x": (1,)},
            "provider": "cpu",
            "seeds": None,
            "tolerance": 2.5,
            "max_error": None,
            "proof": True,
        }
        line = "--seeds 5 --max-error 0.5"
        options = self.said(
            monkeypatch, "onnx_grow.verification.verify", "verify", "model.onnx", "model.onnx", *line.split()
        )
        assert (options["seeds"], options["max_error"]) == (5, 0.5)

    @pytest.mark.parametrize("command", ["widen", "deepen"])
    def test_verification_of_growth(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        Path("data").mkdir()
        line = "--inputs data --shape x:1,3,8,8 --provider cpu --no-proof"
        options = self.said(
            monkeypatch, "onnx_grow.verification.verify", command, "model.onnx", *line.split()
        )
        expected = options.pop("expect")
        assert isinstance(expected, dict)
        assert expected["parameters"] > 837
        assert options == {
            "inputs": "data",
            "shapes": {"x": (1, 3, 8, 8)},
            "provider": "cpu",
            "seeds": None,
            "tolerance": 3.0,
            "proof": False,
            "replay": False,
        }
        options = self.said(monkeypatch, "onnx_grow.verification.verify", command, "model.onnx", "--seeds=1")
        assert options["seeds"] == 1


class TestFailedVerification:
    def test_a_wrong_model_is_told_with_figures(self, folder: Path) -> None:
        wrong = network()
        weight = wrong.graph.initializer[1]
        values = numpy_helper.to_array(weight).copy()
        values[0, 0] *= 1.01
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(wrong, "wrong.onnx")
        result = run("verify", "model.onnx", "wrong.onnx")
        assert result.exit_code == 1
        assert result.stdout.startswith("NOT EQUAL on C")
        assert "output 'y'" not in result.stderr
        assert result.stderr == "error: wrong.onnx does not compute what model.onnx computes\n"
        refused(run("verify", "model.onnx", "wrong.onnx", "--quiet"), 1, "output 'y' deviates")
        document = json.loads(run("verify", "model.onnx", "wrong.onnx", "--json").stdout)
        assert document["ok"] is document["verification"]["ok"] is False

    @pytest.mark.parametrize("command", ["widen", "deepen"])
    def test_nothing_is_written(self, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
        room = import_module("onnx_grow.verification")
        honest = room.verify

        def lying(*args: object, **options: object) -> Report:
            report: Report = honest(*args, **options)
            return replace(report, checks=(Check("interface", False, "output 'y' is gone"),))

        monkeypatch.setattr(room, "verify", lying)
        result = run(command, "model.onnx")
        assert result.exit_code == 1
        assert "(not written)" in result.stdout
        assert result.output.count("output 'y' is gone") == 1
        assert result.stderr == "error: verification failed, nothing was written\n"
        document = json.loads(run(command, "model.onnx", "--json").stdout)
        assert (document["ok"], document["output"], document["verification"]["ok"]) == (False, None, False)
        assert files(folder) == ["model.onnx"]


class TestBadUsage:
    @pytest.mark.parametrize("factor", ["1", "0.5", "-2", "0", "nan", "inf", "two", ""])
    def test_a_factor_that_grows_nothing(self, folder: Path, factor: str) -> None:
        refused(run("widen", "model.onnx", f"--factor={factor}"), 2, "--factor")

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--width", "first"],
            ["--width", "=3"],
            ["--width", "first=many"],
            ["--width", "first=0"],
            ["--shape", "x"],
            ["--shape", "x:1,b,8,8"],
            ["--shape", "x:1,3,-8,8"],
            ["--scheme", "magic"],
            ["--kind", "wheels"],
            ["--seed", "-1"],
            ["--noise", "0"],
            ["--provider", "tpu"],
        ],
    )
    def test_values_that_mean_nothing(self, folder: Path, arguments: list[str]) -> None:
        refused(run("widen", "model.onnx", *arguments), 2, arguments[0])

    def test_near_misses_get_a_suggestion(self, folder: Path) -> None:
        refused(run("widen", "model.onnx", "--fcator", "2"), 2, "--fcator", "did you mean --factor")
        refused(run("wident", "model.onnx"), 2, "wident", "did you mean widen?")
        refused(run("widen", "model.onnx", "--only", "frist"), 2, "frist", "did you mean 'first'?")
        refused(run("deepen", "model.onnx", "--after", "secnod"), 2, "secnod", "second")

    def test_words_to_choose_from_get_a_suggestion_too(self, folder: Path) -> None:
        refused(run("widen", "model.onnx", "--only", "frist*"), 2, "frist*", "did you mean 'first*'?")
        refused(run("deepen", "model.onnx", "--after", "*frist*"), 2, "did you mean '*first*'?")
        refused(run("widen", "model.onnx", "--scheme", "splitt"), 2, "--scheme", "did you mean split?")
        refused(run("deepen", "model.onnx", "--scheme", "residual-nev"), 2, "did you mean residual-new?")

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("widen m --width first=9 --factor 2", ["--factor", "--width says all"]),
            ("widen m --width first=9 --kind hidden", ["--kind", "--width says all"]),
            ("widen m --width first=9 --to-params 2x", ["widths and a number of parameters"]),
            ("widen m --to-params lots", ["'lots' is no number of parameters"]),
            ("widen m --to-macs 2x --factor 2", ["cannot both decide"]),
            ("widen m --factor 1e9", ["no axis can have 1e+09 times its channels"]),
            ("widen m --no-verify --proof", ["--proof: --no-verify"]),
            ("widen m --no-verify --no-proof", ["--no-proof: --no-verify"]),
            ("grow m recipe.yaml --no-verify --inputs .", ["--inputs: --no-verify"]),
            ("deepen m --no-verify --provider cpu --seeds 3", ["--provider and --seeds: --no-verify"]),
            ("deepen m --inputs . --seeds 3", ["--seeds", "beside --inputs"]),
            ("deepen m --scheme identity --expansion 2", ["no use for an expansion", "residual-new"]),
            ("deepen m --scheme residual-copy --activation Relu", ["no use for an activation"]),
            ("deepen m --scheme residual-new --calibration .", ["no use for calibration", "identity"]),
            ("deepen m --every 2 --to-params 2x", ["'every'", "cannot both decide"]),
            ("deepen m --to-params lots", ["'lots' is no number of parameters"]),
            ("inspect m -q -v", ["-q", "-v"]),
            ("verify m m --tolerance 2 --max-error 0.1", ["--tolerance: --max-error"]),
            ("verify m m --inputs . --seeds 2", ["--seeds", "--inputs"]),
            ("verify m m --jobs 2", ["--jobs", "--manifest"]),
            (
                "verify --manifest recipe.yaml --tolerance 2 --trace",
                ["--tolerance and --trace", "--manifest"],
            ),
            ("diff m m --force", ["--force", "--map"]),
        ],
    )
    def test_what_contradicts_itself_or_is_ignored(self, folder: Path, line: str, words: list[str]) -> None:
        Path("recipe.yaml").write_text("[widen]")
        command, *rest = line.split()
        for name in ("wide", "deep", "grown"):
            Path(
                f"m-{name}.onnx"
            ).touch()  # what is wrong with the arguments comes before what is there, even a model
        refused(run(command, *rest), 2, *words)

    def test_widths_beside_a_factor_for_the_others(self, folder: Path) -> None:
        line = "--width first=9 --only second --factor 3 --dry-run --json"
        plan = json.loads(run("widen", "model.onnx", *line.split()).stdout)["plan"]
        assert [axis["new_size"] for axis in plan["axes"]] == [9, 24]

    def test_a_recipe_is_read_before_anything_else(self, folder: Path) -> None:
        Path("model-grown.onnx").touch()
        Path("r.yaml").write_text("[{widen: {factr: 2}}]")
        refused(run("grow", "model.onnx", "r.yaml"), 2, "'factr'")

    def test_no_command_at_all_gets_the_help(self) -> None:
        result = run()
        assert (result.exit_code, result.stderr) == (0, "")
        assert "\n    onnx-grow widen   model.onnx      twice the width" in result.stdout
        assert result.stdout == run("--help").stdout

    def test_noise_that_no_scheme_makes(self, folder: Path) -> None:
        refused(run("widen", "model.onnx", "--noise", "0.1"), 2, "--noise goes with --scheme noise")

    def test_what_is_missing_is_named(self, folder: Path) -> None:
        refused(run("widen"), 2, "MODEL", "onnx-grow widen --help")
        refused(run("verify", "model.onnx"), 2, "GROWN")

    def test_shapes_that_do_not_fit(self, folder: Path) -> None:
        refused(run("widen", "model.onnx", "--shape", "X:1,3,8,8"), 2, "X")
        refused(run("inspect", "model.onnx", "--shape", "x:1,4,8,8"), 2, "x")
        assert files(folder) == ["model.onnx"]

    def test_a_width_that_is_no_growth(self, folder: Path) -> None:
        refused(run("widen", "model.onnx", "--width", "first=8"), 2, "first", "8")


class TestBadInput:
    @pytest.mark.parametrize("command", ["inspect", "widen", "deepen"])
    def test_files_that_are_no_models(self, folder: Path, command: str) -> None:
        data = Path("model.onnx").read_bytes()
        Path("folder").mkdir()
        Path("empty.onnx").touch()
        Path("text.onnx").write_text("This is not a model.\n" * 20)
        Path("half.onnx").write_bytes(data[: len(data) // 2])
        tensor = numpy_helper.from_array(np.arange(8, dtype=np.float32), "t")
        Path("tensor.onnx").write_bytes(tensor.SerializeToString())
        present = files(folder)
        for name in ("none.onnx", "folder", "empty.onnx", "text.onnx", "half.onnx", "tensor.onnx"):
            refused(run(command, name), 2, name)
        assert files(folder) == present

    def test_folders_instead_of_models(self, folder: Path) -> None:
        for command in ("inspect", "widen", "deepen"):
            refused(run(command, "."), 2, "is a folder")

    def test_a_missing_file_gets_a_suggestion(self, folder: Path) -> None:
        refused(run("widen", "modle.onnx"), 2, "modle.onnx does not exist", "did you mean model.onnx?")
        refused(run("verify", "model.onnx", "no/model.onnx"), 2, "no/model.onnx does not exist")

    def test_external_data_that_is_missing_outside_or_short(self, folder: Path) -> None:
        def external(location: str, length: int) -> None:
            model = network()
            weight = model.graph.initializer[0]
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
                weight.external_data.add(key=key, value=value)
            Path("external.onnx").write_bytes(model.SerializeToString())

        needed = 8 * 3 * 3 * 3 * 4
        external("none.data", needed)
        refused(run("widen", "external.onnx"), 2, "none.data")
        Path("short.data").write_bytes(bytes(needed - 4))
        external("short.data", needed)
        refused(run("widen", "external.onnx"), 2, "short.data")
        external("../outside.data", needed)
        refused(run("widen", "external.onnx"), 2, "outside.data")

    def test_a_model_that_onnxruntime_cannot_load(self, folder: Path) -> None:
        model = network()
        model.graph.node.append(helper.make_node("Swirl", ["x"], ["z"], "swirl", domain="my.ops"))
        model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3, 8, 8]))
        model.opset_import.append(helper.make_opsetid("my.ops", 1))
        Path("custom.onnx").write_bytes(model.SerializeToString())
        refused(run("widen", "custom.onnx"), 2, "Swirl")
        refused(run("verify", "custom.onnx", "model.onnx"), 2, "Swirl")
        assert files(folder) == ["custom.onnx", "model.onnx"]

    def test_a_model_with_nothing_to_grow(self, folder: Path) -> None:
        model = network()
        del model.graph.node[:6]
        del model.graph.initializer[:2]
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n", 8]))
        onnx.save(model, "linear.onnx")
        refused(run("widen", "linear.onnx"), 3)
        refused(run("deepen", "linear.onnx", "--scheme", "residual-copy"), 3)
        refused(run("widen", "linear.onnx", "--dry-run"), 3)
        assert run("inspect", "linear.onnx").exit_code == 0
        assert files(folder) == ["linear.onnx", "model.onnx"]

    def test_names_from_a_file_cannot_command_the_terminal(self, folder: Path) -> None:
        model = network()
        model.graph.node[0].name = "first\x1b[2J\x1b]0;owned\x07"
        onnx.save(model, "evil.onnx")
        for arguments in (
            ["inspect", "evil.onnx", "-v"],
            ["widen", "evil.onnx", "-v"],
            ["deepen", "evil.onnx", "-v"],
        ):
            result = run(*arguments)
            assert result.exit_code == 0, result.output
            assert ESCAPE not in result.output


class TestBadOutput:
    def test_an_existing_file_stays_without_force(self, folder: Path) -> None:
        Path("model-wide.onnx").write_text("precious")
        refused(run("widen", "model.onnx"), 2, "model-wide.onnx exists", "--force")
        assert Path("model-wide.onnx").read_text() == "precious"
        assert run("widen", "model.onnx", "--force", "--no-verify").exit_code == 0
        onnx.load("model-wide.onnx")

    def test_the_input_is_never_replaced(self, folder: Path) -> None:
        before = Path("model.onnx").read_bytes()
        Path("link.onnx").symlink_to("model.onnx")
        for output in ("model.onnx", "./model.onnx", "link.onnx"):
            refused(run("widen", "model.onnx", "-o", output, "--force"), 2, "is the input")
        assert Path("model.onnx").read_bytes() == before

    def test_a_report_replaces_a_report_and_nothing_else(self, folder: Path) -> None:
        for option, name in (("--html", "page.html"), ("--junit", "out.xml")):
            for _ in range(2):
                assert run("verify", "model.onnx", "model.onnx", option, name).exit_code == 0
            Path(name).write_text("<precious/>")
            refused(run("verify", "model.onnx", "model.onnx", option, name), 2, f"{name}' exists", option)
            assert Path(name).read_text() == "<precious/>"
            Path(name).write_text("")
            assert run("verify", "model.onnx", "model.onnx", option, name).exit_code == 0

    def test_a_growth_map_replaces_nothing_without_force(self, folder: Path) -> None:
        Path("map.json").write_text("{}")
        line = ["diff", "model.onnx", "model.onnx", "--map", "map.json"]
        refused(run(*line), 2, "map.json exists", "--force")
        assert run(*line, "--force").exit_code == 0
        assert Path("map.json").read_text() != "{}"

    def test_folders_that_are_none_or_closed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("folder").mkdir()
        refused(run("widen", "model.onnx", "-o", "none/out.onnx"), 2, "none does not exist")
        refused(run("widen", "model.onnx", "-o", "folder"), 2, "is a folder", "-o folder")
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        refused(run("widen", "model.onnx", "-o", "folder/out.onnx"), 2, "may not be written")
        assert files(folder) == ["folder", "model.onnx"]

    def test_outputs_are_looked_at_before_the_work(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("onnx_grow.growth.widened", too_early)
        Path("there.onnx").touch()
        refused(run("widen", "model.onnx", "-o", "none/out.onnx"), 2, "none does not exist")
        refused(run("widen", "model.onnx", "-o", "there.onnx"), 2, "there.onnx exists")
        refused(run("widen", "model.onnx", "-o", "model.onnx", "--force"), 2, "is the input")

    def test_what_is_too_large_is_told_before_it_is_made(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil = import_module("shutil")
        monkeypatch.setattr("onnx_grow.cli.growing._put", too_early)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=9999, total=99999))
        for option in (["--width", "first=99"], ["--to-params", "20x"]):
            refused(
                run("widen", "model.onnx", *option, "--no-verify"),
                2,
                "10 kB left in",
                f"lower {option[0]}",
                "-o",
            )
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0, total=0))
        refused(run("widen", "model.onnx", "--no-verify"), 2, "files cannot be made in", "-o")
        assert run("widen", "model.onnx", "--factor", "9", "--dry-run").exit_code == 0
        assert files(folder) == ["model.onnx"]

    @pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits on file sizes here")
    def test_a_disk_that_is_full(self, folder: Path) -> None:
        code = (
            "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
            "from onnx_grow.cli import main; main(['widen', 'model.onnx', '--no-verify'])"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 2, result.stderr
        assert result.stderr.startswith("error: cannot write")
        assert files(folder) == ["model.onnx"]


class TestInterruption:
    """The process is stopped in the middle of writing: while the staged file is synced to the disk."""

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_nothing_is_left_behind(self, folder: Path, number: signal.Signals, code: int) -> None:
        program = (
            "import os, signal\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
            f"os.fsync = lambda file: os.kill(os.getpid(), {int(number)})\n"
            "from onnx_grow.cli import main; main(['widen', 'model.onnx'])"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert result.returncode == code
        assert result.stderr == "error: interrupted\n"
        assert result.stdout == ""
        assert files(folder) == ["model.onnx"]

    @pytest.mark.parametrize("module", ["click", "numpy"])
    def test_libraries_are_imported(self, folder: Path, module: str) -> None:
        """Ctrl-C while the command line, and while a command imports what it needs."""
        Path(f"{module}.py").write_text(
            "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n"
        )
        program = (
            "import signal, sys\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"sys.path.insert(0, {str(folder)!r}); sys.argv = ['onnx-grow', 'inspect', 'model.onnx']\n"
            "from onnx_grow.__main__ import run; run()"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (result.returncode, result.stdout, result.stderr) == (130, "", "error: interrupted\n")

    def test_a_reader_that_goes_away_ends_the_command_quietly(self, folder: Path) -> None:
        command = [sys.executable, "-m", "onnx_grow", "inspect", "model.onnx"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            assert running.stdout
            assert running.stderr
            running.stdout.close()
            assert running.stderr.read() == b""
        assert running.returncode == 141


class TestPipesAndTerminals:
    def test_a_model_may_come_from_a_pipe_and_go_into_one(self, folder: Path) -> None:
        data = Path("model.onnx").read_bytes()
        assert "Can grow: 2 axes" in run("inspect", "-", stdin=data).stdout
        result = run("widen", "-", "-o", "-", stdin=data)
        assert result.exit_code == 0, result.output
        wide = onnx.load_model_from_string(result.stdout_bytes)
        assert list(wide.graph.initializer[0].dims) == [16, 3, 3, 3]
        assert result.stderr.startswith("standard input -> standard output")
        assert "equal on" in result.stderr
        assert run("verify", "model.onnx", "-", stdin=result.stdout_bytes).exit_code == 0
        assert files(folder) == ["model.onnx"]

    def test_pipes_that_make_no_sense(self, folder: Path) -> None:
        data = Path("model.onnx").read_bytes()
        refused(run("widen", "-", stdin=data), 2, "-o OUT")
        refused(run("verify", "-", "-", stdin=data), 2, "one of the two")
        refused(run("inspect", "-", stdin=b""), 2)
        result = run("widen", "model.onnx", "-o", "-", "--json")
        assert result.exit_code == 2
        assert "--json" in result.stderr

    def test_a_pipe_gets_text_only(self, folder: Path) -> None:
        environment = {
            key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "TTY_COMPATIBLE")
        }
        for arguments in (
            ["inspect", "model.onnx"],
            ["widen", "model.onnx"],
            ["widen", "none.onnx"],
            ["--help"],
        ):
            result = process(*arguments, env=environment)
            assert result.stdout + result.stderr
            assert ESCAPE not in result.stdout + result.stderr

    @pytest.mark.parametrize("plain", [False, True])
    def test_a_terminal_gets_progress_and_colour_unless_told_not_to(self, folder: Path, plain: bool) -> None:
        pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
        environment.pop("NO_COLOR", None)
        if plain:
            environment["NO_COLOR"] = "1"
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "onnx_grow", "verify", "model.onnx", "model.onnx"]
        with subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        ) as running:
            os.close(theirs)
            shown = b""
            while piece := _read(ours):
                shown += piece
        os.close(ours)
        assert running.returncode == 0
        assert b"verifying" in shown
        assert (b"\x1b[1;32mequal" in shown) is not plain
        assert bool(re.search(rb"\x1b\[[\d;]*m", shown)) is not plain

    def test_progress_tells_bytes(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(screen, "is_terminal", lambda stream: True)
        for name, value in (("COLUMNS", "100"), ("FORCE_COLOR", "1"), ("TERM", "xterm")):
            monkeypatch.setenv(name, value)
        with screen.Screen("widen").progress("writing") as advance:
            advance(2_500_000_000, 8_000_000_000)
        assert "2.5 GB of 8.0 GB" in capsys.readouterr().err

    def test_quiet_says_nothing(self, folder: Path) -> None:
        result = run("widen", "model.onnx", "-q")
        assert (result.exit_code, result.output) == (0, "")

    def test_verbose_says_everything(self, folder: Path) -> None:
        assert "worst input" in run("verify", "model.onnx", "model.onnx", "-v").stdout
        assert "new size" in run("widen", "model.onnx", "-v", "--no-verify").stdout

    def test_help_version_and_usage_errors_start_without_the_heavy_libraries(self) -> None:
        for arguments in (
            ["--help"],
            ["--version"],
            ["widen", "--help"],
            ["widen", "m.onnx", "--factor", "1"],
        ):
            program = (
                "import sys\nfrom onnx_grow.cli import main\n"
                f"try: main({arguments})\n"
                "except SystemExit: print([m for m in ('numpy', 'onnx', 'onnxruntime', 'rich') if m in sys.modules])"
            )
            result = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=False
            )
            assert result.stdout.endswith("[]\n"), result.stdout + result.stderr


class TestErrors:
    def test_no_traceback_unless_asked(self, folder: Path) -> None:
        assert "Traceback" not in run("inspect", "none.onnx").output
        result = run("inspect", "none.onnx", "--debug")
        assert "Traceback" in result.stderr
        assert result.stderr.splitlines()[-2].startswith("error: ") or result.stderr.splitlines()[
            -1
        ].startswith("error: ")

    def test_a_fault_of_ours_is_no_verdict_on_the_model(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*args: object, **options: object) -> None:
            raise KeyError("oops")

        monkeypatch.setattr("onnx_grow.growth.widened", broken)
        refused(run("widen", "model.onnx"), 70, "internal error: KeyError: 'oops'", "--debug")

    def test_errors_as_documents(self, folder: Path) -> None:
        result = run("widen", "none.onnx", "--json")
        document = json.loads(result.stdout)
        assert document["ok"] is False
        assert document["command"] == "widen"
        assert document["error"]["kind"] == "InvalidModelError"
        assert "none.onnx" in document["error"]["message"]
        assert result.stderr.startswith("error: ")

    def test_a_gpu_that_does_not_answer(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        try:
            choose("cuda")
            pytest.skip("CUDA answers here")
        except DeviceUnavailableError:
            pass
        refused(run("verify", "model.onnx", "model.onnx", "--provider", "cuda"), 4, "CUDA")
        for command in ("widen", "deepen"):
            monkeypatch.setattr(f"onnx_grow.growth.plan_{command}", too_early)
            refused(run(command, "model.onnx", "--provider", "cuda"), 4, "CUDA")
        assert files(folder) == ["model.onnx"]


class TestDocuments:
    """The keys of docs/json.md; removing one breaks somebody's script."""

    TOP = frozenset({"schema", "command", "ok"})
    GROWTH = TOP | {
        "input",
        "output",
        "data_file",
        "plan",
        "plan_file",
        "parameters",
        "bytes",
        "nodes",
        "verification",
    }

    def document(self, *arguments: str) -> dict[str, object]:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        fields = json.loads(result.stdout)
        assert (fields["schema"], fields["command"], fields["ok"]) == (1, arguments[0], True)
        assert isinstance(fields, dict)
        return fields

    def test_inspect(self, folder: Path) -> None:
        fields = self.document("inspect", "model.onnx")
        assert fields.keys() == self.TOP | {"model", "totals", "axes", "layers"}
        assert fields["layers"][0].keys() == {"name", "operator", "writes", "reads"}  # type: ignore[index]
        assert fields["model"] == {
            "path": "model.onnx",
            "ir_version": 8,
            "opset": 17,
            "nodes": 7,
            "parameters": 837,
            "bytes": Path("model.onnx").stat().st_size,
            "inputs": [{"name": "x", "type": "float", "shape": ["n", 3, 8, 8]}],
            "outputs": [{"name": "y", "type": "float", "shape": ["n", 5]}],
        }
        assert fields["totals"]["growable_axes"] == 2  # type: ignore[index]
        keys = {
            "name",
            "size",
            "kind",
            "constraint",
            "growable",
            "reasons",
            "writers",
            "readers",
            "parameters",
        }
        assert all(keys <= axis.keys() for axis in fields["axes"])  # type: ignore[attr-defined]

    def test_initializers_that_are_inputs_are_no_inputs(self, folder: Path) -> None:
        model = network()
        model.ir_version = 3
        model.graph.input.extend(
            helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in model.graph.initializer
        )
        onnx.save(model, "old.onnx")
        fields = self.document("inspect", "old.onnx")
        assert [value["name"] for value in fields["model"]["inputs"]] == ["x"]  # type: ignore[index]
        assert fields["totals"]["growable_axes"] == 2  # type: ignore[index]

    def test_widen_and_deepen(self, folder: Path) -> None:
        for command, output in (("widen", "model-wide.onnx"), ("deepen", "model-deep.onnx")):
            fields = self.document(command, "model.onnx")
            assert fields.keys() == self.GROWTH
            assert (fields["input"], fields["output"]) == ("model.onnx", output)
            assert fields["bytes"] == {
                "before": Path("model.onnx").stat().st_size,
                "after": Path(output).stat().st_size,
            }
            assert fields["plan"]["operation"] == command  # type: ignore[index]
            added = fields["nodes"]["after"] - fields["nodes"]["before"]  # type: ignore[index]
            assert len(fields["nodes"]["inserted"]) == added  # type: ignore[index]
        assert self.document("widen", "model.onnx", "--dry-run")["bytes"]["after"] is None  # type: ignore[index]

    def test_verify(self, folder: Path) -> None:
        fields = self.document("verify", "model.onnx", "model.onnx")
        assert fields.keys() == self.TOP | {"original", "grown", "verification", "trace", "sha256", "growth"}
        documented = (Path(__file__).parent.parent / "docs" / "json.md").read_text()
        assert all(f"`{key}`" in documented for key in fields["verification"])  # type: ignore[attr-defined]


def test_the_kinds_offered_are_the_kinds_there_are() -> None:
    assert set(options.KINDS) == set(KINDS)


def test_numbers_as_people_read_them() -> None:
    assert [count(n) for n in (0, 999, 1000, 25_557_032, 999_999)] == ["0", "999", "1 k", "25.6 M", "1 M"]
    assert [size(n) for n in (12, 97_800_000)] == ["12 B", "97.8 MB"]
    assert printable("a\x1b[0m\nb\u202e") == "a\\x1b[0m\\nb\\u202e"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says EIO when the other side is closed
        return b""
