"""`onnx-grow verify` as a gate: many pairs, JUnit XML, GitHub Actions, pre-commit."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from graphs import build
from junitparser import JUnitXml
from verifying import with_weights

import onnx_grow as og
from onnx_grow.cli import main
from onnx_grow.cli.manifest import Pair, read_manifest, verify_all
from onnx_grow.errors import InvalidRequestError, OnnxGrowError
from onnx_grow.report.github import summary, workflow_commands

ROOT = Path(__file__).parent.parent
NET = """(float[N,4] x) => (float[N,3] y) <float[4,6] v, float[6,3] w> {
    h = MatMul(x, v)
    r = Relu(h)
    y = MatMul(r, w)
}"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model, a wider one, and one that differs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    model = build(NET)
    og.save(model, "a.onnx")
    og.save(og.widen(model), "wide.onnx")
    og.save(with_weights(model, w=model.weights["w"].array() * np.float32(1.01)), "other.onnx")
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def listed(*pairs: dict[str, object], **common: object) -> str:
    Path("pairs.yaml").write_text(yaml.safe_dump({**common, "pairs": list(pairs)}))
    return "pairs.yaml"


EQUAL = {"original": "a.onnx", "grown": "wide.onnx"}
DIFFERENT = {"original": "a.onnx", "grown": "other.onnx", "name": "other"}


