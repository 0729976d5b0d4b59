"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from famseg.models._classifier import Classifier, initialize

_STEM = 16
_GROUPS = (16, 32, 64)  # channels of the three groups, multiplied by the width


def wide_resnet(
    *,
    classes: int,
    channels: int = 3,
    depth: int = 28,
    width: int = 10,
    dropout: float = 0.0,
    features: int | None = None,
) -> Classifier:
    """Return a wide residual network; 28 and 10, the defaults, are the FAM paper's.

    WRN-28-10 has 36.48 million parameters with 10 classes and no extra layer of features.

    Args:
        classes: How many classes there are.
        channels: Channels of the images.
        depth: Layers, ``6 n + 4``: three groups of ``n`` blocks of two convolutions.
        width: Factor of the channels of a group.
        dropout: Probability of dropout between the convolutions of a block.
        features: Features of an extra linear layer before the head, see
            :class:`famseg.models.Classifier`.

    Raises:
        ValueError: If there is no network of that depth.

    Example:
        >>> import torch
        >>> net = wide_resnet(classes=10, depth=10, width=1)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    body = WideResNet(channels=channels, depth=depth, width=width, dropout=dropout)
    return Classifier(body, width=body.width, classes=classes, features=features)


class WideResNet(nn.Module):
    """The body of a wide residual network: images to ``64 * width`` features each.

    A convolution to 16 channels, three groups of pre-activation blocks of which the second and
    third halve the edge, batch norm, ReLU and the mean over space.

    Args:
        channels: Channels of the images.
        depth: Layers, ``6 n + 4``.
        width: Factor of the channels of a group.
        dropout: Probability of dropout between the convolutions of a block.

    Shape:
        Input ``(n, channels, height, width)``, output ``(n, 64 * width)``.

    Raises:
        ValueError: If there is no network of that depth.
    """

    def __init__(
        self, *, channels: int = 3, depth: int = 28, width: int = 10, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(
                f"depth must be 6 n + 4 (10, 16, 22, 28, 34, 40, ...), got {depth}: three groups "
                "have as many blocks of two convolutions each."
            )
        blocks = (depth - 4) // 6
        self.width = _GROUPS[-1] * width
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["stem"] = _convolution(channels, _STEM)
        inputs = _STEM
        for number, group in enumerate(_GROUPS):
            outputs = group * width
            chain = [_Block(inputs, outputs, stride=1 if number == 0 else 2, dropout=dropout)]
            chain += [
                _Block(outputs, outputs, stride=1, dropout=dropout) for _ in range(blocks - 1)
            ]
            layers[f"group{number + 1}"] = nn.Sequential(*chain)
            inputs = outputs
        layers["norm"] = nn.BatchNorm2d(inputs)
        layers["activation"] = nn.ReLU()
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        self.layers = nn.Sequential(layers)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, ``(n, 64 * width)``."""
        features: Tensor = self.layers(images)
        return features


class _Block(nn.Module):
    """Twice norm, ReLU and convolution, with a parallel shortcut.

    If the channels or the resolution change, the shortcut is a 1 x 1 convolution after the first
    ReLU; otherwise it is the input itself.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = _convolution(inputs, outputs, stride=stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _convolution(outputs, outputs)
        changes = inputs != outputs or stride != 1
        self.shortcut = _convolution(inputs, outputs, kernel=1, stride=stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        way = x if self.shortcut is None else self.shortcut(active)
        inner = F.relu(self.norm2(self.conv1(active)))
        result: Tensor = way + self.conv2(self.dropout(inner))
        return result


def _convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
