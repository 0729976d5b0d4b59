"""GSAM, WSAM and LookSAM: combinations of the gradients at the weights and at perturbed weights.

In ``pytorch_optimizer`` the three are optimizers that run the network themselves. Here the engine
runs it, with accumulation, several processes, scaling and clipping, and restores the weights
exactly, so this module contains only the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from famseg.engine._sharpness import Gradients, Sharpness


class SurrogateGap(Sharpness):
    r"""GSAM: SAM's gradient minus a multiple of the component of the plain one orthogonal to it.

    .. math:: \hat g - \alpha \left(g - \frac{\langle g, \hat g\rangle}{\lVert\hat g\rVert^2}
              \hat g\right), \qquad \rho_t = \rho_{\min} + (\rho - \rho_{\min})\,
              \frac{\text{learning rate}_t}{\text{base learning rate}}

    with :math:`g` the gradient at the weights and :math:`\hat g` that at the perturbed weights
    (Zhuang et al. 2022, "Surrogate Gap Minimization Improves Sharpness-Aware Training", algorithm
    1). The second term increases the plain loss without changing SAM's, which narrows the gap
    between them. The distance follows the learning rate, whose lowest value is taken as 0. Costs
    two passes per step.

    Args:
        parameters: The weights.
        rho: The distance at the base learning rate.
        rho_min: The distance at learning rate 0.
        alpha: Factor of the orthogonal part.
        adaptive: Measure distances in units of each weight's magnitude.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        rho: float,
        rho_min: float,
        alpha: float,
        adaptive: bool = False,
    ) -> None:
        super().__init__(parameters, rho=rho, adaptive=adaptive)
        self.rho_min = rho_min
        self.alpha = alpha

    def distance(self, rate: float) -> float:
        """Return the distance at a learning rate, given as a share of the base learning rate."""
        return self.rho_min + (self.rho - self.rho_min) * rate

    @torch.no_grad()
    def mix(self, step: int, plain: Gradients) -> None:
        """Subtract the orthogonal part from the gradient; arguments as in `Sharpness.mix`."""
        triples = list(_triples(self.parameters, plain))
        along = _ratio(
            _dot((g, sharp) for _, g, sharp in triples),
            _dot((sharp, sharp) for _, _, sharp in triples),
        )
        for parameter, g, sharp in triples:
            parameter.grad = sharp - self.alpha * (g - along * sharp)


class WeightedSharpness(Sharpness):
    r"""WSAM: the loss plus a multiple of its sharpness.

    .. math:: g + \frac{\gamma}{1 - \gamma} (\hat g - g)

    with :math:`g` the gradient at the weights and :math:`\hat g` that at the perturbed weights (Yue
    et al. 2023, "Sharpness-Aware Minimization Revisited: Weighted Sharpness as a Regularization
    Term"). In the decoupled form of its authors, the optimizer gets only :math:`g`; the second term
    times the learning rate is subtracted from the weights afterwards, so that momentum and scaling
    do not include the sharpness of earlier steps. Costs two passes per step.

    Args:
        parameters: The weights.
        rho: The distance.
        gamma: :math:`\gamma`, from 0 (the plain gradient) to below 1; 0.5 is SAM.
        decoupled: Whether the sharpness bypasses the optimizer.
        adaptive: Measure distances in units of each weight's magnitude.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        rho: float,
        gamma: float,
        decoupled: bool,
        adaptive: bool = False,
    ) -> None:
        super().__init__(parameters, rho=rho, adaptive=adaptive)
        self.factor = gamma / (1 - gamma)
        self.decoupled = decoupled
        self._sharpness: dict[nn.Parameter, Tensor] = {}

    @torch.no_grad()
    def mix(self, step: int, plain: Gradients) -> None:
        """Add the sharpness, or store it for later; arguments as in `Sharpness.mix`."""
        for parameter, g, sharp in _triples(self.parameters, plain):
            if self.decoupled:
                self._sharpness[parameter] = sharp - g
                parameter.grad = g
            else:
                parameter.grad = g + self.factor * (sharp - g)

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer, *, scale: float) -> None:
        """Subtract the stored sharpness from the weights; see `Sharpness.after_step`."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in self._sharpness:
                    length = float(group["lr"]) * self.factor / scale
                    parameter.sub_(self._sharpness[parameter], alpha=length)
        # A step that the scaler skips computes none, so that of an earlier step must be deleted.
        self._sharpness.clear()