class TestManifest:
    def test_one_that_differs_fails_and_is_told_why(self, folder: Path) -> None:
        result = run("verify", "--json", "--manifest", listed(EQUAL, DIFFERENT, provider="cpu"))
        assert result.exit_code == 1
        document = json.loads(result.stdout)
        assert [pair["ok"] for pair in document["pairs"]] == [True, False]
        assert document["ok"] is False
        assert "deviates by" in document["pairs"][1]["verification"]["outputs"][0]["why"]

    def test_a_missing_file_is_told_and_the_others_are_compared(self, folder: Path) -> None:
        result = run("verify", "--manifest", listed({**EQUAL, "grown": "nothing.onnx"}, EQUAL))
        assert result.exit_code == 2
        assert "1 of 2 pairs equal" in result.stdout
        assert "nothing.onnx does not exist" in result.stdout
        assert result.stderr == "error: 1 of 2 pairs could not be compared\n"

    def test_every_pair_says_how_much_its_verdict_is_worth(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
        og.save(og.widen(og.load("a.onnx")), "grown.onnx")
        og.save(build(NET.replace("x)", "z)").replace("(x,", "(z,")), "foreign.onnx")
        pairs = listed(
            {"original": "a.onnx", "grown": "grown.onnx", "name": "recorded"},
            {**DIFFERENT, "name": "loose", "max_error": 0.1},
            {**DIFFERENT, "name": "looser", "tolerance": 1e6},
            {**EQUAL, "grown": "a.onnx", "name": "itself"},
            {**EQUAL, "grown": "foreign.onnx", "name": "foreign"},
            {**EQUAL, "grown": "wid.onnx", "name": "missing"},
            seeds=2,
            provider="cpu",
        )
        result = run("verify", "--manifest", pairs, "--junit", "out.xml", "--html", "page.html")
        rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()[1:7]}
        assert rows["recorded"][1] == "equal"
        assert rows["recorded"][-4:-1] == ["yes", "2", "-"]
        assert (rows["loose"][1:3], rows["loose"][4]) == (["within", "0.1"], "-")
        assert rows["looser"][1:5] == ["within", "1e+06", "x", "noise"]
        assert rows["itself"][1] == "equal"
        assert rows["itself"][-3:-1] == ["2", "1"]
        assert rows["foreign"][1:6] == ["NOT", "EQUAL", "-", "-", "-"]
        assert rows["missing"][1:] == ["error", *7 * "-"]
        assert "2 of 6 pairs equal, 2 within what is allowed" in result.stdout
        assert result.stdout.count("on CPU") == 1
        assert "error: 1 of 6 pairs is not equal, 1 could not be compared" in result.stderr
        assert "does not exist (did you mean" in result.stdout
        assert "does not exist (did you mean" in result.stderr
        told, page = Path("summary.md").read_text(), Path("page.html").read_text()
        assert "| missing | **error**: " in told
        assert "does not exist (did you mean" in told
        assert "- itself: warning: both are the same file" in told
        assert "| within 0.1 |" in told
        assert page.count('class="verdict bad">error<') == 1
        assert "does not exist (did you mean" in page
        assert (
            page.index("2 of 6 pairs equal")
            < page.index("<td>missing</td>")
            < page.index("<h2>recorded</h2>")
        )
        suites = {suite.name: suite for suite in JUnitXml.fromfile("out.xml")}
        assert "both are the same file" in next(iter(suites["itself"])).system_out
        assert next(iter(suites["recorded"])).system_out is None
        assert {p.name: p.value for p in suites["loose"].properties()}["verdict"] == "within 0.1"

    def test_options_of_a_pair_come_after_those_of_all(self, folder: Path) -> None:
        pairs = read_manifest(
            Path(listed({**DIFFERENT, "max_error": 0.1, "shapes": {"x": [3, 4]}}, max_error=1e-6))
        )
        assert pairs[0].options == ("--max-error=0.1", "--shape=x:3,4")
        assert run("verify", "--manifest", "pairs.yaml").exit_code == 0

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("pairs: [", "is no YAML"),
            ("a: 1", "no pairs"),
            ("pairs: []", "no pairs"),
            ("pairs: [3]", "pairs[0] is 3"),
            ("pairs: [{original: a.onnx}]", "pairs[0] has no 'grown'"),
            ("pairs: [{original: a.onnx, grown: b, tolerence: 3}]", "did you mean 'tolerance'?"),
            ("pairs: [{original: a, grown: b, shapes: 3}]", "shapes is 3"),
            ('pairs: [{original: a, grown: b, proof: "no"}]', "proof is 'no'"),
            ("tolerances: 3\npairs: [{original: a.onnx, grown: b}]", "did you mean 'tolerance'?"),
            (
                "pairs: [{original: a, grown: b}, {original: a, grown: b, tolerance: -5}]",
                "pairs[1]: Invalid value for '--tolerance'",
            ),
            ("provider: gpu\npairs: [{original: a, grown: b}]", "Invalid value for '--provider'"),
            ("\0", "is no YAML"),
            ("[" * 5000, "is no YAML"),
        ],
    )
    def test_a_bad_manifest_is_told_where(self, folder: Path, text: str, word: str) -> None:
        Path("bad.yaml").write_text(text)
        with pytest.raises(InvalidRequestError) as error:
            read_manifest(Path("bad.yaml"))
        assert word in str(error.value)

    def test_a_pair_that_crashes_fails_alone(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        crash = folder / "crash"
        crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
        crash.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(crash))
        found = verify_all([Pair("p", Path("a.onnx"), Path("wide.onnx"))], 1, lambda done, total: None)
        assert found[0][1]["error"]["message"] == "its verification was ended by SIGSEGV"

    def test_an_interruption_ends_the_processes(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        slow = folder / "slow"
        slow.write_text(
            "#!/bin/sh\ncase $* in *quick*) echo '{\"ok\": true}';; *never*) exec sleep 60;; *) echo $$ > pid; exec sleep 60;; esac\n"
        )
        slow.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(slow))

        def interrupt(done: int, total: int) -> None:
            while not Path("pid").exists() or not Path("pid").read_text().strip():
                time.sleep(0.01)
            raise KeyboardInterrupt

        pairs = [Pair(name, Path(f"{name}.onnx"), Path("b")) for name in ("slow", "quick", "never", "never2")]
        with pytest.raises(KeyboardInterrupt):
            verify_all(pairs, 2, interrupt)
        pid = int(Path("pid").read_text())
        deadline = time.monotonic() + 10
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not _alive(pid)

    def test_a_pair_says_instead_how_it_is_judged(self, folder: Path) -> None:
        path = Path(listed({**DIFFERENT, "max_error": 0.1}, EQUAL, tolerance=2, seeds=1))
        assert [pair.options for pair in read_manifest(path)] == [
            ("--seeds=1", "--max-error=0.1"),
            ("--seeds=1", "--tolerance=2"),
        ]
        with pytest.raises(InvalidRequestError, match="both 'max_error' and 'tolerance'"):
            read_manifest(Path(listed(EQUAL, tolerance=2, max_error=1)))

    def test_models_beside_a_manifest_are_a_mistake(self, folder: Path) -> None:
        result = run("verify", "--manifest", listed(EQUAL), "a.onnx", "wide.onnx")
        assert result.exit_code == 2
        assert "no room" in result.stderr

    def test_two_models_are_needed(self, folder: Path) -> None:
        assert "Two models are needed" in run("verify", "a.onnx").stderr


