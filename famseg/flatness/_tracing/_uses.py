"""One forward pass with its penalized layers, and the product with their Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from famseg.flatness._tracing._derivatives import pullback
from famseg.flatness._tracing._loss_call import LossCall
from famseg.flatness._tracing._operator import Operator


@dataclass(frozen=True, eq=False)
class Use:
    """One penalized layer in one forward pass.

    Attributes:
        name: Its name.
        features: Inputs of the layer, shape ``(n, ...)``.
        output: Its outputs as the rest of the network received them, shape ``(n, ...)``.
        weight: Its weight.
        shift: The leaf of zeros that was added to its outputs.
        operator: Its map of features and weight, without the bias.
    """

    name: str
    features: Tensor
    output: Tensor
    weight: Tensor
    shift: Tensor
    operator: Operator

    def with_constant_features(self) -> Use:
        """Return the use with features through which no gradient flows."""
        return replace(self, features=self.features.detach())


@dataclass(eq=False)
class Pass:
    """One forward pass, ready to be differentiated.

    Attributes:
        loss: The batch loss, a scalar.
        prediction: Argument of the loss, if it is one tensor.
        uses: The penalized layers.
        call: The loss function call that computed the loss, if it was recorded.
    """

    loss: Tensor
    prediction: Tensor | None
    uses: tuple[Use, ...]
    call: LossCall | None = None

    @property
    def samples(self) -> int:
        """Number of samples of the batch."""
        return len(self.uses[0].features)


class Product(Protocol):
    """A curvature times directions, both in the outputs of the layers."""

    def __call__(self, directions: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return one tensor for each direction, with its shape."""


def hessian(run: Pass, uses: Sequence[Use], *, create_graph: bool) -> Product:
    r"""Return the product with the Hessian of the loss in the outputs of the layers.

    .. math:: H v = \nabla_z \langle \nabla_z L, v\rangle

    (Pearlmutter 1994, by reverse mode twice.) It is exact. The gradient is computed once. Each
    product is a backward pass through its graph, and a differentiable product keeps its own graph.

    Args:
        run: The pass.
        uses: The layers in whose outputs directions are given.
        create_graph: Whether products can be differentiated.
    """
    shifts = [use.shift for use in uses]
    slopes = pullback([run.loss], shifts, [torch.ones_like(run.loss)], create_graph=True)

    def product(directions: Sequence[Tensor]) -> Sequence[Tensor]:
        return pullback(slopes, shifts, directions, create_graph=create_graph)

    return product
