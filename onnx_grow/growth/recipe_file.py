"""Recipes on paper: YAML with a list of steps, read with care, since it may come from anywhere.

steps:
- widen: {factor: 1.5, kind: hidden}
- deepen: {every: 4}
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import yaml

from onnx_grow.errors import InvalidRequestError
from onnx_grow.growth.deepen_plan import DeepenPlan
from onnx_grow.growth.deepening import deepened
from onnx_grow.growth.plan import AxisGrowth, WidenPlan
from onnx_grow.growth.provenance import version
from onnx_grow.growth.widening import widened

__all__ = ["Recipe", "Step", "dumped", "parsed", "read"]

MOST_BYTES = 16 << 20
"""No recipe is larger; a plan of ten thousand axes takes one megabyte."""
MOST_STEPS = 1000


@dataclass(frozen=True)
class Step:
    """One step: "widen" or "deepen", with options of the function of this name or as a plan, and where it stands."""

    operation: str
    what: WidenPlan | DeepenPlan | Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Recipe:
    """Steps, the digest of the model that they are for, and input shapes for those that do not say their own."""

    steps: tuple[Step, ...]
    source_sha256: str | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    name: str = "the recipe"


def read(path: str | PathLike[str]) -> Recipe:
    """Read a recipe from a YAML file. Raises InvalidRequestError for anything else, naming file, step and key."""
    file = Path(fspath(path))
    try:
        with file.open("rb") as stream:
            text = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidRequestError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(text) > MOST_BYTES:
        raise InvalidRequestError(f"{file} is no recipe: it is larger than {MOST_BYTES >> 20} MiB")
    try:
        document = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidRequestError(f"{file}{place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidRequestError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InvalidRequestError(f"{file} is no recipe: it is nested too deeply") from error
    return parsed(document, str(file), file.parent)


def parsed(document: Any, name: str = "the recipe", folder: Path | None = None) -> Recipe:
    """The recipe in plain data: a mapping with the key `steps`, or the list of steps itself. Raises InvalidRequestError.

    Data files that it names are relative to `folder`.
    """
    if isinstance(document, Sequence) and not isinstance(document, str | bytes):
        document = {"steps": document}
    if not isinstance(document, Mapping):
        raise InvalidRequestError(f"{name} is no recipe", hint=_EXAMPLE)
    _check_keys(document, ("steps", "model", "shapes"), name)
    steps = document.get("steps")
    if isinstance(steps, str) or not isinstance(steps, Sequence) or not steps:
        said = "has no steps" if not steps else "has 'steps' that are no list"
        raise InvalidRequestError(f"{name} {said}", hint=_EXAMPLE)
    if len(steps) > MOST_STEPS:
        raise InvalidRequestError(f"{name} has {len(steps):,} steps; {MOST_STEPS:,} are the most")
    model = document.get("model") or {}
    if not isinstance(model, Mapping):
        raise InvalidRequestError(f"{name}: 'model' must hold the key sha256")
    _check_keys(model, ("sha256",), f"{name}, 'model'")
    sha256 = model.get("sha256")
    if sha256 is not None and not isinstance(sha256, str):
        raise InvalidRequestError(
            f"{name}: 'sha256' must be text, and {sha256!r} is not", hint="put it in quotes"
        )
    shapes = document.get("shapes") or {}
    _check_value("shapes", shapes, name)
    return Recipe(
        tuple(_step(step, f"{name}, step {number}", folder) for number, step in enumerate(steps, 1)),
        sha256,
        shapes,
        name,
    )


def dumped(plans: Sequence[Mapping[str, Any]], sha256: str | None) -> str:
    """YAML text of the recipe that consists of some plans (as plain data) for the model of this digest."""
    steps = [{plan["operation"]: {k: v for k, v in plan.items() if k != "operation"}} for plan in plans]
    document = {"model": {"sha256": sha256}, "steps": steps} if sha256 else {"steps": steps}
    text = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120
    )
    return f"# What onnx-grow {version()} did; to do it again: onnx-grow grow MODEL THIS-FILE\n{text}"


_EXAMPLE = "a recipe looks like this: {steps: [{widen: {factor: 1.5}}, {deepen: {every: 4}}]}"

_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"widen": widened, "deepen": deepened}
_PLANS: Mapping[str, type[WidenPlan] | type[DeepenPlan]] = {"widen": WidenPlan, "deepen": DeepenPlan}
_EXACT = {"widen": "axes", "deepen": "layers"}
"""The key that says exactly what a step does, as plans have it."""


def _step(step: Any, where: str, folder: Path | None) -> Step:
    if isinstance(step, WidenPlan | DeepenPlan):
        return Step("widen" if isinstance(step, WidenPlan) else "deepen", step, where)
    if isinstance(step, str):
        step = {step: {}}
    if not isinstance(step, Mapping) or len(step) != 1:
        raise InvalidRequestError(f"{where} must be one of widen and deepen with its options", hint=_EXAMPLE)
    _check_keys(step, tuple(_FUNCTIONS), where)
    operation, options = next(iter(step.items()))
    where = f"{where} ({operation})"
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise InvalidRequestError(f"{where}: its options must be keys and values, and {options!r} is not")
    if _EXACT[operation] in options:
        return Step(operation, _plan(operation, options, where), where)
    known = [name for name in inspect.signature(_FUNCTIONS[operation]).parameters if name != "model"]
    _check_keys(options, (*known, _EXACT[operation]), where)
    for key, value in options.items():
        _check_value(key, value, where)
    if folder is not None and isinstance(data := options.get("calibration"), str):
        if not (folder / data).exists():
            raise InvalidRequestError(
                f"{where}: {str(folder / data)!r}, the data for 'calibration', does not exist"
            )
        options = {**options, "calibration": str(folder / data)}
    return Step(operation, options, where)


def _plan(operation: str, options: Mapping[str, Any], where: str) -> WidenPlan | DeepenPlan:
    kind = _PLANS[operation]
    names = [entry.name for entry in fields(kind)]
    _check_keys(options, names, where, f"{_EXACT[operation]!r} says exactly what grows, and ")
    if operation == "widen":
        _check_axes(options["axes"], where)
    empty: dict[str, Any] = {
        name: {} if name == "inputs" else [] for name in ("inputs", "skipped", "notes") if name in names
    }
    try:
        return kind.from_json(json.dumps({"operation": operation, **empty, **options}))
    except (InvalidRequestError, TypeError, ValueError) as error:
        raise InvalidRequestError(f"{where}: {getattr(error, 'message', error)}") from error


def _check_axes(axes: Any, where: str) -> None:
    if not isinstance(axes, Sequence) or not all(isinstance(axis, Mapping) for axis in axes):
        raise InvalidRequestError(f"{where}: 'axes' must be a list of axes, each with keys and values")
    known = fields(AxisGrowth)
    for number, axis in enumerate(axes, 1):
        _check_keys(axis, [entry.name for entry in known], f"{where}, axis {number}")
        missing = [entry.name for entry in known if entry.default is MISSING and entry.name not in axis]
        if missing:
            raise InvalidRequestError(f"{where}, axis {number}: the key {missing[0]!r} is missing")


def _check_keys(found: Mapping[Any, Any], known: Sequence[str], where: str, why: str = "") -> None:
    for key in found:
        if key not in known:
            close = get_close_matches(str(key), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise InvalidRequestError(f"{where}: {why}there is no key {key!r}", hint=hint)


def _check_value(key: str, value: Any, where: str) -> None:
    """Raise InvalidRequestError for values of the wrong kind; whether they make sense is for the functions to say."""
    if value is None or key not in _KINDS:
        return
    said, fits = _KINDS[key]
    if not fits(value):
        raise InvalidRequestError(f"{where}: {key!r} must be {said}, and {value!r} is not")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, Sequence) and all(map(_is_text, value)))


def _is_amount(value: Any) -> bool:
    return _is_number(value) or _is_text(value)


def _are_widths(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value)) and all(map(_is_whole, value.values()))


def _are_shapes(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _is_text(name) and isinstance(shape, Sequence) and not _is_text(shape) and all(map(_is_whole, shape))
        for name, shape in value.items()
    )


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "activation": ("a name", _is_text),
    "after": ("a name or a list of names", _is_texts),
    "every": ("a whole number", _is_whole),
    "expansion": ("a number", _is_number),
    "factor": ("a number", _is_number),
    "kind": ("a kind or a list of kinds", _is_texts),
    "multiple_of": ("a whole number", _is_whole),
    "noise": ("a number", _is_number),
    "only": ("a name or a list of names", _is_texts),
    "scheme": ("a name", _is_text),
    "seed": ("a whole number", _is_whole),
    "shapes": ("input names with lists of sizes", _are_shapes),
    "to_macs": ("a number such as 4G", _is_amount),
    "to_params": ("a number such as 25M", _is_amount),
    "widths": ("names with whole numbers", _are_widths),
}


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which could make little text mean too much, and without keys that are said twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            events: Any = self
            mark = events.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "recipes have no aliases (*)", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = getattr(key, "value", None)
            if isinstance(name, str):
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{name!r} is said twice", key.start_mark
                    )
                seen.add(name)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