class TestMaxError:
    def test_models_that_are_not_meant_to_be_equal(self, folder: Path) -> None:
        assert run("verify", "a.onnx", "other.onnx").exit_code == 1
        assert run("verify", "a.onnx", "other.onnx", "--max-error", "0.02").exit_code == 0
        result = run("verify", "a.onnx", "other.onnx", "--max-error", "0.005")
        assert result.exit_code == 1
        assert "error 0.005" in result.stdout
        assert "ratio" in run("verify", "a.onnx", "wide.onnx", "-v").stdout
        shown = run(
            "verify", "a.onnx", "other.onnx", "--max-error", "0.02", "-v", "--html", "page.html"
        ).stdout
        assert shown.startswith("within 0.02 on")
        assert "ratio" not in shown
        assert "ratio" not in Path("page.html").read_text()

    def test_it_has_to_be_positive(self, folder: Path) -> None:
        with pytest.raises(OnnxGrowError, match="max_error"):
            og.verify("a.onnx", "wide.onnx", max_error=float("nan"))


class TestPairing:
    def test_a_file_beside_itself_and_its_copy(self, folder: Path) -> None:
        shutil.copy("a.onnx", "copy.onnx")
        for other in ("a.onnx", "copy.onnx"):
            result = run("verify", "a.onnx", other)
            assert result.exit_code == 0
            assert "warning: both are the same file" in result.stdout

    def test_models_in_the_wrong_order(self, folder: Path) -> None:
        for source, target in (("a.onnx", "b.onnx"), ("b.onnx", "c.onnx")):
            og.save(og.widen(og.load(source)), target)
            result = run("verify", target, source)
            assert result.exit_code == 0
            assert "warning: the first grew from the second: swapped?" in result.stdout
            assert "warning" not in run("verify", source, target).stdout
        assert "swapped" not in run("verify", "b.onnx", "other.onnx").stdout


class TestEvidence:
    def test_a_page_says_what_was_compared_when_and_how(self, folder: Path) -> None:
        og.save(build(NET.replace("6", "600")), "a.onnx", force=True)
        og.save(og.widen(og.load("a.onnx"), scheme="copy", seed=7), "b.onnx", external=True)
        assert run("verify", "a.onnx", "b.onnx", "--seeds", "1", "--html", "page.html").exit_code == 0
        page = Path("page.html").read_text()
        for file in ("a.onnx", "b.onnx", "b.onnx.data"):
            assert hashlib.sha256(Path(file).read_bytes()).hexdigest() in page
        assert "widen, scheme copy, seed 7, by onnx-grow" in page
        assert "onnx-grow verify a.onnx b.onnx --seeds 1 --html page.html" in page
        assert f"{datetime.now(UTC):%Y-%m-%d}" in page


class TestJUnit:
    def test_a_case_per_check_and_output(self, folder: Path) -> None:
        pairs = listed(EQUAL, DIFFERENT, {**EQUAL, "original": "no.onnx", "name": "none"})
        assert run("verify", "--manifest", pairs, "--junit", "out.xml").exit_code == 1
        suites = {suite.name: suite for suite in JUnitXml.fromfile("out.xml")}
        assert list(suites) == ["a.onnx -> wide.onnx", "other", "none"]
        assert (suites["a.onnx -> wide.onnx"].failures, suites["none"].errors) == (0, 1)
        assert suites["other"].time > 0
        assert next(iter(suites["none"])).result[0].message.endswith("(did you mean a.onnx or other.onnx?)")
        failed = [case.name for case in suites["other"] if case.result]
        assert failed == ["float64", "output y"]

    def test_a_single_pair_and_names_with_control_characters(self, folder: Path) -> None:
        shutil.copy("wide.onnx", "w\x1b.onnx")
        assert run("verify", "a.onnx", "w\x1b.onnx", "--junit", "out.xml").exit_code == 0
        assert JUnitXml.fromfile("out.xml").failures == 0


