"""The penalty on the Jacobian of a network's outputs in its input."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from famseg.flatness import Inputs, Terms, call_model
from famseg.messages import InputError
from famseg.objectives._objective import Loss
from famseg.objectives._random import generator_at

Projections = int | Literal["all"]


def squared_jacobian_norm(
    outputs: Tensor,
    inputs: Tensor,
    *,
    projections: Projections = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return the squared Frobenius norm of the Jacobian, mean over samples.

    .. math:: \lVert J\rVert_F^2 = \sum_{c=1}^{C} \Big\lVert \frac{\partial z_c}{\partial x}
              \Big\rVert^2 = C\, E_v \Big\lVert \frac{\partial \langle v, z\rangle}{\partial x}
              \Big\rVert^2, \qquad v \text{ uniform on the unit sphere}

    (Hoffman, Roberts and Yaida 2019, arXiv 1908.02729, algorithm 1). It is unbiased for any number
    of projections. Each costs a differentiable backward pass. If samples interact, as in batch
    normalization, derivatives of a sample's outputs in other samples' inputs are included.

    Args:
        outputs: The network's outputs :math:`z`, shape ``(n, ...)``.
        inputs: Its input :math:`x`, shape ``(n, ...)``, which must require gradients.
        projections: Number of random :math:`v` of each sample; ``all``: one for each output, exact.
        generator: Source of the projections; torch's own unless given.

    Returns:
        A scalar, differentiable in all that the outputs depend on.

    Example:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> squared_jacobian_norm(x[:, :2] * 2.0, x, projections="all")
        tensor(8.)
    """
    # In float32, also under autocast; float64 is kept.
    flat = outputs.flatten(1).to(torch.promote_types(outputs.dtype, torch.float32))
    samples, size = flat.shape
    norms = []
    for number in range(size if projections == "all" else projections):
        direction = torch.zeros_like(flat)
        if projections == "all":
            direction[:, number] = 1
        else:
            drawn = torch.randn(flat.shape, generator=generator, device=flat.device)
            # Norm sqrt(C) instead of a factor C, which loses less precision in fp16.
            direction = nn.functional.normalize(drawn, dim=1).to(flat.dtype) * size**0.5
        (gradient,) = torch.autograd.grad((flat * direction).sum(), inputs, create_graph=True)
        norms.append(gradient.to(flat.dtype).square().sum())
    total = torch.stack(norms).sum()
    return total / samples if projections == "all" else total / (samples * projections)


class JacobianNorm(nn.Module):
    r"""Loss plus lambda / 2 times the squared norm of the Jacobian of the outputs in the input.

    It keeps the outputs from changing much with the input (Hoffman, Roberts and Yaida 2019, arXiv
    1908.02729), as relative flatness keeps the loss from changing much with the features of a
    layer: something to compare that with. In evaluation mode and with lambda 0 there is no penalty.
    Under autocast the derivatives pass through the network in the precision of the autocast.

    Args:
        model: The network. Its input must be one tensor of real numbers.
        loss: Maps (outputs, targets) to a scalar.
        weight: lambda; 0.01 in the paper.
        projections: See :func:`squared_jacobian_norm`; 1 in the paper.
        seed: Seed of the projections.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Loss,
        weight: float = 0.01,
        projections: Projections = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.weight = weight
        self.projections: Projections = projections
        self.seed = seed
        self._position = (0, 0)

    def seek(self, step: int, *, stream: int = 0) -> None:
        """Set the optimizer step; the projections are a function of seed, step and stream."""
        self._position = (step, stream)

    def forward(self, inputs: Inputs, targets: Tensor) -> Terms:
        """Return total, loss and half the squared norm; arguments as those of `PlainLoss`.

        Raises:
            InputError: If the input or the output is not one tensor of real numbers.
        """
        if not self.training or self.weight == 0:
            loss = self.loss(call_model(self.model, inputs), targets)  # type: ignore[arg-type]
            return Terms(total=loss, loss=loss, penalty=None)
        variable = _real(inputs, "input").detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the fast attention kernels have only first derivatives
            outputs = _real(call_model(self.model, variable), "output")
        loss = self.loss(outputs, targets)
        generator = generator_at(self.seed, "jacobian norm", *self._position, device=outputs.device)
        penalty = 0.5 * squared_jacobian_norm(
            outputs, variable, projections=self.projections, generator=generator
        )
        return Terms(total=loss + self.weight * penalty, loss=loss, penalty=penalty)


def _real(value: object, name: str) -> Tensor:
    """Return a tensor that can be differentiated, or raise an error."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    found = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
    raise InputError(
        f"penalty.kind: jacobian_norm takes derivatives of the network's output in its input; the "
        f"{name} must be one tensor of real numbers, not {found}. Choose another penalty."
    )
