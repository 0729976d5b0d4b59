"""Which rows of a layer's output a loss receives as a copy: reshaped, indexed, or masked."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from famseg.flatness._tracing._loss_view import VIEWS, LossView

_SELECTIONS = VIEWS | {"CloneBackward0", "IndexBackward0", "IndexSelectBackward0"}
# Number of rows that each dtype can distinguish.
_EXACT = {torch.float32: 2**24, torch.float64: 2**53}


def loss_copy(seen: Tensor, output: Tensor, channel: int, *, classes: bool) -> LossView | None:
    """Return how a tensor copies rows of a layer's output; ``None`` if it is more than a copy.

    Reshaping noncontiguous tensors, a boolean mask or an index makes a copy. Its autograd graph
    reveals its content: the backward pass of operations that select elements maps each element to
    its origin. Indices of rows and of neurons are therefore sent through the graph instead of a
    gradient, which costs this part of the backward pass twice.

    Args:
        seen: Argument of the loss.
        output: The layer's output.
        channel: The dimension of the output that holds the neurons.
        classes: Whether dimension 1 of the argument is the neurons, as in cross-entropy, instead of
            each element being separate.
    """
    if not seen.numel() or not _is_selection(seen, output):
        return None
    for shape, neurons in _layouts(tuple(seen.shape), output.shape[channel], classes=classes):
        positions = _positions(seen, output, channel, shape, neurons)
        if positions is not None:
            return LossView(shape, neurons, positions)
    return None


def _is_selection(seen: Tensor, output: Tensor) -> bool:
    # A copy changed in place has other values, and a hook would receive our indices as a gradient.
    hooked = any(x._backward_hooks or x.retains_grad for x in (seen, output))
    if seen.dtype != output.dtype or seen.dtype not in _EXACT or seen._version or hooked:
        return False
    node, end = seen.grad_fn, output.grad_fn
    while node is not end:
        if node is None or node.name() not in _SELECTIONS:
            return False
        node = node.next_functions[0][0]
    return end is not None


def _layouts(
    shape: tuple[int, ...], d: int, *, classes: bool
) -> Iterator[tuple[tuple[int, ...], int]]:
    """Return shapes of the argument and, for each, the dimension that may hold the neurons."""
    if classes:
        if len(shape) > 1 and shape[1] == d:
            yield shape, 1
        return
    if d == 1:
        yield (*shape, 1), len(shape)
        return
    for axis in reversed(range(len(shape))):
        if shape[axis] % d == 0:  # flattened, if there are more elements than neurons
            yield (*shape[:axis], shape[axis] // d, d, *shape[axis + 1 :]), axis + 1


def _positions(
    seen: Tensor, output: Tensor, channel: int, shape: tuple[int, ...], neurons: int
) -> Tensor | None:
    """Return each row's position; ``None`` if a row does not hold all neurons of a position."""
    d, device = output.shape[channel], seen.device
    count = seen.numel() // d
    if max(count, d) >= _EXACT[seen.dtype]:
        return None

    def sent_back(numbers: Tensor) -> Tensor:
        numbers = numbers.to(seen.dtype).expand(shape).reshape(seen.shape)
        (found,) = torch.autograd.grad(seen, output, numbers, retain_graph=True)
        return found.movedim(channel, -1).reshape(-1, d)

    others = [size for axis, size in enumerate(shape) if axis != neurons]
    number = torch.arange(1, count + 1, device=device).reshape(others).unsqueeze(neurons)
    neuron = torch.arange(1, d + 1, device=device)
    behind = [1] * (len(shape) - neurons - 1)
    of_rows, of_neurons = sent_back(number), sent_back(neuron.reshape(-1, *behind))
    own = of_rows[:, 0]
    used = own > 0
    # Each place received at least one index, and there are as many as places: exactly one each.
    right = (of_rows == own.unsqueeze(1)).all() & (used.sum() == count)
    right &= (of_neurons == used.unsqueeze(1) * neuron).all()
    if not right:
        return None
    place = torch.zeros(count + 1, dtype=torch.long, device=device)
    # Unused positions have the index 0.
    return place.scatter_(0, own.long(), torch.arange(len(own), device=device))[1:]
