"""The data sets: scikit-learn's digits, MNIST's test images, and the text of Python's own manual; each split once, with a fixed seed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

CONTEXT = 32
"""Characters that the language model sees at once."""

_MNIST = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist"


@dataclass(frozen=True)
class Data:
    """Inputs and labels (one per sample, or per character) for training and for evaluation.

    `inputs` may hold several versions of all samples, one after the other; a batch takes one of each at random.
    """

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    classes: int

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """An endless, shuffled stream of batches."""
        generator = np.random.default_rng([seed, 1])
        count = len(self.labels)
        while True:
            order = generator.permutation(count)
            for start in range(0, count - size + 1, size):
                chosen = order[start : start + size]
                version = generator.integers(len(self.inputs) // count, size=size)
                yield self.inputs[version * count + chosen], self.labels[chosen]


@cache
def digits() -> Data:
    """1,797 images of 1 x 8 x 8: half for training, half for evaluation."""
    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return _split(_normal(inputs), torch.tensor(labels), 897)


@cache
def mnist() -> Data:
    """MNIST's 10,000 test images, averaged to 1 x 14 x 14: 8,000 for training, 2,000 for evaluation."""
    with gzip.open(_MNIST / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(_MNIST / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    inputs = avg_pool2d(torch.tensor(images / 255.0, dtype=torch.float32), 2)
    return _split(_normal(inputs), torch.tensor(labels, dtype=torch.int64), 8000)


def has_mnist() -> bool:
    """Whether MNIST's images lie where this program looks for them."""
    return _MNIST.is_dir()


@cache
def text() -> Data:
    """The language reference that ships with Python (`pydoc_data`), by the character; the last tenth is for evaluation.

    Each sample is CONTEXT characters, its labels the characters that follow each. Characters that are rarer than one in 20,000 are one.
    """
    whole = "\n".join(topics[name] for name in sorted(topics))
    found, counts = np.unique(list(whole), return_counts=True)
    kept = sorted(found[counts * 20_000 > len(whole)])
    number = {character: k for k, character in enumerate(kept, 1)}
    codes = torch.tensor([number.get(character, 0) for character in whole])
    cut = len(codes) * 9 // 10
    train, test = codes[:cut], codes[cut:]
    starts = torch.arange(0, len(train) - CONTEXT - 1, CONTEXT // 4)
    some = torch.linspace(0, len(test) - CONTEXT - 1, 128).long()
    return Data(*_windows(train, starts), *_windows(test, some), len(kept) + 1)


def _windows(codes: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    index = starts[:, None] + torch.arange(CONTEXT)
    return codes[index], codes[index + 1]


def _normal(inputs: Tensor) -> Tensor:
    return (inputs - inputs.mean()) / inputs.std()


def _split(inputs: Tensor, labels: Tensor, size: int) -> Data:
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(inputs)))
    train, test = order[:size], order[size:]
    return Data(_shifted(inputs[train]), labels[train], inputs[test], labels[test], 10)


def _shifted(inputs: Tensor) -> Tensor:
    """All images as they are, and shifted by one pixel in each of eight directions."""
    height, width = inputs.shape[2:]
    edged = pad(inputs, (1, 1, 1, 1), value=float(inputs.min()))
    corners = sorted(product(range(3), repeat=2), key=lambda corner: corner != (1, 1))
    return torch.cat([edged[:, :, y : y + height, x : x + width] for y, x in corners])
