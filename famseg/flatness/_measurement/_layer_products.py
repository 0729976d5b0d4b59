"""Products with the relative Hessian of a layer under the mean loss of several batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from famseg.flatness._check import check_choice, check_model
from famseg.flatness._errors import FlatnessError
from famseg.flatness._estimators._eigenvalue import WeightHessian
from famseg.flatness._measurement._batches import Data, batches_of, samples_of
from famseg.flatness._measurement._mean_hessian import Batch
from famseg.flatness._tracing._arguments import Loss, differentiable_in
from famseg.flatness._tracing._layer import find_layer
from famseg.flatness._tracing._operator import Operator
from famseg.flatness._tracing._pass import Task, checked, differentiable
from famseg.flatness._tracing._state import evaluating, untouched
from famseg.flatness._tracing._uses import hessian
from famseg.flatness._tracing._watch import without_autocast

CurvatureQuantity = Literal["relative_flatness", "simplified", "hessian"]


class _BatchHessian(NamedTuple):
    """The Hessian of one batch, and the operator of the layer."""

    hessian: WeightHessian
    operator: Operator


class LayerProducts:
    """The products used by `LayerCurvature`, which documents the arguments.

    Vectors are stacks of the weight's shape, ``(k, *shape)``.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        loss: Loss,
        layer: str,
        quantity: CurvatureQuantity,
        output: str | None,
    ) -> None:
        check_choice("quantity", quantity, get_args(CurvatureQuantity))
        if isinstance(model, DistributedDataParallel):
            model = model.module
        check_model(model)
        found = find_layer(model, layer)
        batches = batches_of(data)
        sizes = [samples_of(inputs) for inputs, _ in batches]
        self.name, self.weight = layer, found.weight
        self._task = Task(model, {layer: found}, loss, output, eager=_has_compiled(model))
        self._shares = [size / sum(sizes) for size in sizes]
        self._made_at = self._versions()
        with self._undisturbed():
            self._batches = [differentiable_in(batch) for batch in batches]
            self._check()
            first = self._run(self._batches[0])
        self._kept = first if len(batches) == 1 else None
        self._root = _Root(found.weight.detach(), first.operator, quantity, layer)

    def symmetric(self, vectors: Tensor) -> Tensor:
        """Return ``A H A V``."""
        return self.moved(self._hessian(self.moved(vectors)))

    def as_defined(self, vectors: Tensor) -> Tensor:
        """Return ``A A^T H V``."""
        return self.moved(self.moved(self._hessian(vectors)))

    @torch.no_grad()
    def moved(self, vectors: Tensor) -> Tensor:
        """Return ``A V``."""
        return torch.stack([self._root(vector) for vector in vectors]) if len(vectors) else vectors

    def _hessian(self, vectors: Tensor) -> Tensor:
        if self._versions() != self._made_at:
            raise FlatnessError(
                "the weights of the model have changed since this LayerCurvature was created. "
                "Create a new one."
            )
        with self._undisturbed():
            vectors = differentiable_in(vectors)
            total = torch.zeros_like(vectors)
            for share, batch in zip(self._shares, self._batches, strict=True):
                found = self._kept or self._run(batch)
                for row, vector in zip(total, vectors, strict=True):
                    row += share * found.hessian.product(vector)
        return total

    def _run(self, batch: Batch) -> _BatchHessian:
        run = differentiable(self._task, *batch)
        (use,) = run.uses
        product = hessian(run, [use], create_graph=False)
        return _BatchHessian(WeightHessian(use, product), use.operator)

    def _check(self) -> None:
        """Refuse a layer that is not only its weight, or that cannot be differentiated."""
        frozen = not self.weight.requires_grad  # other uses are visible only in the graph
        self.weight.requires_grad_(True)
        try:
            checked(self._task, *self._batches[0])
        finally:
            self.weight.requires_grad_(not frozen)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Switch to evaluation mode and full precision, and restore everything on exit."""
        task = self._task
        with (
            evaluating(*task.parts),
            untouched(task.parts, task.device),
            torch.inference_mode(False),
            torch.enable_grad(),
            without_autocast(task.device.type),
        ):
            yield

    def _versions(self) -> list[tuple[int, int]]:
        """Return a value that differs once a parameter was changed in place or replaced."""
        return [(p.data_ptr(), p._version) for p in self._task.model.parameters()]


class _Root:
    r"""The symmetric factor ``A`` that makes a curvature relative, as a map of weights.

    For relative flatness :math:`A = (WW^\top)^{1/2} = U \Sigma U^\top` from :math:`W = U \Sigma
    V^\top`, for each group; computing it from ``WW^T`` would lose half of the digits. It takes
    ``O(d m min(d, m))`` operations once and for each vector.
    """

    def __init__(
        self, weight: Tensor, operator: Operator, quantity: CurvatureQuantity, name: str
    ) -> None:
        if not weight.isfinite().all():
            raise FlatnessError(
                f"the weight of layer {name!r} is not finite. Did the training diverge?"
            )
        self._operator = operator
        self._scale = torch.linalg.vector_norm(weight) if quantity == "simplified" else None
        self._basis: Tensor | None = None
        if quantity == "relative_flatness":
            self._basis, self._sizes, _ = torch.linalg.svd(
                operator.rows(weight), full_matrices=False
            )  # (g, d, r) and (g, r)

    def __call__(self, vector: Tensor) -> Tensor:
        """Return ``A V`` for one weight."""
        if self._basis is None:
            return vector if self._scale is None else self._scale * vector
        along = self._basis.mT @ self._operator.rows(vector)
        return self._operator.kernel(self._basis @ (self._sizes.unsqueeze(-1) * along))


def _has_compiled(model: nn.Module) -> bool:
    """Return whether parts of a model are compiled, which have no second derivatives."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
