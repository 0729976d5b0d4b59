"""Which neuron at which position each number is that a loss gets from a layer."""

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
"""Operations of which the result is a view of what they got."""


class LossView(NamedTuple):
    """What a loss gets, as rows: one for each position, with the numbers of all neurons.

    Attributes:
        shape: Shape of what the loss gets, with dimensions split such that one holds the neurons.
        neurons: The dimension that holds the neurons.
        positions: The position of each row in the layer's output, where they are counted in order;
            an integer tensor, or ``None`` for all positions in order.
    """

    shape: tuple[int, ...]
    neurons: int
    positions: Tensor | None

    def rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the shape that the loss gets as rows, shape ``(positions, d)``."""
        split = tensor.reshape(self.shape).movedim(self.neurons, -1)
        return split.reshape(-1, split.shape[-1])


def loss_view(seen: Tensor, output: Tensor, channel: int, *, classes: bool) -> LossView | None:
    """Return how a tensor shows a layer's output; ``None`` if it is not a view of it.

    Reshaping, permuting and slicing make views, as long as torch copies nothing and each row keeps
    all neurons of its position.

    Args:
        seen: What the loss gets.
        output: The layer's output.
        channel: The dimension of the output that holds the neurons.
        classes: Whether the loss takes dimension 1 for the neurons, as cross-entropy does, instead
            of every number for itself.
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
    # The same numbers: but is the gradient the same? A function of one's own may turn it around.
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
    with torch.inference_mode(False):  # kept for graphs of later on
        return LossView(split, neurons, index.clone().to(device))


def _split(axis: tuple[int, int], step: int, d: int) -> Iterator[tuple[int, int]]:
    """Split a flattened dimension where the neurons begin and end."""
    size, stride = axis
    for border in (step * d, step):
        outer = size * stride // border
        if stride < border and outer > 1 and border % stride == 0 == size % (border // stride):
            yield outer, border
            size = border // stride
    yield size, stride


def _merged(axes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Axes with those of one number left out and neighbors that lie in order made one."""
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
    """The position of each row; ``None`` if a row is not that of all neurons of a position."""
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
        # The first neuron; and a position that the output has, not one beside it in memory.
        if not bool(((digit >= 0) & (digit < (1 if weight is None else size))).all()):
            return None
        found += digit * (weight or 0)
    return found
