"""Which neuron and position each element of a loss argument is, if it is a view of an output."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

VIEWS = frozenset(
    f"{name}Backward{number}"
    for number in range(4)
    for name in (
        *("Alias", "AsStrided", "Diagonal", "Expand", "Permute", "ReshapeAlias", "Select", "Slice"),
        *("Split", "SplitWithSizes", "Squeeze", "T", "Transpose", "Unbind", "Unfold"),
        *("UnsafeView", "Unsqueeze", "View"),
    )
)
"""Operations whose result is a view of their argument."""


class LossView(NamedTuple):
    """The argument of a loss as rows: one for each position, with the values of all neurons.

    Attributes:
        shape: Shape of the argument, with dimensions split such that one holds the neurons.
        neurons: The dimension that holds the neurons.
        positions: The position of each row in the layer's output as an integer tensor; ``None`` for
            all positions in order.
    """

    shape: tuple[int, ...]
    neurons: int
    positions: Tensor | None

    def rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor with the shape of the argument as rows, shape ``(positions, d)``."""
        split = tensor.reshape(self.shape).movedim(self.neurons, -1)
        return split.reshape(-1, split.shape[-1])


def loss_view(seen: Tensor, output: Tensor, channel: int, *, classes: bool) -> LossView | None:
    """Return how a tensor is a view of a layer's output; ``None`` if it is not.

    Reshaping, permuting and slicing create supported views if torch copies nothing and each row
    keeps all neurons of its position.

    Args:
        seen: Argument of the loss.
        output: The layer's output.
        channel: The dimension of the output that holds the neurons.
        classes: Whether dimension 1 of the argument is the neurons, as in cross-entropy, instead of
            each element being separate.
    """
    if seen is not output and not _is_view(seen, output):
        return None
    return _found(
        tuple(seen.shape),
        seen.stride(),
        seen.storage_offset() - output.storage_offset(),
        tuple(output.shape),
        output.stride(),
        channel,
        classes,
        output.device,
    )


def _is_view(seen: Tensor, output: Tensor) -> bool:
    if seen.dtype != output.dtype or seen.is_neg() or output.is_neg():
        return False
    if seen.untyped_storage().data_ptr() != output.untyped_storage().data_ptr():
        return False
    # Values are equal, but a user-defined autograd function may still change the gradient.
    node, end = seen.grad_fn, output.grad_fn
    while node is not end:
        if node is None or node.name() not in VIEWS:
            return False
        node = node.next_functions[0][0]
    return True


@functools.lru_cache(maxsize=16)
def _found(
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int,
    output_shape: tuple[int, ...],
    output_stride: tuple[int, ...],
    channel: int,
    classes: bool,
    device: torch.device,
) -> LossView | None:
    d, step = output_shape[channel], output_stride[channel]
    axes = list(zip(shape, stride, strict=True))
    if classes:
        neurons = 1
        if len(axes) < 2 or axes[1][0] != d or (d > 1 and axes[1][1] != step):
            return None
    elif d == 1:
        axes, neurons = [*axes, (1, step)], len(axes)
    else:
        axes = [part for axis in axes for part in _split(axis, step, d)]
        if (d, step) not in axes:
            return None
        neurons = axes.index((d, step))
    own = [axis for k, axis in enumerate(axes) if k != neurons]
    others = [
        axis for k, axis in enumerate(zip(output_shape, output_stride, strict=True)) if k != channel
    ]
    split = tuple(size for size, _ in axes)
    if offset == 0 and _merged(own) == _merged(others):
        return LossView(split, neurons, None)
    index = _positions(own, offset, others, (d, step))
    if index is None:
        return None
    with torch.inference_mode(False):  # cached for use in later graphs
        return LossView(split, neurons, index.clone().to(device))


def _split(axis: tuple[int, int], step: int, d: int) -> Iterator[tuple[int, int]]:
    """Split a flattened dimension at the start and the end of the neurons."""
    size, stride = axis
    for border in (step * d, step):
        outer = size * stride // border
        if stride < border and outer > 1 and border % stride == 0 == size % (border // stride):
            yield outer, border
            size = border // stride
    yield size, stride


def _merged(axes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the axes without those of length 1, with contiguous neighbors merged."""
    merged: list[tuple[int, int]] = []
    for size, stride in axes:
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = merged[-1][0] * size, stride
        else:
            merged.append((size, stride))
    return merged


def _positions(
    own: Sequence[tuple[int, int]],
    offset: int,
    others: Sequence[tuple[int, int]],
    neurons: tuple[int, int],
) -> Tensor | None:
    """Return each row's position; ``None`` if a row does not hold all neurons of a position."""
    address = torch.tensor(offset)
    for size, stride in own:
        address = address.unsqueeze(-1) + torch.arange(size) * stride
    address = address.flatten()
    found = torch.zeros_like(address)
    weights = [math.prod(size for size, _ in others[k + 1 :]) for k in range(len(others))]
    ordered = sorted([*zip(others, weights, strict=True), (neurons, None)], key=lambda x: -x[0][1])
    for (size, stride), weight in ordered:
        if size == 1:
            continue
        if stride == 0:
            return None
        digit, address = address // stride, address % stride
        # The offset must be at the first neuron of a position in the output, not in adjacent
        # memory.
        if not bool(((digit >= 0) & (digit < (1 if weight is None else size))).all()):
            return None
        found += digit * (weight or 0)
    return found
