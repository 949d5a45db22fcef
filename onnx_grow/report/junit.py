"""Verifications as JUnit XML, which every CI system shows: a suite per pair of models, a case per check and per output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

from onnx_grow.report.figures import printable

Document = Mapping[str, Any]


def write_junit(documents: Iterable[tuple[str, Document]], path: str | Path) -> None:
    """Write the verifications `documents`, (name, the document of docs/json.md under `verify`), to `path`."""
    xml = JUnitXml("onnx-grow verify")
    for name, document in documents:
        suite = TestSuite(printable(name))
        for case in _timed(list(_cases(name, document)), document):
            suite.add_testcase(case)
        xml.add_testsuite(suite)
    xml.write(str(path), pretty=True)


def _cases(name: str, document: Document) -> Iterator[TestCase]:
    verification = document.get("verification")
    if verification is None:
        error = document["error"]
        yield _case(name, "verify", Error(printable(_with_hint(error)), error["kind"]))
        return
    for check in verification["checks"]:
        fault = None if check["ok"] else Failure(printable(check["detail"]), "check")
        yield _case(name, check["name"], fault)
    for output in verification["outputs"]:
        fault = (
            None
            if output["ok"]
            else Failure(printable(f"{output['why']} ({output['worst_input']})"), "output")
        )
        yield _case(name, f"output {output['name']}", fault)


def _timed(cases: list[TestCase], document: Document) -> list[TestCase]:
    """The cases, of which the first takes the time of all: they are questions about the same runs."""
    verification = document.get("verification")
    for number, case in enumerate(cases):
        case.time = 0.0 if number or verification is None else round(verification["seconds"], 3)
    return cases


def _with_hint(error: Mapping[str, str]) -> str:
    return f"{error['message']} ({error['hint']})" if error["hint"] else error["message"]


def _case(suite: str, name: str, fault: Failure | Error | None) -> TestCase:
    case = TestCase(printable(name), printable(suite))
    if fault is not None:
        case.result = [fault]
    return case
