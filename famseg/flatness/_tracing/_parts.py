"""Checks whether a part of a batch can replace it: the loss must be a mean over samples.

This is always verified. When a plan is made, the model runs on parts, which reveals which tensors
hold samples. At each penalized step, the part's prediction and loss are compared with those of the
whole batch, which are available anyway.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from famseg.flatness._tracing._arguments import Inputs, changed, precise, scalar
from famseg.flatness._tracing._body import Call, Finished, finished_noted
from famseg.flatness._tracing._pass import Recorded, Task, record, replay
from famseg.flatness._tracing._samples import INPUTS, PREDICTION, TARGETS, Cut, leaves
from famseg.flatness._tracing._state import untouched
from famseg.flatness._tracing._watch import autocast_on, without_autocast

# Exceptions of a model or a loss that cannot process a part of its arguments.
FAULTS = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError)
PARTS = 4
"""Number of trial parts of a batch, and the interval between the samples of a part."""
# Tolerance for the part's prediction relative to the batch's largest value, by precision.
_CLOSE = {torch.float64: 1e-8, torch.float32: 2e-3}
_COARSE = 0.1  # under autocast, since the part runs in single precision

_OTHER_ROWS = (
    "the model's output for a part of the batch differs from its output for the whole batch "
    "(dropout or batch statistics after the layer, or an argument as long as the batch that does "
    "not contain samples: name the arguments that do with samples_in=)"
)
_NO_MEAN = (
    "the loss of the batch is not the mean of its samples' losses (weights that are normalized "
    "over the batch, or an output that cannot be cut)"
)


class Found(NamedTuple):
    """Which calls need not be rerun, and how to select a part.

    Attributes:
        cut: Which tensors hold samples; ``None`` if no part can replace the batch.
        body: Calls that finish before the first layer begins.
        reason: Why no part can replace the batch.
    """

    cut: Cut | None
    body: tuple[Finished, ...]
    reason: str = ""


def find_parts(
    task: Task, inputs: Inputs, targets: object, n: int, held: frozenset[str], *, wanted: bool
) -> Found:
    """Determine by trial which calls precede the layers, and whether parts can replace the batch.

    Args:
        task: The model and loss to run, which are not modified.
        inputs: The model's arguments.
        targets: The targets of the loss.
        n: Number of samples.
        held: Paths of tensors that may hold samples.
        wanted: Whether parts are requested.
    """
    with (
        untouched(task.parts, task.device),
        finished_noted(task.model, task.layers) as calls,
    ):
        recorded = record(task, task.fresh(inputs), task.fresh(targets))
    body = tuple(Finished(call.name, frozenset(), not call.intact) for call in calls)
    if not wanted or n < 2:
        return Found(None, body, "there is only one sample")
    if len(recorded.first.features) != n:
        return Found(None, body, f"layer {recorded.first.name!r} does not get one row per sample")
    index = torch.arange(n, device=task.device)
    parts = [index[k :: min(n, PARTS)] for k in range(min(n, PARTS))]
    try:
        cut, usable = _held_by_trial(task, recorded, calls, parts[0], held)
    except FAULTS:
        return Found(None, body, _OTHER_ROWS)
    # Two simultaneous passes would need twice the memory.
    inputs, targets = recorded.inputs, recorded.targets
    del recorded, calls
    with untouched(task.parts, task.device):
        given = task.fresh(inputs), task.fresh(targets)
        recorded = _without_graph(record(task, *given, body=usable))
        reason = _tried(task, recorded, parts, index, cut)
    return Found(None, body, reason) if reason else Found(cut, usable)


def stands_for_batch(
    task: Task, recorded: Recorded, prediction: object, part: Tensor, cut: Cut
) -> bool | None:
    """Return whether a part may replace this batch; ``None`` if its rows differ from the batch's.

    A loss may be a mean over the samples of one batch but not of the next: ignored targets or class
    weights make it a mean with weights that depend on the targets. This is therefore checked for
    every batch of which a part is used. The check uses existing predictions, so it runs only the
    loss, on the part and on the rest, but not the network.

    Args:
        task: The model and loss that were run.
        recorded: The pass.
        prediction: The output of the model for the part.
        part: Indices of the samples in the part.
        cut: Which tensors hold samples.
    """
    if not _same_rows(task, recorded.prediction, prediction, part, cut):
        return None
    return is_mean(task, recorded, part, cut)


@torch.no_grad()
def _held_by_trial(
    task: Task, recorded: Recorded, calls: Sequence[Call], part: Tensor, held: frozenset[str]
) -> tuple[Cut, tuple[Finished, ...]]:
    """Return which tensors shrink with the batch: in the prediction, and in earlier outputs."""
    given = Cut(held)
    n, size = len(recorded.first.features), len(part)
    with (
        untouched(task.parts, task.device),
        finished_noted(task.model, task.layers) as again,
    ):
        prediction = task.predict(given.rows(task.fresh(recorded.inputs), part, INPUTS))
    shrunk = _shrunk(recorded.prediction, prediction, n, size, PREDICTION)
    cut = Cut(held | (shrunk or frozenset()))
    usable = []
    if [call.name for call in calls] == [call.name for call in again]:
        for whole, small in zip(calls, again, strict=True):
            rows = _shrunk(whole.output, small.output, n, size, "")
            if rows is not None:
                usable.append(Finished(whole.name, rows, not whole.intact))
    # Calls of a module are identified by their order, so either all of them or none are used.
    names = [call.name for call in calls]
    complete = {one.name for one in usable}
    complete = {
        name for name in complete if [u.name for u in usable].count(name) == names.count(name)
    }
    return cut, tuple(one for one in usable if one.name in complete)


def _shrunk(whole: object, small: object, n: int, size: int, root: str) -> frozenset[str] | None:
    """Return paths that have a row for each sample; ``None`` if anything else has changed."""
    of_small = dict(leaves(small, root))
    of_whole = dict(leaves(whole, root))
    if of_small.keys() != of_whole.keys():
        return None
    rows = set()
    for path, tensor in of_whole.items():
        other = of_small[path]
        if tensor.shape == other.shape:
            continue
        by_row = tensor.ndim and len(tensor) == n and len(other) == size
        if not by_row or tensor.shape[1:] != other.shape[1:]:
            return None
        rows.add(path)
    return frozenset(rows)


def _without_graph(recorded: Recorded) -> Recorded:
    """Return a pass without its graph, which is most of its memory, to rerun it for its values."""
    if not recorded.kept:  # identified by tensors that would be replaced
        return recorded
    calls = [
        Call(call.name, changed(call.output, torch.Tensor.detach), call.random)
        for call in recorded.calls
    ]
    sites = {name: copy.copy(site) for name, site in recorded.sites.items()}
    for site in sites.values():
        site.features, site.own = site.features.detach(), site.own.detach()
        site.output, site.node = site.output.detach(), None
    prediction = changed(recorded.prediction, torch.Tensor.detach)
    return dataclasses.replace(
        recorded, loss=recorded.loss.detach(), prediction=prediction, sites=sites, calls=calls
    )


def _tried(
    task: Task, recorded: Recorded, parts: Sequence[Tensor], index: Tensor, cut: Cut
) -> str | None:
    """Return why parts cannot replace the batch; ``None`` if they can."""
    losses = []
    try:
        for part in [*parts, index]:
            run, prediction = replay(task, recorded, part=part, cut=cut)
            if not _same_rows(task, recorded.prediction, prediction, part, cut):
                return _OTHER_ROWS
            losses.append(len(part) / len(index) * run.loss.detach())
            del run, prediction
        if not is_mean(task, recorded, parts[0], cut):
            return _NO_MEAN
    except FAULTS:
        return _OTHER_ROWS
    *of_parts, whole = losses
    off = (torch.stack(of_parts).sum() - whole).abs()
    return None if bool(off <= 1e-4 * whole.abs() + 1e-12) else _NO_MEAN


@torch.no_grad()
def _same_rows(task: Task, whole: object, small: object, part: Tensor, cut: Cut) -> bool:
    """Return whether the model gives the same rows of a prediction for only these samples."""
    coarse = autocast_on(task.device.type)
    of_whole = _tensors(whole, cut)
    of_small = _tensors(small, cut)
    if not of_whole or of_whole.keys() != of_small.keys():
        return False
    worst = []
    for path, tensor in of_whole.items():
        rows, other = tensor[part.to(tensor.device)], of_small[path]
        if rows.shape != other.shape:
            return False
        low = coarse or rows.dtype not in _CLOSE
        tolerance = _COARSE if low else _CLOSE[rows.dtype]
        rows, other = rows.to(other.dtype), other
        worst.append((rows - other).abs().max() - tolerance * rows.abs().max())
    return bool(torch.stack([w.to(worst[0]) for w in worst]).max() <= 0)  # False for NaN


def _tensors(prediction: object, cut: Cut) -> Mapping[str, Tensor]:
    return {
        path: tensor
        for path, tensor in leaves(prediction, PREDICTION)
        if path in cut.held and tensor.is_floating_point() and tensor.numel()
    }


@torch.no_grad()
def is_mean(task: Task, recorded: Recorded, part: Tensor, cut: Cut | None) -> bool:
    """Return whether the mean loss of a part and the rest is the loss of this batch.

    Args:
        task: The model and loss that were run.
        recorded: The pass.
        part: Indices of the samples in the part.
        cut: Which tensors hold samples; ``None`` for none.
    """
    if cut is None:
        return False
    n = len(recorded.first.features)
    device = task.device.type
    coarse = autocast_on(device)
    prediction = precise(recorded.prediction)
    chosen = torch.zeros(n, dtype=torch.bool, device=part.device)
    chosen[part] = True

    def loss(rows: Tensor) -> Tensor:
        targets = cut.rows(task.fresh(recorded.targets), rows, TARGETS)
        return scalar(task.loss(cut.rows(prediction, rows, PREDICTION), targets))

    with without_autocast(device), untouched((task.loss,), task.device):
        try:
            whole = recorded.loss
            if coarse:
                whole = scalar(task.loss(prediction, task.fresh(recorded.targets)))
            own, rest = loss(part), loss((~chosen).nonzero()[:, 0])
        except FAULTS:
            return False
    if own == whole == rest:
        return False  # nothing was cut, because the model itself computed the loss
    mean = len(part) / n * own + (1 - len(part) / n) * rest
    # False for NaN, too, as for a part in which all targets are ignored.
    return bool((mean - whole).abs() <= 1e-5 * whole.abs() + 1e-12)
