"""Whether a part of a batch may stand for all of it: the loss must be the mean of its samples'."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from famseg.flatness._arguments import precise, rows_of, scalar
from famseg.flatness._pass import Recorded, Task, replay
from famseg.flatness._state import untouched
from famseg.flatness._watch import without_autocast

# What a model or a loss may raise on a part of arguments that it cannot take.
_FAULTS = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError)


def is_mean_of_samples(task: Task, recorded: Recorded) -> bool:
    """Return whether the losses of parts, run alone, average to the loss of the batch."""
    n = len(recorded.first.features)
    index = torch.arange(n, device=task.device)
    parts = [index[k :: min(n, 4)] for k in range(min(n, 4))]
    if not is_mean_of(task, recorded, parts[0]):
        return False
    whole = replay(task, recorded, part=index).loss
    try:
        losses = [len(part) / n * replay(task, recorded, part=part).loss for part in parts]
    except _FAULTS:
        return False
    total = torch.stack(losses).sum()
    return bool((total - whole).abs() <= 1e-4 * whole.abs() + 1e-12)


@torch.no_grad()
def is_mean_of(task: Task, recorded: Recorded, part: Tensor) -> bool:
    """Return whether the losses of a part and of the rest average to the loss of this very batch.

    A loss may be a mean over the samples of one batch and not of the next: targets that are
    ignored, or class weights, make it a weighted mean, by weights that the samples' own targets
    decide on. So it is asked of every batch of which a part is taken, with the prediction at hand:
    that runs the loss twice and the network not at all.

    Args:
        task: What was run.
        recorded: The pass.
        part: Numbers of the samples of the part.
    """
    n = len(recorded.first.features)
    prediction = precise(recorded.prediction)
    chosen = torch.zeros(n, dtype=torch.bool, device=part.device)
    chosen[part] = True

    def loss(rows: Tensor | None) -> Tensor:
        return scalar(task.loss(rows_of(prediction, rows, n), rows_of(recorded.targets, rows, n)))

    own = (task.loss,) if isinstance(task.loss, nn.Module) else ()
    with without_autocast(task.device.type), untouched(own, task.device):
        try:
            whole = loss(None)
            own_part, rest = loss(part), loss((~chosen).nonzero()[:, 0])
        except _FAULTS:
            return False
    if own_part == whole == rest:
        return False  # nothing was cut: the model computed the loss by itself
    mean = len(part) / n * own_part + (1 - len(part) / n) * rest
    # False for NaN too, as of a part without a single target that counts.
    return bool((mean - whole).abs() <= 1e-5 * whole.abs() + 1e-12)
