"""The data sets: scikit-learn's digits, MNIST's test images, and the text of Python's own manual; each split once, with a fixed seed.

Images come as they are, which a network soon knows by heart, or distorted anew for every batch, so that it sees none of them twice.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, affine_grid, grid_sample, interpolate, pad

CONTEXT = 32
"""Characters that the language model sees at once."""

_MNIST = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist"


@dataclass(frozen=True)
class Data:
    """Inputs and labels (one per sample, or per character) for training and for evaluation.

    `inputs` may hold several versions of all samples, one after the other; a batch takes one of each at random. What is `endless`
    is distorted at random each time it is taken.
    """

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    classes: int
    endless: bool = False

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """An endless, shuffled stream of batches."""
        generator = np.random.default_rng([seed, 1])
        count = len(self.labels)
        while True:
            order = generator.permutation(count)
            for start in range(0, count - size + 1, size):
                chosen = order[start : start + size]
                version = generator.integers(len(self.inputs) // count, size=size)
                inputs = self.inputs[version * count + chosen]
                yield _distorted(inputs, generator) if self.endless else inputs, self.labels[chosen]


@cache
def digits() -> Data:
    """1,797 images of 1 x 8 x 8: half for training, half for evaluation."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return _split(_normal(inputs), torch.tensor(labels), 897)


@cache
def mnist(size: int = 14) -> Data:
    """MNIST's 10,000 test images, averaged to 1 x `size` x `size`: 8,000 for training, 2,000 for evaluation."""
    with gzip.open(_MNIST / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(_MNIST / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    inputs = adaptive_avg_pool2d(torch.tensor(images / 255.0, dtype=torch.float32), size)
    return _split(_normal(inputs), torch.tensor(labels, dtype=torch.int64), 8000)


@cache
def distorted(size: int) -> Data:
    """`mnist`, every image distorted whenever it is taken; those for evaluation once and for all."""
    data = mnist(size)
    test = _distorted(data.test_inputs, np.random.default_rng(0))
    return replace(data, inputs=data.inputs[: len(data.labels)], test_inputs=test, endless=True)


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


def _distorted(images: Tensor, generator: np.random.Generator) -> Tensor:
    """Each image turned, stretched, sheared, shifted and warped at random, a square of it blanked, and noise added."""

    def uniform(bound: float, *shape: int) -> Tensor:
        return torch.from_numpy(generator.uniform(-bound, bound, shape).astype(np.float32))

    count, _, height, width = images.shape
    angle, shear, (across, down) = uniform(0.4, count), uniform(0.25, count), uniform(0.25, 2, count).exp()
    cosine, sine = angle.cos(), angle.sin()
    moved = torch.stack((cosine * across, shear - sine * down, sine * across, cosine * down), 1)
    affine = torch.cat((moved.reshape(-1, 2, 2), uniform(0.2, count, 2, 1)), 2)
    warp = interpolate(uniform(0.12, count, 2, 4, 4), (height, width), mode="bicubic", align_corners=False)
    places = affine_grid(affine, list(images.shape), align_corners=False) + warp.permute(0, 2, 3, 1)
    paper = images.min()
    out = grid_sample(images - paper, places, align_corners=False) + paper
    rows, columns = (
        torch.arange(n) - torch.from_numpy(generator.integers(n, size=(count, 1))) for n in (height, width)
    )
    reach = height // 7
    hole = (rows.abs() < reach)[:, None, :, None] & (columns.abs() < reach)[:, None, None, :]
    noise = torch.from_numpy(generator.standard_normal(out.shape, np.float32))
    return torch.where(hole, paper, out) + 0.3 * noise
