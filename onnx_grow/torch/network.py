"""The module that runs a graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from onnx_grow.errors import InvalidRequestError
from onnx_grow.model import Model, Typed, Weight
from onnx_grow.torch.program import Program
from onnx_grow.torch.values import Context, Host, array_of

__all__ = ["Entry", "Network"]

HOST_ELEMENTS = 1 << 12
"""Elements up to which a buffer is kept on the host as well: what sizes, axes and conditions are computed from is small."""


@dataclass(frozen=True)
class Entry:
    """A tensor of the network to be: a parameter or a buffer, in its state or left out of it."""

    key: str
    tensor: torch.Tensor
    trainable: bool
    kept: bool


class Network(nn.Module):
    """A model as a module: `network(*inputs, **named)` takes its inputs in order or by name, and gives its output, or a tuple of them.

    Parameters and buffers have the names that the model has for them, and its layout. A dot in a name separates modules, as in any
    PyTorch model: `encoder.0.weight` is `network.encoder.get_submodule("0").weight`, and `get_parameter`, `functional_call` or
    `torch.export` find it. A name that cannot be written so (`a..b`, or `a` beside `a.b`) belongs to the network itself as it is: in
    `state_dict()` and `named_parameters()` it looks no different.

    `train()` and `eval()` say how BatchNormalization and Dropout work. What sizes are computed from stays on the host.
    """

    def __init__(
        self,
        program: Program,
        entries: Iterable[Entry],
        skeleton: onnx.ModelProto,
        texts: Mapping[str, Weight],
    ) -> None:
        super().__init__()
        self._program = program
        self._skeleton = skeleton
        self._texts = dict(texts)
        self._labels = {name: text.array().astype(str) for name, text in texts.items()}
        self._places: dict[str, tuple[str, ...]] = {}
        for entry in entries:
            self._places[entry.key] = self._register_entry(entry)
        self._hosts: dict[str, Host] = {}
        self._read_hosts()
        self.register_load_state_dict_post_hook(_settle)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return self._program.inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in order."""
        return self._program.outputs

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The output of the model, or a tuple of its outputs; texts (the names of classes) are arrays of NumPy's."""
        given = self._given(inputs, named)
        tensors = {key: self._tensor(place) for key, place in self._places.items()}
        context = Context(tensors, {**self._hosts, **self._labels}, self._device(given), self.training)
        values = self._program.run(context, given)
        results = tuple(values.tensor(name) for name in self._program.outputs)
        return results[0] if len(results) == 1 else results

    def emptied(self) -> Model:
        """The model that the network came from, without the values of its weights: the network has them."""
        headers = self._skeleton.graph.initializer
        return Model(self._skeleton, {t.name: self._texts.get(t.name) or Typed(t) for t in headers})

    def extra_repr(self) -> str:
        """Inputs and outputs, for `print(network)`."""
        return f"({', '.join(self.input_names)}) => ({', '.join(self.output_names)})"

    def _given(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any]:
        names = self._program.inputs
        wrong = [name for name in named if name not in names[len(inputs) :]]
        missing = [name for name in names[len(inputs) :] if name not in named]
        if wrong or missing or len(inputs) > len(names):
            raise InvalidRequestError(
                f"the network takes {', '.join(map(repr, names)) or 'no inputs'}, not {len(inputs)} in order"
                f"{' and ' + ', '.join(map(repr, named)) if named else ''}"
            )
        return [*inputs, *(named[name] for name in names[len(inputs) :])]

    def _device(self, given: Iterable[Any]) -> torch.device:
        known = (value for value in (*self._parameters_first(), *given) if isinstance(value, torch.Tensor))
        first = next(known, None)
        return torch.device("cpu") if first is None else first.device

    def _parameters_first(self) -> Iterator[torch.Tensor]:
        yield from self.parameters()
        yield from self.buffers()

    def _tensor(self, place: tuple[str, ...]) -> torch.Tensor:
        module: nn.Module = self
        *path, name = place
        for part in path:
            module = module._modules[part]
        for table in (module._parameters, module._buffers):
            if name in table:
                return table[name]
        return getattr(module, name)  # where a wrapper has put something else there

    def _register_entry(self, entry: Entry) -> tuple[str, ...]:
        value = nn.Parameter(entry.tensor) if entry.trainable else entry.tensor
        module, place = self._home(entry.key)
        name = place[-1]
        table = module._parameters if entry.trainable else module._buffers
        table[name] = value
        if not entry.trainable and not entry.kept:
            module._non_persistent_buffers_set.add(name)
        return place

    def _home(self, key: str) -> tuple[nn.Module, tuple[str, ...]]:
        """The module that a name belongs to, made if need be, and the way there."""
        *path, name = key.split(".")
        module: nn.Module = self
        for part in path:
            inner = module._modules.get(part)
            if inner is None and (not part or hasattr(module, part)):
                return self, (key,)
            module = inner if inner is not None else _added(module, part)
        return (self, (key,)) if not name or hasattr(module, name) else (module, (*path, name))

    def _read_hosts(self) -> None:
        for key, place in self._places.items():
            tensor = self._tensor(place)
            if not isinstance(tensor, nn.Parameter) and tensor.numel() <= HOST_ELEMENTS:
                array = array_of(tensor)
                if array.dtype.kind != "V" and _decides(array):
                    self._hosts[key] = array


class _Scope(nn.Module):
    """What a name has before its last dot."""

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={list(tensor.shape)}" for name, tensor in self.named_parameters(recurse=False)
        )

    def _get_name(self) -> str:
        return "Parameters"


def _added(module: nn.Module, name: str) -> nn.Module:
    scope = _Scope()
    module.add_module(name, scope)
    return scope


def _decides(array: np.ndarray[Any, Any]) -> bool:
    """Whether sizes may be computed from it: whole numbers, conditions, and few enough fractions to be a factor or a bound."""
    return array.dtype.kind in "iub" or (array.dtype.kind == "f" and array.size <= 16)


def _settle(network: Network, incompatible: Any) -> None:
    """After a state is loaded: read the host's part again, and let PyTorch not wonder at dots in names that are no modules."""
    network._read_hosts()
    own = tuple(f".{place[0]}" for place in network._places.values() if len(place) == 1)
    unexpected = incompatible.unexpected_keys
    unexpected[:] = [key for key in unexpected if not f".{key}".endswith(own)]
