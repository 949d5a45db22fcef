"""Examples to train on: arrays in an .npz file, or a folder of images for each class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from onnx_grow.errors import InvalidRequestError
from onnx_grow.model import Model
from onnx_grow.model.arrays import read_arrays
from onnx_grow.training.requirements import require

__all__ = ["Examples", "Interface", "Pixels", "check_teacher", "interface", "pixels", "read_examples"]

Array = np.ndarray[Any, Any]

Pixels = Callable[[Any, tuple[int | None, ...]], Array]
"""Makes of an image (of PIL) what a network takes, without the batch dimension."""

TARGETS = ("labels", "label", "targets", "target", "y")
"""What the array of an .npz file that is to be learned may be called."""

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Interface:
    """What a network takes and gives: NumPy types and shapes by name, None where a size is open.

    `batch` is the number of samples that the network takes at a time, None where any will do.
    """

    inputs: Mapping[str, tuple[np.dtype[Any], tuple[int | None, ...]]]
    outputs: Mapping[str, tuple[np.dtype[Any], tuple[int | None, ...]]]

    @property
    def batch(self) -> int | None:
        """The size of the first dimension of the inputs, where it is fixed."""
        sizes = {shape[0] for _, shape in self.inputs.values() if shape}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def classes(self) -> int | None:
        """How many classes the scores tell apart, where there are scores of one kind and their shape says so."""
        scores = [shape for dtype, shape in self.outputs.values() if dtype.kind == "f" and len(shape) == 2]
        return scores[0][1] if len(scores) == 1 else None


@dataclass(frozen=True, eq=False)
class Examples:
    """Samples that are fetched by their numbers, so many at a time.

    `fetch(numbers)` gives the inputs of these samples, in the order of the network, and what it shall learn of them. `classes` are the
    names of the classes, where the data have names for them; `targets` is all that is to be learned.
    """

    fetch: Callable[[Array], tuple[tuple[Array, ...], Array]]
    targets: Array
    numbers: Array
    source: str
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def has_classes(self) -> bool:
        """Whether what is to be learned is the number of a class."""
        return self.targets.dtype.kind in "iu" and self.targets.ndim == 1

    def __getitems__(self, positions: Sequence[int]) -> tuple[tuple[Array, ...], Array]:
        return self.fetch(self.numbers[np.asarray(positions, np.int64)])

    def part(self, positions: Array) -> Examples:
        """Only some of the samples."""
        return replace(self, numbers=self.numbers[positions])

    def divided(self, held_out: float, seed: int) -> tuple[Examples, Examples]:
        """The samples to train on and those to evaluate on, drawn by `seed`, of each class about the same part.

        Raises InvalidRequestError where one of the two would be empty.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        if self.has_classes:
            labels = self.targets[self.numbers[order]]
            order = order[np.argsort(labels, kind="stable")]
            rank = np.arange(len(self))
            kept = np.floor((rank + 1) * held_out) > np.floor(rank * held_out)
        else:
            kept = np.arange(len(self)) < round(held_out * len(self))
        if kept.all() or not kept.any():
            raise InvalidRequestError(
                f"of {len(self)} sample{'s'[: len(self) > 1]} in {self.source} a part of {held_out:g} cannot be held out for evaluation",
                hint="give other data to evaluate on with --test, or change held_out in the recipe",
            )
        return self.part(np.sort(order[~kept])), self.part(np.sort(order[kept]))


def interface(model: Model) -> Interface:
    """What a model takes and gives. Raises InvalidRequestError where an input is no tensor of numbers."""
    graph = model.skeleton.graph
    inputs = {value.name: _declared(value) for value in graph.input if value.name not in model.weights}
    return Interface(inputs, {value.name: _declared(value) for value in graph.output})


def check_teacher(teacher: Model, model: Model) -> None:
    """Raise InvalidRequestError for a teacher that takes something else: growing leaves the inputs as they are."""
    there, here = interface(teacher).inputs, interface(model).inputs
    for name in (*here, *there):
        if here.get(name) != there.get(name):
            found, due = (
                f"{entry[0]} of shape {_told(entry[1])}" if entry else "missing"
                for entry in (there.get(name), here.get(name))
            )
            raise InvalidRequestError(
                f"the teacher is not what the model grew from: input {name!r} is {found} in the teacher, and {due} in the model",
                hint="--teacher takes the very file that was grown",
            )


def read_examples(
    path: str | Path, model: Model, *, pixels: Pixels | None = None, labelled: bool = True
) -> Examples:
    """The examples in a file or folder, for a model.

    An `.npz` file holds an array for each input, under its name, and one of `labels` (or `targets`); the first dimension of all counts
    samples. A model with one input takes the only other array, whatever its name, and dimensions of size one are put where the model has
    them. A folder holds a folder of images for each class, the classes being numbered in the order of their names; `pixels` makes of an
    image what the network takes (default: `onnx_grow.training.pixels`). Unless they have to be `labelled`, there may be inputs only, and
    targets are zero.

    Raises InvalidRequestError for whatever is missing, has another shape, or belongs to a class that the model does not have.
    """
    source, taken = Path(path), interface(model)
    if not source.exists():
        raise InvalidRequestError(f"{source} does not exist", hint="give an .npz file or a folder of images")
    folder = source.is_dir()
    examples = (
        _from_folder(source, taken, pixels or _pixels) if folder else _from_arrays(source, taken, labelled)
    )
    if not len(examples):
        raise InvalidRequestError(f"{source} has no samples")
    _check_classes(examples, taken)
    return examples


