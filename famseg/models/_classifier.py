"""A classifier with three parts, in which the layer to penalize always has the same name."""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """Body, an optional linear layer of features, and head, one after the other.

    The head is the last layer, called ``head`` in every classifier: it is what
    ``penalty.layer: head`` names, and its relative flatness under cross-entropy has a closed form.
    The FAM paper (arXiv 2307.02337, section 4.1) puts a linear layer of 64 features without
    non-linearity before it, so that the penalized weight is small; that layer is ``features``, and
    an identity where there is none.

    Args:
        body: Maps images to feature vectors ``(n, width)``.
        width: How many features the body gives.
        classes: How many classes there are.
        features: How many features the extra linear layer gives; ``None`` for no such layer.
        head: A head to take over in place of a new one; for a body that came with it.

    Shape:
        Input ``(n, channels, height, width)``, output logits ``(n, classes)``.

    Raises:
        ValueError: If a head that is taken over does not fit.

    Example:
        >>> import torch
        >>> body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> net = Classifier(body, width=3, classes=10, features=64)
        >>> net(torch.zeros(2, 3, 8, 8)).shape, net.head.weight.shape
        (torch.Size([2, 10]), torch.Size([10, 64]))
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        width: int,
        classes: int,
        features: int | None = None,
        head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.features: nn.Module = nn.Identity() if features is None else _linear(width, features)
        last = width if features is None else features
        if head is not None and (head.in_features, head.out_features) != (last, classes):
            raise ValueError(
                f"head maps {head.in_features} features to {head.out_features} classes, but here "
                f"are {last} features and {classes} classes."
            )
        self.head = _linear(last, classes) if head is None else head

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, ``(n, classes)``."""
        logits: Tensor = self.head(self.features(self.body(images)))
        return logits


def initialize(body: nn.Module) -> None:
    """Initialize a body as the residual networks were: He normal, norms 1 and 0, biases 0.

    The standard deviation of a convolution is ``sqrt(2 / fan_out)``, where ``fan_out`` is output
    channels times kernel size (He et al. 2015; used by Zagoruyko and Komodakis 2016).

    Args:
        body: The network, changed in place; its linear layers keep their weights.
    """
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def out_of_place(body: nn.Module) -> nn.Module:
    """Make every activation of a network return a new tensor, and return the network.

    An in-place activation overwrites the input or output of an observed layer, which
    :class:`famseg.flatness.FAM` refuses. After a norm it does not save memory, since the norm keeps
    its own input for the backward pass.
    """
    for module in body.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # a plain attribute, not a submodule
    return body


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.bias)
    return layer
