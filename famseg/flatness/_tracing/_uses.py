"""One forward pass and the penalized layers in it, and the product with their Hessian."""

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
        operator: What it does with features and weight, apart from its bias.
    """

    name: str
    features: Tensor
    output: Tensor
    weight: Tensor
    shift: Tensor
    operator: Operator

    def with_constant_features(self) -> Use:
        """Return the use with features that no gradient goes through."""
        return replace(self, features=self.features.detach())


@dataclass(eq=False)
class Pass:
    """One forward pass, ready to be differentiated.

    Attributes:
        loss: The batch loss, a scalar.
        prediction: What the loss was given, if that is one tensor.
        uses: The penalized layers.
        call: The call of a loss function that gave the loss, where it was noted.
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
        """Return one tensor for each direction, of its shape."""


def hessian(run: Pass, uses: Sequence[Use], *, create_graph: bool) -> Product:
    r"""Return the product with the Hessian of the loss in the outputs of the layers.

    .. math:: H v = \nabla_z \langle \nabla_z L, v\rangle

    (Pearlmutter 1994, by reverse mode twice.) Exact. The gradient is computed once; each product is
    a backward pass through its graph, and one that is differentiated keeps a graph of its own.

    Args:
        run: The pass.
        uses: The layers, whose outputs directions are in.
        create_graph: Whether products can be differentiated.
    """
    shifts = [use.shift for use in uses]
    slopes = pullback([run.loss], shifts, [torch.ones_like(run.loss)], create_graph=True)

    def product(directions: Sequence[Tensor]) -> Sequence[Tensor]:
        return pullback(slopes, shifts, directions, create_graph=create_graph)

    return product
