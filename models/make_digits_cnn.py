"""Train a small convolutional net in PyTorch and export it with its BatchNormalization nodes in place.

Residual connections with and without projection, and a concatenation of branches: the structures that
decide which channels have to grow together.
"""

from __future__ import annotations

import io

import digits
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

EPOCHS = 30
BATCH = 64


def conv_bn(fan_in: int, fan_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return convolution and BatchNormalization; the latter makes a bias pointless."""
    convolution = nn.Conv2d(fan_in, fan_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(fan_out))


class Residual(nn.Module):
    """Two 3x3 convolutions around which the input is added, through a projection where the shape changes."""

    def __init__(self, fan_in: int, fan_out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(fan_in, fan_out, 3, stride), nn.ReLU(), conv_bn(fan_out, fan_out, 3)
        )
        same = fan_in == fan_out and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(fan_in, fan_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


class Inception(nn.Module):
    """Three branches side by side, concatenated over channels."""

    def __init__(self, fan_in: int, narrow: int, wide: int, pooled: int) -> None:
        super().__init__()
        self.narrow = nn.Sequential(conv_bn(fan_in, narrow, 1), nn.ReLU())
        self.wide = nn.Sequential(conv_bn(fan_in, narrow, 1), nn.ReLU(), conv_bn(narrow, wide, 3), nn.ReLU())
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv_bn(fan_in, pooled, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.narrow(x), self.wide(x), self.pooled(x)], dim=1)


class DigitsCnn(nn.Module):
    """Return logits of shape (n, 10) for images of shape (n, 1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, 16, 3), nn.ReLU())
        self.first = Residual(16, 16)
        self.inception = Inception(16, narrow=8, wide=12, pooled=4)
        self.down = Residual(24, 32, stride=2)
        self.last = Residual(32, 32)
        self.classifier = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        features = self.last(self.down(self.inception(self.first(self.stem(image)))))
        return self.classifier(functional.adaptive_avg_pool2d(features, 1).flatten(1))


def train(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Fit ``net`` with AdamW and a one-cycle learning rate."""
    steps = -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, epochs=EPOCHS, steps_per_epoch=steps
    )
    net.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(net(images[batch]), labels[batch], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    net.eval()


def export(net: nn.Module) -> onnx.ModelProto:
    """Return ``net`` as ONNX; the TorchScript exporter, told to fold nothing, keeps BatchNormalization."""
    buffer = io.BytesIO()
    torch.onnx.export(
        net,
        (torch.zeros(2, 1, 8, 8),),
        buffer,
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    return onnx.load_from_string(buffer.getvalue())


def main() -> None:
    torch.manual_seed(digits.SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data, _ = digits.split()
    net = DigitsCnn()
    train(net, torch.from_numpy(data.laid_out(digits.CHANNELS_FIRST)), torch.from_numpy(data.labels))
    digits.publish(
        export(net),
        layout=digits.CHANNELS_FIRST,
        script=__file__,
        training="AdamW, one-cycle learning rate to 1e-2, "
        f"{EPOCHS} epochs, batches of {BATCH}, seed {digits.SEED}",
        packages=["torch", "onnx"],
    )


if __name__ == "__main__":
    main()
