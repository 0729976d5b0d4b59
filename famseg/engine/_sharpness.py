"""Sharpness-aware minimisation: the gradient is taken at the worst weights nearby."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Gradients = Sequence[Tensor | None]


class Sharpness:
    r"""Moves the weights to the worst place within a distance, and back.

    .. math:: \hat w = w + \rho\, g / \lVert g\rVert, \qquad
              \hat w = w + \rho\, w^2 g / \lVert w g\rVert \text{ (adaptive)}

    with :math:`g` the gradient in the weights (SAM: Foret et al. 2021, equation 2; ASAM: Kwon et
    al. 2021, equation 8). The move does not depend on the size of the gradient, so that a loss
    scaled for fp16 needs no unscaling before it. The perturbation is ``pytorch_optimizer``'s; the
    step that follows is the engine's, with its scaling, clipping and schedule. A variant overrides
    what it does otherwise: on which steps it moves, how far, and what it makes of the gradients at
    both places.

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

        self.parameters = list(parameters)
        self.rho = rho
        self._sam = SAM(self.parameters, _Still, rho=rho, adaptive=adaptive)

    def due(self, step: int) -> bool:
        """Return whether an optimizer step, numbered from 0, takes gradients at the worst place."""
        return True

    def distance(self, rate: float) -> float:
        """Return the distance at a learning rate, given as a share of the base learning rate."""
        return self.rho

    @contextmanager
    def away(self, rate: float = 1.0) -> Iterator[None]:
        """Hold the weights at the worst place, without a gradient; they come back to the bit.

        Args:
            rate: The learning rate as a share of the base learning rate.
        """
        for group in self._sam.param_groups:
            group["rho"] = self.distance(rate)
        self._sam.first_step(zero_grad=True)
        try:
            yield
        finally:
            self._sam.second_step()

    def gradients(self) -> Gradients:
        """Return the present gradient of each weight, None where there is none."""
        return [parameter.grad for parameter in self.parameters]

    def mix(self, step: int, plain: Gradients) -> None:
        """Make the gradient that the optimizer gets of the one that the weights hold.

        They hold the gradient at the worst place on steps that are due, else the plain one. Both
        have the scale of the loss; what is made of them must have it too.

        Args:
            step: Number of the optimizer step, from 0.
            plain: The gradient at the weights themselves.
        """

    def after_step(self, optimizer: Optimizer, *, scale: float) -> None:
        """Change the weights once more after the step of the optimizer.

        Args:
            optimizer: The optimizer, at the learning rate of the step.
            scale: What the loss was multiplied by.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what later steps need of earlier ones."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""


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
