"""The folder that a grown model is trained in, and the way back from trained weights."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from onnx_grow.errors import InvalidRequestError, OutputError
from onnx_grow.growth.correspondence import lists, replayed
from onnx_grow.growth.inheritance import inheritances
from onnx_grow.growth.provenance import history, version
from onnx_grow.model import Inline, Model, Weight, save
from onnx_grow.model.staging import hidden_folder
from onnx_grow.model.tensors import Held, held
from onnx_grow.training.data import Interface, check_teacher, interface
from onnx_grow.training.files import write_tensors
from onnx_grow.training.recipe import Recipe
from onnx_grow.training.requirements import require

__all__ = ["LOSSES", "OPTIMIZER", "export", "exported_tensors", "tuned"]

Array = np.ndarray[Any, Any]

OPTIMIZER = "optimizer.pt"
"""The file of the state of the teacher's optimizer, in the folder."""

_OPTIONAL = ("teacher.onnx", "growth_map.json", OPTIMIZER)
"""The files of an export that not every export has."""

LOSSES = ("cross-entropy", "nll", "binary-cross-entropy", "mse")


def export(
    model: Model,
    folder: str | os.PathLike[str],
    *,
    teacher: Model | None = None,
    recipe: Recipe | None = None,
    loss: str | None = None,
    output: str | None = None,
    optimizer_state: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> tuple[Path, ...]:
    """Write what the training of a model needs into a folder; the files, all of them or none.

    `model.onnx`, its weights as `weights.safetensors` (names and layout of the ONNX file), `recipe.yaml`, a `train.py` that runs
    as it is; with the `teacher` that the model grew from also `teacher.onnx` and `growth_map.json`. `loss` is one of `LOSSES` and
    `output` the output it looks at; by default both follow from the model's outputs. `optimizer_state` is a file with the state of
    the teacher's optimizer (its `state_dict()`, or the `checkpoint.pt` of its training), with which `train.py` will begin.

    Raises OutputError where the folder holds anything and `force` is not set, InvalidRequestError for an output that does not exist,
    for a teacher that the model does not record to have come of, and for a state that is not the teacher's.
    """
    target = Path(folder).absolute()
    script = _script(model, loss, output)  # before anything is written
    growth = "" if teacher is None else _map(teacher, model)
    state = None if optimizer_state is None else Path(optimizer_state)
    if state is not None:
        _check_state(state, teacher)
    _check_folder(target, force)
    try:
        with hidden_folder(target.parent) as staged:
            inside = staged / target.name
            inside.mkdir()
            save(model, inside / "model.onnx")
            write_tensors(inside / "weights.safetensors", exported_tensors(model), {"onnx_grow": version()})
            (inside / "recipe.yaml").write_text(
                (recipe or Recipe()).to_yaml(notes(model, remembers=state is not None)), encoding="utf-8"
            )
            (inside / "train.py").write_text(script, encoding="utf-8")
            if teacher is not None:
                save(teacher, inside / "teacher.onnx")
                (inside / "growth_map.json").write_text(growth, encoding="utf-8")
            if state is not None:
                shutil.copyfile(state, inside / OPTIMIZER)
            names = sorted(entry.name for entry in inside.iterdir())
            if not target.exists():
                inside.rename(target)
            else:
                for name in names:
                    os.replace(inside / name, target / name)
                for name in {*_OPTIONAL} - {*names}:  # of an earlier export, of another model perhaps
                    (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
    return tuple(target / name for name in names)


def _check_state(file: Path, teacher: Model | None) -> None:
    """Raise InvalidRequestError unless the file holds the state of an optimizer of the teacher."""
    if teacher is None:
        raise InvalidRequestError(
            "the state of an optimizer is of the teacher, which is not given",
            hint="name it with --teacher (teacher= in Python)",
        )
    require("torch", "the state of an optimizer")
    from onnx_grow.training.checkpoints import read_optimizer_state
    from onnx_grow.training.optimizers import moments

    moments(read_optimizer_state(file), teacher)


def exported_tensors(model: Model) -> dict[str, Array]:
    """The floating-point tensors of a model, by name: what training may change."""
    return {each.key: each.array() for each in _exchanged(held(model))}


def tuned(model: Model, tensors: Mapping[str, Array]) -> Model:
    """The model with other values for its floating-point tensors, which all have to be there, of the same shapes.

    Values are rounded to the element types of the model. Integers may be there, too, if they are those of the model.
    Raises InvalidRequestError naming the tensor that is missing, unknown, not finite, or of another shape or type.
    """
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model.skeleton)
    weights: dict[str, Weight] = dict(model.weights)
    every = {each.key: each for each in held(model, skeleton)}
    if unknown := [name for name in tensors if name not in every]:
        near = get_close_matches(unknown[0], every, 1)
        raise InvalidRequestError(
            f"the model has no tensor {unknown[0]!r}" + _more(unknown),
            hint=f"did you mean {near[0]!r}?" if near else "give the weights of this model",
        )
    wanted = {each.key: each for each in _exchanged(every.values())}
    if missing := [name for name in wanted if name not in tensors]:
        raise InvalidRequestError(
            f"there is no tensor {missing[0]!r} among the weights" + _more(missing),
            hint="all floating-point tensors of the model have to be there: network.state_dict() has them",
        )
    for name, array in tensors.items():
        each = every[name]
        values = _fitting(each, array, learnt=name in wanted)
        if each.is_weight:
            weights[each.name] = Inline.of(values)
        elif each.replace is not None:
            each.replace(values)
    return replace(model, skeleton=skeleton, weights=weights, path=None, data_files=(), content=None)


def _exchanged(tensors: Any) -> Iterator[Held]:
    for each in tensors:
        if (each.is_weight or each.replace is not None) and _is_float(tensor_dtype_to_np_dtype(each.dtype)):
            yield each


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name in ("bfloat16",)


def _fitting(each: Held, array: Array, *, learnt: bool) -> Array:
    """The values as the model holds them."""
    old = each.array()
    if array.shape != old.shape:
        raise InvalidRequestError(
            f"{each.key!r} has shape {list(array.shape)} among the weights, and {list(old.shape)} in the model",
            hint="give the model that these weights were trained for",
        )
    if not learnt:
        if not np.array_equal(array.astype(old.dtype), old):
            raise InvalidRequestError(
                f"{each.key!r} has other values than in the model: it holds no parameters but sizes or indices",
                hint="give the model that these weights were trained for",
            )
        return old
    if not _is_float(array.dtype):
        raise InvalidRequestError(
            f"{each.key!r} is {array.dtype} among the weights, and {old.dtype} in the model"
        )
    with np.errstate(over="ignore"):
        values = array.astype(old.dtype)
    if not np.isfinite(values.astype(np.float32)).all() and np.isfinite(old.astype(np.float32)).all():
        raise InvalidRequestError(
            f"{each.key!r} holds values that are not finite among the weights",
            hint="the training has diverged: take an earlier checkpoint, and a lower learning rate",
        )
    return values


def _more(names: list[str]) -> str:
    return f", nor {len(names) - 1} others" if len(names) > 1 else ""


def _check_folder(target: Path, force: bool) -> None:
    if not target.parent.is_dir():
        raise OutputError(
            f"the folder {target.parent} does not exist", hint="create it, or choose another with -o"
        )
    if os.path.lexists(target) and not target.is_dir():
        raise OutputError(f"{target} is a file", hint="name a folder with -o")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise OutputError(
            f"{target} holds files already",
            hint="--force replaces those of an export and leaves the others, -o names another folder",
        )


def notes(model: Model, *, remembers: bool = False) -> tuple[str, ...]:
    """What there is to know of a network before it is trained; `remembers` if the state of the teacher's optimizer goes along."""
    operators = Counter(node.op_type for node in model.skeleton.graph.node)
    said = []
    if remembers:
        said.append(
            f"{OPTIMIZER} is what the teacher's optimizer remembers; it grows with the network when training begins. It has to be of the\n"
            "optimizer in train.py (AdamW continues Adam and AdamW). Without the file the optimizer begins empty."
        )
    if not operators["Dropout"]:
        said.append(
            "The file holds no Dropout: exporters leave it out of a model in eval mode. If the teacher was trained with it,\n"
            "train on without, add noise of another kind (augmentation, weight decay), or export the teacher in training mode."
        )
    if _is_half(model):
        said.append(
            "There are float16 weights: a step may be smaller than what they can tell apart. Where there is a float32 file\n"
            "of the teacher, grow and train that one, and convert the result."
        )
    if operators["BatchNormalization"]:
        said.append(
            f"{operators['BatchNormalization']} BatchNormalization: in training they use the statistics of the batch: take no small ones."
        )
    elif operators["Conv"]:
        said.append(
            "No BatchNormalization: if the teacher had it, the exporter has folded it into the convolutions. That is fine at this\n"
            "learning rate; for higher ones put it back: onnx-grow export --reinsert-bn DATA."
        )
    fixed = interface(model).batch
    if fixed is not None:
        said.append(
            f"The file fixes the batch at {fixed}: there are {fixed} samples in a step (and process), whatever batch_size says.\n"
            "Export the teacher with an open batch size, and grow that, for more."
        )
    said.append(
        "The optimizer starts with no memory. Where the teacher's is at hand, onnx_grow.training.grow_optimizer_state grows it."
    )
    return tuple(said)


def _map(teacher: Model, model: Model) -> str:
    """What was done to the teacher, and the growth map as `onnx-grow diff --map` writes it, in JSON.

    Raises InvalidRequestError where the model does not record that it came of this teacher.
    """
    check_teacher(teacher, model)
    inheritances(teacher, model)
    _, maps = replayed(teacher, model)
    return json.dumps({"history": history(model), "map": lists(maps)})


@dataclass(frozen=True)
class _Goal:
    """What is to be learned: a loss as Python, and what the network says of a class, if it does."""

    loss: str
    accuracy: str = ""


def _script(model: Model, loss: str | None, output: str | None) -> str:
    from jinja2 import Environment, PackageLoader

    goal = _goal(model, loss, output)
    environment = Environment(
        loader=PackageLoader("onnx_grow.training", ""), keep_trailing_newline=True, autoescape=False
    )
    inputs = ", ".join(interface(model).inputs)
    return environment.get_template("train.py.jinja").render(
        inputs=inputs.replace("\\", " ").replace('"', "'"),
        loss=goal.loss,
        accuracy=goal.accuracy,
        half=_is_half(model),
    )


def _is_half(model: Model) -> bool:
    return any(weight.dtype == TensorProto.FLOAT16 and weight.shape for weight in model.weights.values())


def _goal(model: Model, loss: str | None, output: str | None) -> _Goal:
    taken = interface(model)
    chosen = output or _scores(taken)
    if chosen not in taken.outputs:
        raise InvalidRequestError(
            f"the model has no output {chosen!r}", hint=f"outputs: {', '.join(taken.outputs)}"
        )
    kind = loss or _loss(model, taken, chosen)
    value = f"outputs[{chosen!r}]"
    rank = len(taken.outputs[chosen][1])
    classes = f"{value}.argmax(1)" if rank != 3 else f"{value}.argmax(2)"
    flat = (f"{value}.flatten(0, 1)", "target.flatten()") if rank == 3 else (value, "target")
    match kind:
        case "cross-entropy":
            return _Goal(f"functional.cross_entropy({', '.join(flat)})", classes)
        case "nll":
            likely = _origin(model, chosen)
            scores = flat[0] if likely == "LogSoftmax" else f"{flat[0]}.clamp_min(1e-12).log()"
            return _Goal(f"functional.nll_loss({scores}, {flat[1]})", classes)
        case "binary-cross-entropy":
            return _Goal(
                f"functional.binary_cross_entropy({value}, target.view_as({value}).to({value}.dtype))",
                f"({value} > 0.5).long().view_as(target)",
            )
        case "mse":
            return _Goal(f"functional.mse_loss({value}, target.view_as({value}).to({value}.dtype))")
    raise InvalidRequestError(f"there is no loss {kind!r}", hint=f"losses are {', '.join(LOSSES)}")


def _scores(taken: Interface) -> str:
    """The output that is learned: the first of floating-point numbers, scores of classes before others."""
    floats = {name: shape for name, (dtype, shape) in taken.outputs.items() if _is_float(dtype)}
    return next(
        (name for name, shape in floats.items() if len(shape) == 2), next(iter(floats or taken.outputs), "")
    )


def _loss(model: Model, taken: Interface, output: str) -> str:
    shape, origin = taken.outputs[output][1], _origin(model, output)
    if origin in ("Softmax", "LogSoftmax"):
        return "nll"
    if origin == "Sigmoid":
        return "binary-cross-entropy"
    return "cross-entropy" if len(shape) in (2, 3) and shape[-1] != 1 else "mse"


def _origin(model: Model, tensor: str) -> str:
    """The operator that computes a tensor, views and conversions aside."""
    producers: dict[str, NodeProto] = {
        name: node for node in model.skeleton.graph.node for name in node.output
    }
    while (node := producers.get(tensor)) is not None and node.op_type in _VIEWS:
        tensor = node.input[0]
    return node.op_type if node is not None else ""


_VIEWS = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
