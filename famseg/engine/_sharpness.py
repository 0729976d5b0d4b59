"""Sharpness-aware minimization: the gradient at the worst weights nearby."""

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
    scaled for fp16 needs no unscaling before it. ``pytorch_optimizer`` computes the perturbation;
    the engine takes the step that follows, with its scaling, clipping and schedule. A variant
    overrides on which steps the weights move, how far, and how both gradients are combined.

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
        """Return whether an optimizer step, from 0, takes the gradient at the worst place."""
        return True

    def distance(self, rate: float) -> float:
        """Return the distance at a learning rate, given as a share of the base learning rate."""
        return self.rho

    @contextmanager
    def away(self, rate: float = 1.0) -> Iterator[None]:
        """Hold the weights at the worst place, without a gradient; restore them exactly afterwards.

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
        """Return the current gradient of each weight, or None."""
        return [parameter.grad for parameter in self.parameters]

    def mix(self, step: int, plain: Gradients) -> None:
        """Replace the gradient that the weights hold by the one for the optimizer.

        They hold the gradient at the worst place on steps that are due, and the plain one on other
        steps. Both have the scale of the loss, which the result must keep.

        Args:
            step: Number of the optimizer step, from 0.
            plain: The gradient at the weights themselves.
        """

    def after_step(self, optimizer: Optimizer, *, scale: float) -> None:
        """Change the weights once more after the optimizer step.

        Args:
            optimizer: The optimizer, at the learning rate of the step.
            scale: The factor by which the loss was multiplied.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what later steps need to know of earlier ones."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


class _Still(Optimizer):
    """The base optimizer that SAM asks for; its step does nothing, the engine takes the step."""

    def __init__(self, parameters: Any) -> None:  # noqa: ANN401  # whatever torch takes
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401
        pass


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore all buffers on leaving, so that running statistics count each batch once."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
