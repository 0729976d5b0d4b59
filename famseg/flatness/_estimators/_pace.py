"""The degree of thinning of a penalty, such that rare, strong steps do not dominate a training."""

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
"""Largest ratio of the gradients of penalty and loss in the layer's weight on a thinned step."""
_APART = 16  # largest number of thinned steps between two comparisons


@dataclass
class Pace:
    r"""The degree of thinning of one training, which decreases if the penalty is strong.

    A step with the penalty of ``k`` steps, computed on a part of the batch, has the correct mean
    but a larger magnitude. If :math:`k \lambda \lVert\nabla_W b(\kappa)\rVert` exceeds the loss's
    own gradient :math:`\lVert\nabla_W L\rVert` in the layer's weight, such steps dominate the
    training: with ``lambda / m = 1`` on the first layer of a small network, every thinned training
    ended at chance level, whereas all others succeeded. The two gradients are therefore compared at
    the first thinned steps and then at every 16th. If the ratio exceeds 1, the penalty is computed
    on more steps, and then on more samples: ``k`` is halved until it is 1, then the part is doubled
    until it is the batch. This remains for the rest of the training.

    Attributes:
        level: How many times the thinning was reduced.
        looked: Number of thinned steps so far.
    """

    level: int = 0
    looked: int = 0

    def of(self, plan: Plan, *, every: bool, samples: bool) -> Level:
        """Return the degree of thinning.

        Args:
            plan: The way the penalty is computed.
            every: Whether the interval may be changed, that is, the option is ``"auto"``.
            samples: Whether the part may be changed.
        """
        steps = levels(plan, every=every, samples=samples)
        return steps[min(self.level, len(steps) - 1)]

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Undo the count of a step that fails."""
        before = self.level, self.looked
        try:
            yield
        except BaseException:
            self.level, self.looked = before
            raise

    def due(self, level: Level) -> bool:
        """Return whether gradients are compared at this step, and count it if it is thinned."""
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
    """Return the degrees of thinning of a plan, from the planned degree to none.

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
    """Return whether the two gradients are compared on parts of the batch, before the step.

    In addition to the graphs of a step with jets, two gradients would need 50 % more memory. Other
    plans run the network after the layers a second time anyway. Processes that synchronize
    normalization statistics must run the network equally often, but each has its own pace.
    """
    parts = level.share < 1 and plan.cut is not None
    alone = not any(isinstance(module, nn.SyncBatchNorm) for module in task.model.modules())
    return plan.jets and parts and alone


def in_parts(task: Task, plan: Plan, recorded: Recorded, size: int) -> Tensor:
    """Return the size of the loss's gradient in the layers' weights, from parts of the batch.

    This costs a forward and a backward pass through the network after the layers, with the memory
    of one part at a time.

    Args:
        task: The model and loss to run.
        plan: The plan, in which the loss is a mean over samples.
        recorded: The pass, which needs no graph.
        size: Number of samples run at a time.
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
    """Return the ratio of the gradients of penalty and loss in the layers' weights.

    Each process uses its own part of the batch, because the mean gradient of processes with
    different degrees of thinning is the same. This costs two backward passes through the network
    after the layers.

    Args:
        task: The model and loss that were run.
        loss: The loss of the batch.
        penalty: The penalty.
        strength: Factor of the penalty.
    """
    return ratio(size_of(penalty, task), size_of(loss, task), strength)


def ratio(of_penalty: Tensor, of_loss: Tensor, strength: float) -> float:
    """Return the ratio of penalty to loss from the norms of the two gradients."""
    return (strength * of_penalty / of_loss.clamp(min=torch.finfo(of_loss.dtype).tiny)).item()


def size_of(value: Tensor, task: Task, *, keep: bool = True) -> Tensor:
    """Return the norm of a value's gradient in the layers' weights.

    Args:
        value: A scalar.
        task: The model and loss it was computed from.
        keep: Whether its graph is needed again.
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