def pixels(image: Any, shape: tuple[int | None, ...]) -> Array:
    """An image as numbers from 0 to 1, of the size and in the layout of a network's input.

    `shape` is that of the input without the batch: channels first or last, one of them (grey) or three (colours).
    """
    if len(shape) != 3 or not {shape[0], shape[2]} & {1, 3}:
        raise InvalidRequestError(
            f"the network takes no images but arrays of shape {_told(shape)}",
            hint="give an .npz file, or a function of your own that makes such arrays of images",
        )
    first = shape[0] in (1, 3)
    channels, height, width = (shape[0], *shape[1:]) if first else (shape[2], *shape[:2])
    image = _in_bytes(image).convert("L" if channels == 1 else "RGB")
    image = image.resize((width or image.width, height or image.height))
    values = np.asarray(image, np.float32).reshape(image.height, image.width, -1) / 255
    return np.ascontiguousarray(values.transpose(2, 0, 1) if first else values)


_pixels = pixels


def _in_bytes(image: Any) -> Any:
    """An image with values from 0 to 255: of one with 16 bits, which `convert` would make white, the upper eight."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InvalidRequestError(
            f"the image holds {'whole numbers of 32 bits' if image.mode == 'I' else 'fractions'}, and does not say from where to where",
            hint="scale it in pixels() of train.py",
        )
    return image


def _declared(value: Any) -> tuple[np.dtype[Any], tuple[int | None, ...]]:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise InvalidRequestError(
            f"{value.name!r} is no tensor",
            hint="export the teacher with tensors (scikit-learn: options={'zipmap': False}), and grow that",
        )
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
    return helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape


def _from_arrays(file: Path, taken: Interface, labelled: bool) -> Examples:
    arrays = _loaded(file)
    target = next((name for name in TARGETS if name in arrays and name not in taken.inputs), None)
    if target is None and not labelled and arrays:
        target = TARGETS[0]
        arrays[target] = np.zeros(max(array.shape[0] if array.ndim else 0 for array in arrays.values()))
    if target is None:
        raise InvalidRequestError(
            f"{file} has no labels: there is {_listed(arrays)}",
            hint=f"what is to be learned is an array named {TARGETS[0]!r} or {TARGETS[2]!r}",
        )
    targets = arrays.pop(target)
    names = {name: name for name in taken.inputs}
    if len(taken.inputs) == 1 and len(arrays) == 1:
        names = dict(zip(taken.inputs, arrays, strict=True))
        arrays = dict(zip(taken.inputs, arrays.values(), strict=True))
    if missing := [name for name in taken.inputs if name not in arrays]:
        raise InvalidRequestError(
            f"{file} has no array {missing[0]!r}, which the network takes: there is {_listed(arrays)}",
            hint=f"inputs: {', '.join(taken.inputs)}",
        )
    inputs = [_fitting(file, names[name], arrays[name], *declared) for name, declared in taken.inputs.items()]
    if targets.dtype.kind not in "iubf":
        raise InvalidRequestError(
            f"{file}: {target!r} is {'text' if targets.dtype.kind in 'US' else targets.dtype}, and numbers are learned",
            hint=f"np.unique({target}, return_inverse=True)[1] numbers classes in the order of their names",
        )
    for name, array in zip((*names.values(), target), (*inputs, targets), strict=True):
        if array.ndim == 0 or len(array) != len(targets):
            raise InvalidRequestError(
                f"{file}: {name!r} has {len(array) if array.ndim else 'no'} samples, and {target!r} {len(targets)}",
                hint="the first dimension of every array counts the same samples",
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
            raise InvalidRequestError(
                f"{file}: {name!r} holds values that are not finite (NaN or infinite) in {len(bad):,} of {len(array):,} samples",
                hint=f"the first one is sample {bad[0]}, counted from 0: leave such samples out, or fill in what is missing",
            )
    if targets.dtype.kind in "iub":
        targets = targets.astype(np.int64)
    elif targets.dtype == np.float64:
        targets = targets.astype(np.float32)
    return Examples(_Arrays(tuple(inputs), targets), targets, np.arange(len(targets)), str(file))


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Samples that lie in memory."""

    inputs: tuple[Array, ...]
    targets: Array

    def __call__(self, numbers: Array) -> tuple[tuple[Array, ...], Array]:
        return tuple(array[numbers] for array in self.inputs), self.targets[numbers]


def _loaded(file: Path) -> dict[str, Array]:
    loaded = read_arrays(file, hint="give an .npz file, or a folder of images")
    if isinstance(loaded, np.ndarray):
        raise InvalidRequestError(
            f"{file} holds one array, without labels", hint="give an .npz file with both"
        )
    return loaded