class ReusedSharpness(Sharpness):
    r"""LookSAM: SAM on every k-th step, whose direction is reused by the steps in between.

    .. math:: v = \hat g - \frac{\langle \hat g, g\rangle}{\lVert g\rVert^2} g, \qquad
              g + \alpha \frac{\lVert g\rVert}{\lVert v\rVert} v

    with :math:`g` the gradient at the weights and :math:`\hat g` that at the perturbed weights: a
    step of SAM uses :math:`\hat g` and stores :math:`v`, the following steps use the sum on the
    right (Liu et al. 2022, "Towards Efficient and Scalable Sharpness-Aware Minimization", algorithm
    1). Norms and inner products are over all weights together, as in the paper;
    ``pytorch_optimizer`` computes them per tensor. Costs one pass per step and a second one on
    every k-th. Step 0 is a step of SAM; :math:`v` is part of the state that a checkpoint must
    contain.

    Args:
        parameters: The weights.
        rho: The distance.
        every: :math:`k`.
        alpha: Norm of the reused part, relative to that of the plain gradient.
        adaptive: Measure distances in units of each weight's magnitude.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        rho: float,
        every: int,
        alpha: float,
        adaptive: bool = False,
    ) -> None:
        super().__init__(parameters, rho=rho, adaptive=adaptive)
        self.every = every
        self.alpha = alpha
        # Only its direction is used, so that the scale of the loss may change.
        self._direction: list[Tensor | None] = [None] * len(self.parameters)

    def due(self, step: int) -> bool:
        """Return whether an optimizer step (from 0) is a step of SAM."""
        return step % self.every == 0

    @torch.no_grad()
    def mix(self, step: int, plain: Gradients) -> None:
        """Store the new part or add the stored one; arguments as in `Sharpness.mix`."""
        if self.due(step):
            self._keep(plain)
            return
        pairs = [
            (parameter, v)
            for parameter, v in zip(self.parameters, self._direction, strict=True)
            if v is not None and parameter.grad is not None
        ]
        length = _dot((g, g) for g in plain if g is not None).sqrt()
        factor = self.alpha * _ratio(length, _dot((v, v) for _, v in pairs).sqrt())
        for parameter, v in pairs:
            parameter.grad = parameter.grad + factor * v  # type: ignore[operator]  # not None, above

    def _keep(self, plain: Gradients) -> None:
        triples = list(_triples(self.parameters, plain))
        along = _ratio(
            _dot((sharp, g) for _, g, sharp in triples), _dot((g, g) for _, g, _ in triples)
        )
        new = {parameter: sharp - along * g for parameter, g, sharp in triples}
        self._direction = [new.get(parameter) for parameter in self.parameters]

    def state_dict(self) -> dict[str, Any]:
        """Return the stored part of SAM's gradient."""
        return {"direction": self._direction}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`."""
        for parameter, v in zip(self.parameters, state["direction"], strict=True):
            if v is not None and v.shape != parameter.shape:
                raise ValueError(f"a direction has the shape {tuple(v.shape)}")
        self._direction = [
            None if v is None else v.to(parameter.device)
            for parameter, v in zip(self.parameters, state["direction"], strict=True)
        ]


def _triples(
    parameters: Iterable[nn.Parameter], plain: Gradients
) -> Iterator[tuple[nn.Parameter, Tensor, Tensor]]:
    """Yield each weight with a gradient, with its plain and current gradients (0 if missing)."""
    for parameter, g in zip(parameters, plain, strict=True):
        sharp = parameter.grad
        if g is not None or sharp is not None:
            zero = torch.zeros_like(parameter)
            yield parameter, zero if g is None else g, zero if sharp is None else sharp


def _dot(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the sum of the inner products of pairs of tensors."""
    products = [(a * b).sum() for a, b in pairs]
    return torch.stack(products).sum() if products else torch.zeros(())


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, or 0 if b is 0, since the projection onto a zero vector is zero."""
    return torch.where(b > 0, a / b, 0.0)
