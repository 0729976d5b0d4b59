"""A small convolutional network for studies on a CPU."""

from __future__ import annotations

from torch import nn

from famseg.models._classifier import Classifier, initialize

_STRIDES = (1, 2, 2, 2)
_FACTORS = (1, 2, 4, 4)  # channels, multiplied by the width


def convnet(
    *, classes: int, channels: int = 3, width: int = 32, features: int | None = None
) -> Classifier:
    """Return four 3 x 3 convolutions with batch norm and ReLU, and the mean over space.

    With the default width 0.24 million parameters (width 16: 0.06 million, width 48: 0.54 million)
    and 13 million multiplications an image of 32 x 32, about a fortieth of a ResNet18's.

    Args:
        classes: How many classes there are.
        channels: Channels of the images.
        width: Channels of the first convolution; the others have twice and four times as many.
        features: Features of an extra linear layer before the head, see
            :class:`famseg.models.Classifier`.

    Example:
        >>> import torch
        >>> convnet(classes=10, channels=1, width=8)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    layers: list[nn.Module] = []
    inputs = channels
    for stride, factor in zip(_STRIDES, _FACTORS, strict=True):
        outputs = factor * width
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
        inputs = outputs
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    initialize(body)
    return Classifier(body, width=inputs, classes=classes, features=features)