def _fitting(
    file: Path, name: str, array: Array, dtype: np.dtype[Any], shape: tuple[int | None, ...]
) -> Array:
    """An array as the network takes it: dimensions of size one may be missing or too many, and numbers get its type."""
    fits = len(shape) == array.ndim and all(
        n in (None, m) for n, m in zip(shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        array = (
            _reshaped(array, shape)
            if _is_alike(array.shape, shape)
            else _misfit(file, name, array.shape, shape)
        )
    if array.dtype.kind not in {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}.get(dtype.kind, dtype.kind):
        raise InvalidRequestError(f"{file}: {name!r} is {array.dtype}, the network takes {dtype}")
    return array.astype(dtype, copy=False)


def _is_alike(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether two shapes differ by dimensions of size one only, the first aside, which counts samples."""
    return None not in wanted[1:] and [n for n in found[1:] if n != 1] == [n for n in wanted[1:] if n != 1]


def _reshaped(array: Array, shape: tuple[int | None, ...]) -> Array:
    return array.reshape(len(array), *(n for n in shape[1:] if n is not None))


def _misfit(file: Path, name: str, found: tuple[int, ...], wanted: tuple[int | None, ...]) -> Array:
    raise InvalidRequestError(
        f"{file}: {name!r} has shape {_told(found)}, and the network takes {_told((None, *wanted[1:]))}",
        hint=_reshape_hint(name, found, wanted) or "the first dimension counts samples and may be any",
    )


def _reshape_hint(name: str, found: tuple[int, ...], wanted: tuple[int | None, ...]) -> str:
    """How an array of as many numbers per sample gets the shape, where that is known."""
    sizes = [size for size in wanted[1:] if size is not None]
    if not name.isidentifier() or len(sizes) < len(wanted) - 1 or math.prod(sizes) != math.prod(found[1:]):
        return ""
    return f"{name}.reshape({', '.join(map(str, (-1, *sizes)))}) has it, if the numbers are in that order"


def _from_folder(folder: Path, taken: Interface, pixels: Pixels) -> Examples:
    require("PIL", "a folder of images")
    if len(taken.inputs) != 1:
        raise InvalidRequestError(
            f"the network has {len(taken.inputs)} inputs: a folder of images does not fill them",
            hint="give an .npz file",
        )
    (declared,) = taken.inputs.values()
    folders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [(file, label) for label, part in enumerate(folders) for file in _images(part)]
    if not files:
        raise InvalidRequestError(
            f"{folder} holds no labelled images", hint="it has to hold a folder of images for each class"
        )
    labels = np.array([label for _, label in files], np.int64)
    fetch = _Images(tuple(file for file, _ in files), labels, pixels, *declared)
    fetch(np.arange(1))  # a layout that does not fit shows at once
    return Examples(fetch, labels, np.arange(len(labels)), str(folder), tuple(part.name for part in folders))


@dataclass(frozen=True, eq=False)
class _Images:
    """Samples that are read when they are needed."""

    files: tuple[Path, ...]
    labels: Array
    pixels: Pixels
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def __call__(self, numbers: Array) -> tuple[tuple[Array, ...], Array]:
        return (np.stack([self._one(self.files[number]) for number in numbers]),), self.labels[numbers]

    def _one(self, file: Path) -> Array:
        from PIL import Image

        try:
            with Image.open(file) as image:
                values = np.asarray(self.pixels(image, self.shape[1:]), self.dtype)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{file}: {error.message}", hint=error.hint) from None
        except (OSError, Image.DecompressionBombError) as error:  # among them UnidentifiedImageError
            raise InvalidRequestError(f"{file} cannot be read as an image: {error}") from error
        fits = _has_shape(values, self.shape[1:])
        return values if fits else _misfit(file, "the image", (1, *values.shape), self.shape)


def _has_shape(values: Array, shape: tuple[int | None, ...]) -> bool:
    return values.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, values.shape, strict=True))


def _images(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGES)


def _check_classes(examples: Examples, taken: Interface) -> None:
    """Refuse labels below zero or beyond the classes that the network tells apart, where it says how many."""
    if not examples.has_classes:
        return
    count = taken.classes
    low, high = int(examples.targets.min()), int(examples.targets.max())
    named = f" ({examples.classes[high]!r})" if examples.classes else ""
    if low < 0 or (count is not None and high >= count):
        beyond = f"label {low}" if low < 0 else f"label {high}{named}"
        raise InvalidRequestError(
            f"{examples.source} has {beyond}, and the network tells {count or 'its'} classes apart",
            hint=f"labels count from 0{f' to {count - 1}' if count else ''}",
        )


def _listed(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name!r} {_told(array.shape)}" for name, array in arrays.items()) or "nothing"


def _told(shape: Sequence[int | None]) -> str:
    """A shape as messages have it; n is any size."""
    return f"[{', '.join('n' if size is None else str(size) for size in shape)}]"
