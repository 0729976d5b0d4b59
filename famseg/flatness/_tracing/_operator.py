"""The map of a penalized layer, which is linear in the weight."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Layer: TypeAlias = nn.Linear | _ConvNd
"""A layer with a relative flatness: linear, convolution or transposed convolution.

``Conv1D`` of transformers (GPT-2) is a linear layer with a transposed weight. It is typed as
`nn.Linear` here, so use `is_linear` instead of ``isinstance``.
"""

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


class Operator:
    r"""The map of a layer without its bias: :math:`z = W \phi`, for any ``W`` of its shape.

    A weight can also be viewed as rows of shape ``(g, d, m)``, with ``g`` groups of ``d`` neurons
    that have the same ``m`` inputs. The groups of a convolution are parallel layers: neurons of
    different groups share no inputs, so relative flatness has no terms between them.

    Args:
        layer: The layer.
        features: Its input, shape ``(n, ...)``.
        output: Its output, shape ``(n, ...)``.

    Attributes:
        single: Whether each sample is a single feature vector of shape ``(m,)``.
        pointwise: Whether the output of each position is ``W`` times the features of that position:
            linear layers, and convolutions of one group whose kernel is a single point.
        channel: The dimension of features and output that holds their channels.
        groups: Number of groups.
    """

    def __init__(self, layer: Layer, features: Tensor, output: Tensor) -> None:
        self.single = is_linear(layer) and features.ndim == 2
        self.pointwise = is_linear(layer) or _is_pointwise(layer, features, output)
        self.channel = channels(features, layer)
        self._shape = layer.weight.shape
        self._transposed = isinstance(layer, _ConvTransposeNd) or is_transposed_linear(layer)
        self.groups = groups_of(layer)
        self._map = _map(layer, features, output)

    def apply(self, features: Tensor, weight: Tensor) -> Tensor:
        """Return the outputs without bias for any features and any weight of the layer's shape.

        Args:
            features: Shape ``(n, ...)``, as for the layer.
            weight: A weight of the layer's shape.
        """
        return self._map(features, weight)

    def apply_each(self, features: Tensor, weights: Tensor) -> Tensor:
        """Return the outputs with a separate weight for each sample.

        Args:
            features: Shape ``(n, ...)``.
            weights: Shape ``(n, *shape of the weight)``.
        """
        each: Tensor = torch.vmap(self._map)(features[:, None], weights)
        return each[:, 0]

    def rows(self, weight: Tensor) -> Tensor:
        """Return a weight as rows, shape ``(g, d, m)``."""
        groups = self.groups
        if self._transposed:  # (in, out / g, ...): a neuron is a column
            inputs, outputs = weight.shape[:2]
            split = weight.reshape(groups, inputs // groups, outputs, -1)
            return split.transpose(1, 2).flatten(2)
        return weight.reshape(groups, weight.shape[0] // groups, -1)

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the weight of a pointwise layer as its rows, shape ``(d, m)``."""
        if weight.ndim == 2:
            return weight.mT if self._transposed else weight
        return self.rows(weight)[0]

    def kernel(self, rows: Tensor) -> Tensor:
        """Return rows, shape ``(..., g, d, m)``, as weights of the layer's shape."""
        lead = rows.shape[:-3]
        if self._transposed:
            inputs, outputs = self._shape[:2]
            split = rows.reshape(*lead, self.groups, outputs, inputs // self.groups, -1)
            return split.transpose(-3, -2).reshape(*lead, *self._shape)
        return rows.reshape(*lead, *self._shape)


def is_linear(layer: nn.Module) -> TypeIs[nn.Linear]:
    """Return whether a layer is linear, including transformers' ``Conv1D``."""
    return isinstance(layer, nn.Linear) or is_transposed_linear(layer)


def is_transposed_linear(layer: nn.Module) -> bool:
    """Return whether a layer is transformers' ``Conv1D``: its weight has shape ``(m, d)``."""
    return _is_conv1d(type(layer))  # type: ignore[arg-type]  # classes are hashable


@functools.lru_cache(maxsize=256)
def _is_conv1d(kind: type) -> bool:
    return any(
        base.__name__ == "Conv1D" and base.__module__.split(".")[0] == "transformers"
        for base in kind.__mro__  # compared by name, since importing transformers takes seconds
    )


def groups_of(layer: Layer) -> int:
    """Return the number of a layer's groups."""
    return 1 if is_linear(layer) else layer.groups


def matrix_shape(layer: Layer) -> tuple[int, int]:
    """Return ``(d, m)``: the number of neurons, and the number of inputs of each.

    Example:
        >>> matrix_shape(nn.Conv2d(6, 8, 3, groups=2)), matrix_shape(nn.ConvTranspose1d(6, 8, 3))
        ((8, 27), (8, 18))
    """
    if is_linear(layer):
        d, m = reversed(layer.weight.shape) if is_transposed_linear(layer) else layer.weight.shape
        return d, m
    inputs = layer.in_channels // layer.groups
    return layer.out_channels, inputs * math.prod(layer.kernel_size)


def channels(features: Tensor, layer: Layer) -> int:
    """Return the dimension of the features that holds their channels."""
    return features.ndim - 1 if is_linear(layer) else 1


def dimensions(layer: Layer) -> int:
    """Return the minimum number of dimensions of a layer's input: samples, channels, positions."""
    return 2 if is_linear(layer) else len(layer.kernel_size) + 2


def _is_pointwise(layer: _ConvNd, features: Tensor, output: Tensor) -> bool:
    return (
        layer.groups == 1
        and set(layer.kernel_size) | set(layer.stride) == {1}
        and (isinstance(layer.padding, str) or not any(layer.padding))
        and features.shape[2:] == output.shape[2:]
    )


def _map(layer: Layer, features: Tensor, output: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    if is_transposed_linear(layer):
        return torch.matmul
    if is_linear(layer):
        return F.linear
    options: dict[str, Any] = {
        "stride": layer.stride,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }
    spatial = len(layer.kernel_size)
    if isinstance(layer, _ConvTransposeNd):
        padding = _numbers(layer)
        # The caller may have requested an output size, which is taken from the actual output.
        options["output_padding"] = tuple(
            out - ((size - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1)
            for out, size, stride, pad, dilation, kernel in zip(
                output.shape[2:],
                features.shape[2:],
                layer.stride,
                padding,
                layer.dilation,
                layer.kernel_size,
                strict=True,
            )
        )
        return functools.partial(_TRANSPOSED[spatial], padding=padding, **options)
    convolution = _CONVOLUTIONS[spatial]
    if layer.padding_mode == "zeros":
        return functools.partial(convolution, padding=layer.padding, **options)
    around, mode = layer._reversed_padding_repeated_twice, layer.padding_mode

    def padded(features: Tensor, weight: Tensor) -> Tensor:
        return convolution(F.pad(features, around, mode=mode), weight, **options)

    return padded


def _numbers(layer: _ConvTransposeNd) -> tuple[int, ...]:
    if isinstance(layer.padding, str):
        raise TypeError(f"a transposed convolution has no padding {layer.padding!r}")
    return tuple(layer.padding)
