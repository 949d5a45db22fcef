"""Verifications as JUnit XML, which every CI system shows: a suite per pair of models, a case per check and per output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

from onnx_grow.report.figures import printable
from onnx_grow.report.outcome import HEADINGS, Document, figures, told, verdict, warnings


def write_junit(documents: Iterable[tuple[str, Document]], path: str | Path) -> None:
    """Write the verifications `documents`, (name, the document of docs/json.md under `verify`), to `path`."""
    xml = JUnitXml("onnx-grow verify")
    for name, document in documents:
        suite = TestSuite(printable(name))
        for key, value in _properties(document):
            suite.add_property(key, printable(value))
        cases = _timed(list(_cases(name, document)), document)
        if said := warnings(document):
            cases[0].system_out = "\n".join(f"warning: {printable(warning)}" for warning in said)
        for case in cases:
            suite.add_testcase(case)
        xml.add_testsuite(suite)
    xml.write(str(path), pretty=True)


def _properties(document: Document) -> Iterator[tuple[str, str]]:
    """What the tables of pairs show, too."""
    verification = document.get("verification")
    yield "verdict", verdict(verification)
    if verification is not None:
        yield "device", verification["device"]
        yield from zip((heading.rstrip(">") for heading in HEADINGS), figures(document), strict=True)


def _cases(name: str, document: Document) -> Iterator[TestCase]:
    verification = document.get("verification")
    if verification is None:
        error = document["error"]
        yield _case(name, "verify", Error(printable(told(error)), error["kind"]))
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


def _case(suite: str, name: str, fault: Failure | Error | None) -> TestCase:
    case = TestCase(printable(name), printable(suite))
    if fault is not None:
        case.result = [fault]
    return case
