"""Sharpness-aware minimisation: the gradient is taken at the worst weights nearby."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class Sharpness:
    r"""Moves the weights to the worst place within a distance, and back.

    .. math:: \hat w = w + \rho\, g / \lVert g\rVert, \qquad
              \hat w = w + \rho\, w^2 g / \lVert w g\rVert \text{ (adaptive)}

    with :math:`g` the gradient in the weights (SAM: Foret et al. 2021, equation 2; ASAM: Kwon et
    al. 2021, equation 8). The move does not depend on the size of the gradient, so that a loss
    scaled for fp16 needs no unscaling before it. The perturbation is ``pytorch_optimizer``'s; the
    step that follows is the engine's, with its scaling, clipping and schedule.

    Args:
        parameters: The weights.
        rho: The distance.
        adaptive: Measure distances in units of each weight's own size.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> weight.grad = torch.tensor([0.0, 2.0])
        >>> with Sharpness([weight], rho=0.5).away():
        ...     weight.tolist()
        [3.0, 4.5]
        >>> weight.tolist(), weight.grad
        ([3.0, 4.0], None)
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, rho: float, adaptive: bool = False
    ) -> None:
        from pytorch_optimizer import SAM

        self._sam = SAM(parameters, _Still, rho=rho, adaptive=adaptive)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Hold the weights at the worst place, without a gradient; they come back to the bit."""
        self._sam.first_step(zero_grad=True)
        try:
            yield
        finally:
            self._sam.second_step()


class _Still(Optimizer):
    """The step that SAM takes once the weights are back: none, the engine takes it."""

    def __init__(self, parameters: Any) -> None:  # noqa: ANN401  # whatever torch takes
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401
        pass


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put all buffers back on leaving: a batch counts once in running statistics."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
