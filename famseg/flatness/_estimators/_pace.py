"""How much a penalty is thinned out, so that its rare and strong steps do not govern a training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from famseg.flatness._estimators._choice import Level, Plan
from famseg.flatness._tracing._pass import Recorded, Task, replay

RATIO = 1.0
"""The largest push of a thinned step on the layer's weight, in units of the loss's own."""
_APART = 16  # thinned steps between two looks, at most


@dataclass
class Pace:
    r"""The degree of thinning of one training, which falls where the penalty is strong.

    A step that carries the penalty of ``k`` steps, taken on a part of the batch, has the right mean
    and a larger size. Where :math:`k \lambda \lVert\nabla_W b(\kappa)\rVert` exceeds the loss's own
    gradient :math:`\lVert\nabla_W L\rVert` in the layer's weight such steps are what trains the
    network: with ``lambda / m = 1`` on the first layer of a small network every training that was
    thinned out ended at chance, and every other one trained. So the two are compared at the first
    thinned steps, then every 16th, and above a ratio of 1 the penalty is taken on more steps, and
    then on more samples: halving ``k`` until it is 1, doubling the part until it is the batch. That
    holds for the rest of the training.

    Attributes:
        level: How many times the thinning was halved.
        looked: Thinned steps so far.
    """

    level: int = 0
    looked: int = 0

    def of(self, plan: Plan, *, every: bool, samples: bool) -> Level:
        """Return the degree of thinning.

        Args:
            plan: How the penalty is computed.
            every: Whether the interval may be changed: it was left at ``"auto"``.
            samples: Whether the part may be.
        """
        steps = levels(plan, every=every, samples=samples)
        return steps[min(self.level, len(steps) - 1)]

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Count no step that fails."""
        before = self.level, self.looked
        try:
            yield
        except BaseException:
            self.level, self.looked = before
            raise

    def due(self, level: Level) -> bool:
        """Return whether a step is thinned and to be looked at, and count it if it is thinned."""
        if level.every == 1 and level.share == 1:
            return False
        self.looked += 1
        power_of_two = self.looked & (self.looked - 1) == 0
        return power_of_two or self.looked % _APART == 0

    def thin_less(self, ratio: float) -> None:
        """Thin out less if the ratio of two pushes is too large."""
        if ratio > RATIO:  # False for NaN, for which the training stops elsewhere
            self.level += math.ceil(math.log2(min(ratio, 2.0**10) / RATIO))


def levels(plan: Plan, *, every: bool, samples: bool) -> list[Level]:
    """Return the degrees of thinning of a plan, from what it says to none at all.

    Example:
        A plan for every 4th step and a quarter of the batch goes to every 2nd and to every step,
        then to half of the batch and to all of it.
    """
    share = 0.25 if plan.part == "quarter" else 1.0
    found = [Level(plan.every, share)]
    while every and found[-1].every > 1:
        found.append(Level(found[-1].every // 2, share))
    while samples and plan.part == "quarter" and found[-1].share < 1:
        found.append(Level(found[-1].every, 2 * found[-1].share))
    return found


def can_run_ahead(task: Task, plan: Plan, level: Level) -> bool:
    """Return whether the two pushes are compared on parts of the batch, before the step.

    Two gradients beside the graphs of a step with jets are half as much memory again. Other plans
    run the network after the layers a second time anyway. Processes that share the statistics of a
    normalization must run it equally often, and each has a pace of its own.
    """
    parts = level.share < 1 and plan.cut is not None
    alone = not any(isinstance(module, nn.SyncBatchNorm) for module in task.model.modules())
    return plan.jets and parts and alone


def in_parts(task: Task, plan: Plan, recorded: Recorded, size: int) -> Tensor:
    """Return the size of the loss's gradient in the layers' weights, from parts of the batch.

    Costs a forward and a backward pass through the network after the layers, and the memory of one
    part at a time.

    Args:
        task: What to run.
        plan: How, with what holds samples: the loss is the mean of its samples'.
        recorded: The pass, which needs no graph.
        size: How many samples are run at a time.
    """
    weights, n = layer_weights(task), len(recorded.first.features)
    slopes = [torch.zeros_like(weight) for weight in weights]
    for first in range(0, n, size):
        part = torch.arange(first, min(first + size, n), device=task.device)
        loss = replay(task, recorded, part=part, cut=plan.cut).run.loss
        for slope, of_part in zip(slopes, _slopes(loss, weights), strict=True):
            slope += len(part) / n * of_part
    return _norm(slopes, recorded.loss)


def push(task: Task, loss: Tensor, penalty: Tensor, strength: float) -> float:
    """Return the size of a weighted penalty's gradient over the loss's, in the layers' weights.

    Each process takes that of its own part of the batch: the mean gradient of processes that thin
    out differently is the same. Costs a backward pass through the network after the layers for
    each of the two.

    Args:
        task: What was run.
        loss: The loss of the batch.
        penalty: The penalty.
        strength: Its factor.
    """
    return ratio(size_of(penalty, task), size_of(loss, task), strength)


def ratio(of_penalty: Tensor, of_loss: Tensor, strength: float) -> float:
    """Return how hard a penalty pushes, relative to the loss, from the sizes of two gradients."""
    return (strength * of_penalty / of_loss.clamp(min=torch.finfo(of_loss.dtype).tiny)).item()


def size_of(value: Tensor, task: Task, *, keep: bool = True) -> Tensor:
    """Return the size of a value's gradient in the layers' weights.

    Args:
        value: A scalar.
        task: What it was taken from.
        keep: Whether its graph is needed once more.
    """
    return _norm(_slopes(value, layer_weights(task), keep=keep), value)


def layer_weights(task: Task) -> list[Tensor]:
    """Return the weights of the layers that are trained."""
    weights = [layer.weight for layer in task.layers.values()]
    return [weight for weight in weights if weight.requires_grad]


def _slopes(value: Tensor, weights: list[Tensor], *, keep: bool = False) -> Sequence[Tensor]:
    if not weights or not value.requires_grad:
        return [torch.zeros_like(weight) for weight in weights]
    return torch.autograd.grad(
        value, weights, retain_graph=keep, allow_unused=True, materialize_grads=True
    )


def _norm(slopes: Sequence[Tensor], like: Tensor) -> Tensor:
    if not slopes:
        return like.new_zeros(())
    return torch.stack([slope.square().sum() for slope in slopes]).sum().sqrt()
