"""The teachers: small networks of four families, as ONNX models with BatchNormalization kept."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from data import CONTEXT, Data, digits, distorted, mnist, text
from torch import Tensor, nn

import onnx_grow as og


class Residual(nn.Module):
    """y = relu(s + f(s)) with two convolutions in f; with a stride, s goes through a convolution of its own."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.skip(x) + self.branch(x))


class Attention(nn.Module):
    """Causal self-attention with two heads."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -1e4).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).reshape(-1, CONTEXT, self.heads, self.size).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) * self.size**-0.5 + self.mask
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(-1, CONTEXT, self.heads * self.size))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Characters(nn.Module):
    """A language model over characters: embedding, position, blocks, norm, head."""

    def __init__(self, classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.position = nn.Embedding(CONTEXT, width)
        self.register_buffer("places", torch.arange(CONTEXT))
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, codes: Tensor) -> Tensor:
        stream = self.embedding(codes) + self.position(self.places)
        return self.head(self.norm(self.blocks(stream)))


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(196, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)
    )


def _convolutional() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 8), (8, 16), (16, 32)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2) if outputs < 32 else nn.AdaptiveAvgPool2d(1),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10))


def _residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Residual(8, 8),
        Residual(8, 16, 2),
        Residual(16, 16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def _characters() -> nn.Module:
    return Characters(text().classes, 16, 2)


@dataclass(frozen=True)
class Task:
    """A network, its data, and how long it trains: `steps` for a strong teacher and for every student, `weak` for a weak teacher."""

    name: str
    data: Callable[[], Data]
    build: Callable[[], nn.Module]
    batch: int
    steps: int
    weak: int

    def architecture(self) -> og.Model:
        """The network as an ONNX model, with weights that mean nothing yet.

        No two are equal: the exporter would make one of them.
        """
        torch.manual_seed(0)
        network = self.build().eval()
        for tensor in (*network.parameters(), *(b for b in network.buffers() if b.ndim == 1)):
            if tensor.is_floating_point():
                tensor.data.uniform_(0.5, 1.5)
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (self.data().inputs[:2],),
                file,
                input_names=["input"],
                output_names=["logits"],
                dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
                opset_version=17,
                dynamo=False,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
            )
        return og.load(file.getvalue())


TASKS = {
    task.name: task
    for task in (
        Task("mlp", mnist, _mlp, 64, 500, 50),
        Task("conv", digits, _convolutional, 32, 300, 40),
        Task("resnet", digits, _residual, 32, 250, 40),
        Task("transformer", text, _characters, 16, 300, 60),
        Task("distorted mlp", partial(distorted, 14), _mlp, 64, 1000, 150),
        Task("distorted conv", partial(distorted, 8), _convolutional, 32, 600, 100),
        Task("distorted resnet", partial(distorted, 8), _residual, 32, 500, 100),
    )
}