class TestGitHub:
    def test_annotations_and_a_summary(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
        result = run("verify", "a.onnx", "other.onnx", "--json")
        assert "::error title=a.onnx -> other.onnx::output 'y' deviates by" in result.stderr
        json.loads(result.stdout)
        assert "| a.onnx -> other.onnx | **NOT EQUAL**: " in Path("summary.md").read_text()
        assert "::error" not in run("verify", "a.onnx", "wide.onnx").stderr

    def test_names_cannot_smuggle_commands_in(self) -> None:
        document = {"ok": False, "error": {"kind": "X", "message": "50%\n::set-output name=a::b", "hint": ""}}
        lines = list(workflow_commands([("a,b: c\n::warning::x", document)]))
        assert lines == ["::error title=a%2Cb%3A c%0A%3A%3Awarning%3A%3Ax::50%25%0A::set-output name=a::b"]
        assert summary([("a|b", document)]).count("\n") == 3

    def test_the_action(self, folder: Path) -> None:
        install, verify = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
        installed = _step(folder, install, {})
        assert installed.returncode == 0, installed.stderr
        for grown, code in (("wide.onnx", 0), ("other.onnx", 1)):
            given = {
                "original": "a.onnx",
                "grown": grown,
                "options": "--tolerance 3 --seeds 2",
                "junit": "out.xml",
            }
            assert _step(folder, verify, given).returncode == code
            assert JUnitXml.fromfile("out.xml").failures == (2 if code else 0)
        done = _step(folder, verify, {"manifest": listed(EQUAL)})
        assert done.returncode == 0
        assert "1 of 1 pair equal" in done.stdout


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (("verify", "a.onnx", "wide.onnx", "--junit"), "out.xml"),
        (("verify", "a.onnx", "wide.onnx", "--html"), "out.html"),
        (("diff", "a.onnx", "wide.onnx", "--map"), "map.json"),
        (("widen", "a.onnx", "--dry-run", "--plan"), "plan.yaml"),
    ],
)
@pytest.mark.parametrize("existed", [False, True])
def test_a_report_that_the_disk_has_no_room_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], file: str, existed: bool
) -> None:
    assert not existed or run(*words, file).exit_code == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    force = ["--force"] if existed and words[0] != "verify" else []
    result = run(*words, file, *force)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == f"error: cannot write {file}: the disk is full"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "words", [["a.onnx", "wide.onnx"], ["a.onnx", "wide.onnx", "--json"], ["a.onnx", "no.onnx", "--json"]]
)
@pytest.mark.parametrize("nothing", [False, True])
def test_output_that_the_disk_has_no_room_for_is_no_verdict(
    folder: Path, words: list[str], nothing: bool
) -> None:
    with open("/dev/full", "w") as full:
        err = full if nothing else subprocess.PIPE
        command = [sys.executable, "-m", "onnx_grow", "verify", *words]
        result = subprocess.run(command, stdout=full, stderr=err, text=True, check=False)
    assert result.returncode == 2
    assert nothing or result.stderr.startswith("error: ")
    assert nothing or "Traceback" not in result.stderr


def test_the_pre_commit_hook(folder: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    command, *words = [*hook["entry"].split(), *hook["args"]]
    assert command == "onnx-grow"
    for pair, code in ((EQUAL, 0), (DIFFERENT, 1)):
        Path("onnx-grow.yaml").write_text(yaml.safe_dump([pair]))
        assert run(*words).exit_code == code


def _step(folder: Path, step: dict[str, str], given: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a shell step of an action as it stands; in the environment it makes, pip finds what is installed here."""
    stand_in = folder / "bin" / "python3"
    if not stand_in.exists():
        stand_in.parent.mkdir()
        (folder / "runner").mkdir()
        stand_in.write_text(
            f'#!/bin/sh\n"{sys.executable}" -m venv --without-pip "$3" || exit\n'
            f'echo "{sysconfig.get_path("purelib")}" > "$(echo "$3"/lib/python*/site-packages)/all.pth"\n'
        )
        stand_in.chmod(0o755)
    inputs = {
        name: given.get(value.removeprefix("${{ inputs.").removesuffix(" }}"), "")
        for name, value in dict(step.get("env") or {}).items()
    }
    environment = {
        **os.environ,
        **inputs,
        "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
        "RUNNER_TEMP": str(folder / "runner"),
        "GITHUB_ACTION_PATH": str(ROOT),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    script = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(script, cwd=folder, env=environment, check=False, capture_output=True, text=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return (
            Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc/self").exists() else True
        )
    except (ProcessLookupError, FileNotFoundError):  # it may end between the two questions
        return False
