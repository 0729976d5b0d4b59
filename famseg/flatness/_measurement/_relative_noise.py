"""Random noise relative to a layer's weight, which is equivalent to perturbed features."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from famseg.flatness._errors import LossError
from famseg.flatness._estimators._factor import factor
from famseg.flatness._estimators._probes import normals, position_generator
from famseg.flatness._tracing._arguments import Inputs
from famseg.flatness._tracing._operator import Layer, Operator, matrix_shape
from famseg.flatness._tracing._pass import Task
from famseg.flatness._tracing._state import random_state, set_random_state
from famseg.flatness._tracing._watch import Edit, Site, leave

Kind = Literal["orthogonal", "gaussian"]


class RelativeNoise:
    """Random matrices for relative noise of a weight, the same for every batch."""

    def __init__(
        self, layer: Layer, delta: float, draws: int, kind: Kind, seed: int, *, antithetic: bool
    ) -> None:
        self.layer, self.delta, self.kind = layer, delta, kind
        self.features = matrix_shape(layer)[1]
        self._draws, self._seed, self._signs = draws, seed, (1, -1) if antithetic else (1,)
        self._kernels: list[Tensor] = []

    def rises(self, task: Task, inputs: Inputs, targets: object) -> tuple[int, float, list[float]]:
        """Return the number of samples, the loss, and its rise for each draw."""
        state = random_state(task.device)

        def run(edit: Edit) -> tuple[float, Site]:
            # The same random numbers in every pass, for networks that draw in evaluation mode, too.
            set_random_state(state)
            value, _, sites, _ = task.run(inputs, targets, edit, care="none")
            (site,) = sites.values()
            return value.item(), site

        plain, site = run(leave)
        if not math.isfinite(plain):
            raise LossError(
                f"the loss is {plain} without any perturbation, so there is nothing "
                "to compare with."
            )
        if not self._kernels:
            self._kernels = [self._draw(site.operator, number) for number in range(self._draws)]
        rises = [
            sum(run(_moved(sign * kernel))[0] - plain for sign in self._signs) / len(self._signs)
            for kernel in self._kernels
        ]
        return len(site.features), plain, rises

    def _draw(self, operator: Operator, number: int) -> Tensor:
        r"""Return ``W A``.

        It is computed from :math:`W = R Q^\top`, where ``Q`` has ``r`` orthonormal columns, at most
        as many as ``W`` has rows: :math:`Q^\top A` is an ``r x m`` block of a matrix with the
        distribution of ``A``.
        """
        matrix = factor(self.layer.weight, operator, quantity="relative_flatness").reduced
        assert matrix is not None  # noqa: S101 - None is for the simplified measure
        groups, _, r = matrix.shape
        generator = position_generator(self._seed, "robustness", number)
        z = normals((groups, r, self.features), self.layer.weight, generator)
        if self.kind == "gaussian":
            z = z / math.sqrt(self.features)
        else:
            q, triangle = torch.linalg.qr(z.mT)
            # The signs make the distribution independent of the QR algorithm (Mezzadri, 2007).
            z = (q * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).mT
        return self.delta * operator.kernel(matrix @ z)


def _moved(kernel: Tensor) -> Edit:
    def moved(site: Site) -> Tensor:
        return site.own + site.operator.apply(site.features, kernel)

    return moved
