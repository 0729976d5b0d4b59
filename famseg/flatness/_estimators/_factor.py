r"""The factor, derived from a layer's weight, that makes a curvature relative.

Relative flatness and its simplified form are both traces of the Hessian after a change of scale,

.. math:: c \operatorname{tr}\bigl((A A^\top \otimes I_m) H\bigr)

with :math:`A = W, c = 1` for :math:`\kappa` and :math:`A = I, c = \lVert W\rVert^2` for the
simplified measure. Estimators take only ``A`` and ``c`` and do not distinguish the two measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from famseg.flatness._tracing._operator import Operator

Quantity = Literal["relative_flatness", "simplified", "max_eigenvalue"]


@dataclass(frozen=True, eq=False)
class Factor:
    """The factor of one layer.

    Attributes:
        matrix: ``A`` in rows, shape ``(g, d, m)``; ``None`` for the identity.
        scale: ``c``, a scalar; ``None`` for 1.
        shape: Shape ``(g, d, m)`` of the layer's rows.
    """

    matrix: Tensor | None
    scale: Tensor | None
    shape: tuple[int, int, int]

    @property
    def gram(self) -> Tensor | None:
        """``A A^T`` of each group, shape ``(g, d, d)``; ``None`` for the identity."""
        return None if self.matrix is None else self.matrix @ self.matrix.mT

    @property
    def reduced(self) -> Tensor | None:
        """A factor of the same Gram matrix with at most ``d`` columns, shape ``(g, d, r)``.

        With a constant orthonormal basis ``Q`` of the span of its rows, ``A Q`` has the same Gram
        matrix as ``A`` with the same derivative, since ``A Q Q^T = A``. A probe thus needs at most
        ``d * m`` numbers, regardless of the number of features. The basis costs ``O(d^2 m)``.
        """
        if self.matrix is None or self.shape[2] <= self.shape[1]:
            return self.matrix
        reduced: Tensor = self.matrix @ span(self.matrix)
        return reduced

    def scaled(self, value: Tensor) -> Tensor:
        """Return a trace multiplied by ``c``."""
        return value if self.scale is None else self.scale * value


@torch.no_grad()
def span(rows: Tensor) -> Tensor:
    """Return an orthonormal basis of the span of rows, ``(..., n, m)``: ``(..., m, min(n, m))``.

    It is constant: since ``rows @ basis @ basis.T`` equals ``rows``, the Gram matrix of ``rows @
    basis`` and its derivative are those of the rows.
    """
    basis, triangle = torch.linalg.qr(rows.mT)
    # A unique basis, so that probes do not depend on the routine that computed it.
    flip = triangle.diagonal(dim1=-2, dim2=-1) < 0
    signed: Tensor = basis * torch.where(flip, -1.0, 1.0).to(basis).unsqueeze(-2)
    return signed


def factor(
    weight: Tensor, operator: Operator, *, quantity: Quantity, as_released: bool = False
) -> Factor:
    """Return the factor of a layer's weight.

    Args:
        weight: The weight, of the layer's shape.
        operator: The linear operator of the layer.
        quantity: ``"relative_flatness"`` or ``"simplified"``.
        as_released: Whether the simplified measure uses the norm without squaring it, as the
            authors' code does.
    """
    rows = operator.rows(weight)
    groups, d, m = rows.shape
    if quantity == "relative_flatness":
        return Factor(rows, None, (groups, d, m))
    scale = torch.linalg.vector_norm(weight) if as_released else weight.square().sum()
    return Factor(None, scale, (groups, d, m))
