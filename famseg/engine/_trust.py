"""Checks of a checkpoint before a training uses it, since it may be untrusted."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from famseg.engine._meter import SUMS
from famseg.engine._result import Best

_MOST = 2**53  # steps; beyond it, the steps of a schedule, which are floats, are not distinct
_FASTEST = 1e30  # largest learning rate, within float32
_COUNTS = ("iteration", "epoch", "averaged")
_MAPPINGS = ("model", "trained", "optimizer", "scheduler", "scaler", "sharpness", "best", "meter")
_SIGNED = ("loss", "penalty")  # the other sums of an epoch are of counts, times and squares
# Values that optimizers store for each weight, in its shape.
_LIKE_WEIGHTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")


def check_state(state: Mapping[Any, Any]) -> None:
    """Check the types of the content of a checkpoint, as far as it is present.

    Args:
        state: The loaded content.

    Raises:
        ValueError: If a value has another type, or a number is impossible; the message says which.
    """
    for name in _COUNTS:
        if name in state and not _is_count(state[name]):
            raise ValueError(f"{name} is {_shown(state[name])}, not a number of 0 or more")
    for name in _MAPPINGS:
        if not isinstance(state.get(name, {}), Mapping):
            raise ValueError(f"{name} is {_shown(state[name])}, not a mapping")
    _check_objective(state.get("objective", []))
    _check_history(state.get("history", []))
    best = state.get("best", {})
    unknown = [name for name in best if name not in {field.name for field in fields(Best)}]
    counts = all(_is_count(best.get(name, 0)) for name in ("epoch", "waited"))
    value = best.get("value", 0.0)  # minus infinity before the first validation
    if unknown or not counts or not _is_number(value) or math.isnan(value):
        raise ValueError(f"best is {_shown(dict(best))}, not an epoch and its metric")
    for name, value in state.get("meter", {}).items():
        known = name in SUMS and _is_number(value) and math.isfinite(value)
        if not known or (value < 0 and name not in _SIGNED):
            raise ValueError(f"the sum of {_shown(name)} is {_shown(value)}")


def _check_objective(learned: object) -> None:
    """Check the state of the objective of each rank."""
    if not isinstance(learned, list) or not all(isinstance(one, Mapping) for one in learned):
        raise ValueError(f"objective is {_shown(learned)}, not a mapping for each process")
    for pace in (one.get("pace", (0, 0)) for one in learned):
        if not (isinstance(pace, tuple) and len(pace) == 2 and all(map(_is_count, pace))):
            raise ValueError(
                f"the pace of the penalty is {_shown(pace)}, not two numbers of 0 or more"
            )


def _check_history(rows: object) -> None:
    """Check the metrics of each epoch, which will be lines of ``metrics.jsonl``."""
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"history is {_shown(rows)}, not a mapping for each epoch")
    for row in rows:
        if not _is_count(row.get("epoch")):
            raise ValueError(f"an epoch of the history is {_shown(row.get('epoch'))}")
        for name, value in row.items():
            known = value is None or (_is_number(value) and math.isfinite(value))
            if not isinstance(name, str) or not known:
                raise ValueError(f"the history's {_shown(name)} is {_shown(value)}")


def check_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Check that this optimizer can continue from a saved state.

    Raises:
        ValueError: If it is from another optimizer or has other options, types or shapes.
    """
    own = optimizer.state_dict()
    groups, kept = state["param_groups"], state["state"]
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        raise ValueError("the optimizer has other groups of weights")
    weights = []
    for group, ours, live in zip(groups, own["param_groups"], optimizer.param_groups, strict=True):
        for name, value in ours.items():
            same = name in group and _alike(group[name], value)
            if same and name == "lr":  # changed by the schedule
                same = abs(group[name]) <= _FASTEST
            elif same:
                same = group[name] == value
            if not same:
                raise ValueError(f"the optimizer's {name} is {_shown(group.get(name))}")
        expected = _kept(optimizer, live)
        weights += [(weight, expected) for weight in live["params"]]
    for number, values in kept.items():
        if not _is_count(number) or number >= len(weights):
            raise ValueError(f"the optimizer has no weight {_shown(number)}")
        weight, expected = weights[number]
        missing = sorted((expected or {}).keys() - values.keys())
        if missing:
            raise ValueError(f"the optimizer's {missing[0]} of a weight is missing")
        for name, value in values.items():
            _check_kept(name, value, weight, (expected or {}).get(name))


def _kept(optimizer: Optimizer, group: Mapping[str, Any]) -> Mapping[str, object] | None:
    """Return what an optimizer stores for a weight of a group; None if it cannot be determined."""
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.zeros_like(weight)
    tried = copy.copy(optimizer)
    tried.state = defaultdict(dict)
    tried.param_groups = [{**group, "params": [weight]}]
    try:
        tried.step()
    except (RuntimeError, TypeError):  # an optimizer that recomputes the loss, such as L-BFGS
        return None
    return dict(tried.state[weight])


def _check_kept(name: str, value: object, weight: Tensor, own: object) -> None:
    """Check a value that an optimizer stores for a weight; ``own`` is None if unknown."""
    if isinstance(value, Tensor):
        if name in _LIKE_WEIGHTS and value.shape != weight.shape:
            raise ValueError(f"the optimizer's {name} has the shape {tuple(value.shape)}")
        usable = value.is_floating_point() and _is_dense(value)
        if name == "step":
            usable &= value.dim() == 0 and 0 <= float(value) <= _MOST
    else:
        usable = value is None or (_is_number(value) and (name != "step" or _is_count(value)))
    if not usable or (isinstance(own, Tensor) and not isinstance(value, Tensor)):
        raise ValueError(
            f"the optimizer's {name} is {_shown(value)}, which it cannot continue from"
        )


def _is_dense(value: Tensor) -> bool:
    """Return whether each element has its own memory, as in-place changes require."""
    if value.layout != torch.strided:
        return False
    sizes = [pair for pair in zip(value.stride(), value.shape, strict=True) if pair[1] > 1]
    places = 1
    for stride, size in sorted(sizes):
        if stride != places:
            return False
        places *= size
    return True


def check_scheduler(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Check that a saved state belongs to this scheduler: torch overwrites its attributes.

    Raises:
        ValueError: If it has other entries, or values of other types.
    """
    own = scheduler.state_dict()
    for name, value in state.items():
        if name not in own or not _alike(value, own[name]):
            raise ValueError(f"the schedule's {_shown(name)} is {_shown(value)}")
        if name in ("last_epoch", "_step_count") and not _is_count(value):
            raise ValueError(f"the schedule's {name} is {_shown(value)}")
        if name == "base_lrs" and value != own[name]:
            raise ValueError("the schedule's rates are not those of the configuration")


def _alike(value: object, own: object) -> bool:
    """Return whether a value has the same type as the expected one; numbers must be finite."""
    if own is None:  # chosen by torch later
        return value is None or isinstance(value, bool)
    if isinstance(own, bool):
        return isinstance(value, bool)
    if isinstance(own, int | float):
        return _is_number(value) and math.isfinite(value)  # type: ignore[arg-type]
    if isinstance(own, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(own)
            and all(map(_alike, value, own))
        )
    if isinstance(own, Tensor):
        return isinstance(value, Tensor) and value.shape == own.shape
    return isinstance(value, type(own))


def _is_number(value: object) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= _MOST
    return isinstance(value, float)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _shown(value: object) -> str:
    """Return a value as one short line; for arbitrary objects only the type."""
    if isinstance(value, str | float | bool) or value is None:
        return f"{value!r:.40}"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**15 else "a number of more than 15 digits"
    return f"a {type(value).__name__}"
