"""What the PyTorch sources share: weights that hide nothing, small images, and the two exporters."""

from __future__ import annotations

import logging
import random
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

EXPORTERS = ("torchscript", "dynamo")
OPSETS = {"torchscript": (13, 15, 17, 18), "dynamo": (18, 20, 21, 23)}
"""One of them is drawn; where it lacks an operator, the newest serves."""
THINNED = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm),
)
CHANNELS = ("in_channels", "out_channels", "in_features", "out_features", "num_features", "num_channels")
"""How their constructors call numbers of channels."""

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)  # exporters have much to say


def export(
    model: nn.Module, inputs: tuple[Any, ...], file: Path, exporter: str, names: Sequence[str] = ()
) -> dict[str, Any]:
    """Write a model with realistic weights, and tell the shapes of its inputs, the opset, and what was drawn for it.

    The model's name (the file's) draws the opset, whether the batch is dynamic, and whether BatchNormalization is kept or folded.
    Raises RuntimeError when the outputs do not depend on the inputs, and what the exporter raises.
    """
    draw = random.Random(zlib.crc32(file.stem.encode()))
    opset, newest = draw.choice(OPSETS[exporter]), OPSETS[exporter][-1]
    dynamic, kept = draw.random() < (0.5 if exporter == "torchscript" else 0.2), draw.random() < 0.5
    model = Plain(make_realistic(model, inputs)).eval()
    check_alive(model, inputs)
    names = list(names) or [f"input{k or ''}" for k in range(len(inputs))]
    write = _torchscript if exporter == "torchscript" else _dynamo
    tries = dict.fromkeys([(opset, dynamic), (newest, dynamic), (newest, False)])
    errors: list[Exception] = []
    for opset, batch in tries:
        try:
            write(model, inputs, file, names, opset, batch, kept)
            fed = check_faithful(model, dict(zip(names, inputs, strict=True)), file)
        except Exception as error:  # an exporter fails with whatever its own code ran into
            errors.append(error)
            continue
        return {
            "exporter": exporter,
            "opset": opset,
            "dynamic_batch": batch,
            "inputs": {name: {"shape": list(value.shape)} for name, value in fed.items()},
        }
    raise errors[0]


def _torchscript(
    model: nn.Module,
    inputs: tuple[Any, ...],
    file: Path,
    names: list[str],
    opset: int,
    dynamic: bool,
    kept: bool,
) -> None:
    mode = torch.onnx.TrainingMode
    torch.onnx.export(
        model,
        inputs,
        str(file),
        dynamo=False,
        opset_version=opset,
        input_names=names,
        dynamic_axes={name: {0: "batch"} for name in names} if dynamic else None,
        training=mode.PRESERVE if kept else mode.EVAL,
    )


def _dynamo(
    model: nn.Module,
    inputs: tuple[Any, ...],
    file: Path,
    names: list[str],
    opset: int,
    dynamic: bool,
    kept: bool,
) -> None:
    shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs) if dynamic else None
    torch.onnx.export(
        model,
        inputs,
        str(file),
        dynamo=True,
        opset_version=opset,
        input_names=names,
        dynamic_shapes=shapes and (shapes,),
        optimize=not kept,
        external_data=False,
        verbose=False,
    )


class Plain(nn.Module):
    """A model whose outputs are the floating-point tensors among whatever it returns, at most four, without caches."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(tensors(self.model(*inputs)))[:4]


def tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in whatever a model returns, without caches."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if "past" not in str(key) and "cache" not in str(key):
                yield from tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def make_realistic(model: nn.Module, inputs: tuple[Any, ...], seed: int = 0) -> nn.Module:
    """Draw anew what an initialisation leaves trivial: ones, zeros, layer scales of 1e-6, tiny matrices, running statistics of 0 and 1.

    Such weights let errors hide: a wrong copy of a one is still a one, and a branch that is scaled to nothing cannot be wrong.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            _enliven(parameter, draw)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
                _scale(module.weight)
        _measure_statistics(model, inputs, draw)
    return model.eval()


def _enliven(parameter: nn.Parameter, draw: torch.Generator) -> None:
    """Replace a constant by values spread around it."""
    if not parameter.is_floating_point() or not parameter.numel() or parameter.ndim == 0:
        return
    low, high = parameter.aminmax()
    if low != high or parameter.numel() == 1:
        return
    noise = torch.rand(parameter.shape, generator=draw)
    if low == 0:
        parameter.copy_((noise - 0.5) * 0.4)
    else:
        parameter.copy_((noise + 0.5) * (low if abs(low) > 0.1 else 0.5))


