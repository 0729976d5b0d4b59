"""Sharpness-aware minimization: the gradient at perturbed weights with a higher loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Gradients = Sequence[Tensor | None]


class Sharpness:
    r"""Perturbs the weights to the (approximate) maximum of the loss within a distance, and back.

    .. math:: \hat w = w + \rho\, g / \lVert g\rVert, \qquad
              \hat w = w + \rho\, w^2 g / \lVert w g\rVert \text{ (adaptive)}

    with :math:`g` the gradient in the weights (SAM: Foret et al. 2021, equation 2; ASAM: Kwon et
    al. 2021, equation 8). The perturbation does not depend on the norm of the gradient, so a loss
    scaled for fp16 need not be unscaled first. ``pytorch_optimizer`` computes the perturbation; the
    engine performs the following step, with its scaling, clipping and schedule. Variants override
    at which steps the weights are perturbed, how far, and how both gradients are combined.

    Args:
        parameters: The weights.
        rho: The distance.
        adaptive: Measure distances in units of each weight's magnitude.

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
        """Return whether an optimizer step (from 0) uses the gradient at the perturbed weights."""
        return True

    def distance(self, rate: float) -> float:
        """Return the distance at a learning rate, given as a share of the base learning rate."""
        return self.rho

    @contextmanager
    def away(self, rate: float = 1.0) -> Iterator[None]:
        """Perturb the weights, with gradients cleared, and restore them exactly on exit.

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
        """Replace the gradient of the weights by the one for the optimizer.

        It is the gradient at the perturbed weights on steps that are due, and the plain one on
        other steps. Both are scaled like the loss, and the result must be, too.

        Args:
            step: Number of the optimizer step, starting at 0.
            plain: The gradient at the unperturbed weights.
        """

    def after_step(self, optimizer: Optimizer, *, scale: float) -> None:
        """Change the weights again after the optimizer step.

        Args:
            optimizer: The optimizer, at the learning rate of the step.
            scale: The factor by which the loss was multiplied.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later steps need."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`."""


class _Still(Optimizer):
    """The base optimizer that SAM requires, whose step does nothing since the engine steps."""

    def __init__(self, parameters: Any) -> None:  # noqa: ANN401  # as for torch's optimizers
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401
        pass


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore all buffers on exit, so that running statistics count each batch once."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
