"""The Hessian of a layer's weight under the mean loss of several batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from famseg.flatness._estimators._eigenvalue import WeightHessian, start_vector
from famseg.flatness._estimators._lanczos import EigenPair, largest_pair
from famseg.flatness._tracing._arguments import Inputs
from famseg.flatness._tracing._pass import Task, differentiable
from famseg.flatness._tracing._uses import hessian
from famseg.flatness._tracing._watch import without_autocast

Batch = tuple[Inputs, object]


def mean_largest_eigenvalue(
    task: Task,
    batches: Sequence[Batch],
    shares: Sequence[float],
    *,
    tolerance: float,
    max_iterations: int,
) -> EigenPair:
    r"""Return the largest eigenvalue of :math:`\sum_b a_b H_b`, the Hessian of the mean loss.

    It is not the mean of the batches' eigenvalues, which is larger. Lanczos' method needs one
    Hessian-vector product per batch and iteration. A single batch is run once; several batches are
    rerun in each iteration, so that only one of them is in memory at a time.

    Args:
        task: The model, loss and layer, in evaluation mode with gradients enabled.
        batches: Inputs and targets.
        shares: Share of each batch in the mean, summing to 1.
        tolerance: Residual, relative to the value, at which the iteration ends.
        max_iterations: Most iterations.
    """
    (layer,) = task.layers.values()
    products = _kept(task, batches) if len(batches) == 1 else _run_anew(task, batches)

    def product(vector: Tensor) -> Tensor:
        direction = vector.view_as(layer.weight)
        total = torch.zeros_like(direction)
        for share, of_batch in zip(shares, products, strict=True):
            total += share * of_batch(direction)
        return total.flatten()

    with without_autocast(task.device.type):
        return largest_pair(
            product,
            start_vector(layer.weight.numel(), layer.weight, None),
            tolerance=tolerance,
            max_iterations=max_iterations,
        )


_Product = Callable[[Tensor], Tensor]


def _kept(task: Task, batches: Sequence[Batch]) -> list[_Product]:
    return [_hessian_of(task, batch).product for batch in batches]


def _run_anew(task: Task, batches: Sequence[Batch]) -> list[_Product]:
    def of(batch: Batch) -> _Product:
        return lambda direction: _hessian_of(task, batch).product(direction)

    return [of(batch) for batch in batches]


@torch.enable_grad()  # Lanczos' method disables gradients
def _hessian_of(task: Task, batch: Batch) -> WeightHessian:
    run = differentiable(task, *batch)
    (use,) = run.uses
    return WeightHessian(use, hessian(run, [use], create_graph=False))