def _scale(weight: Tensor) -> None:
    """Let a matrix or a kernel pass its input on at about its size."""
    wanted = weight[0].numel() ** -0.5
    if 0 < (spread := weight.std()) < wanted / 2:
        weight.mul_(wanted / spread)


def _measure_statistics(model: nn.Module, inputs: tuple[Any, ...], draw: torch.Generator) -> None:
    """Give every BatchNormalization the statistics of a forward pass, slightly off, as if from other data."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        and isinstance(getattr(module, "running_var", None), Tensor)
    ]
    if not norms:
        return
    model.eval()
    for norm in norms:
        norm.momentum, training = None, norm.training
        norm.reset_running_stats()
        norm.train(not training)
    with suppress(ValueError):  # one value per channel has no variance
        model(*inputs)
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        var.add_(var.mean()).clamp_(min=1e-3)  # a channel that hardly varies would turn rounding into noise
        var.mul_(torch.rand(var.shape, generator=draw) * 0.4 + 0.45)
        mean.add_(var.sqrt() * (torch.rand(mean.shape, generator=draw) - 0.5) * 0.4)


def check_alive(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raise RuntimeError unless some output is finite and depends on the inputs."""
    with torch.no_grad():
        first, other = model(*inputs), model(*(_redrawn(value) for value in inputs))
    if not all(output.isfinite().all() for output in first):
        raise RuntimeError("outputs are not finite")
    pairs = zip(first, other, strict=True)
    if all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=0) for a, b in pairs):
        raise RuntimeError("outputs do not depend on the inputs")


def check_faithful(model: nn.Module, inputs: Mapping[str, Tensor], file: Path) -> Mapping[str, Tensor]:
    """The inputs that the file has, those that nothing reads left out.

    Raises RuntimeError unless ONNX Runtime computes from the file what the model computes.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    fed = {value.name: inputs[value.name] for value in session.get_inputs()}
    results = session.run(None, {name: value.numpy() for name, value in fed.items()})
    with torch.no_grad():
        expected = model(*inputs.values())
    for mine, theirs in zip(expected, map(torch.from_numpy, results), strict=True):
        if mine.shape != theirs.shape or (mine - theirs).norm() > 0.01 * mine.norm():
            raise RuntimeError("ONNX Runtime computes something else from the exported file")
    return fed


def _redrawn(value: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    if value.is_floating_point():
        return torch.randn(value.shape, generator=draw)
    return value.flip(-1) if value.ndim else value


def image(side: int, batch: int = 2, channels: int = 3) -> Tensor:
    """Normal noise in the shape of pictures."""
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(0))


def first_that_runs(
    tries: Sequence[Callable[[], tuple[nn.Module, tuple[Any, ...]]]],
) -> tuple[nn.Module, tuple[Any, ...]]:
    """The first of several ways to build a model that builds and runs. Raises what the last one raised."""
    for k, build in enumerate(tries):
        try:
            torch.manual_seed(0)
            model, inputs = build()
            with torch.no_grad():
                model.eval()(*inputs)
        except Exception:  # a constructor fails in as many ways as there are authors
            if k == len(tries) - 1:
                raise
        else:
            return model, inputs
    raise ValueError("no way to build it was given")


@contextmanager
def thin_layers(divisor: int) -> Iterator[None]:
    """Within it, convolutions, linear layers and their norms are built with fewer channels.

    A number of channels that `divisor` divides becomes that fraction; every other one (colours, odd head counts) stays, so that the
    layers of a network that is written in channel numbers still fit each other.
    """

    def thin(channels: int) -> int:
        return channels // divisor if channels % divisor == 0 and channels > divisor else channels

    def thinned(init: Callable[..., None]) -> Callable[..., None]:
        wanted = signature(init)

        def built(*args: Any, **kwargs: Any) -> None:
            given = wanted.bind(*args, **kwargs)
            said = given.arguments
            if "groups" in said and said["groups"] == said["in_channels"]:
                said["groups"] = thin(said["groups"])
            said.update({name: thin(said[name]) for name in CHANNELS if name in said})
            init(*given.args, **given.kwargs)

        return built

    originals = {kind: kind.__init__ for kind in THINNED}
    try:
        for kind, init in originals.items():
            kind.__init__ = thinned(init)  # type: ignore[method-assign]
        yield
    finally:
        for kind, init in originals.items():
            kind.__init__ = init  # type: ignore[method-assign]
