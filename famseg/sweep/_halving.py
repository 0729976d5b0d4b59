"""Successive halving: many settings for a few epochs, and the best of them for more.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
AISTATS 2016. Every trial uses the schedule of the complete training, so that the winner is
identical to a run without the sweep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from famseg.messages import InputError
from famseg.sweep._trials import Trial

Setting = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Rung:
    """A stage of the search.

    Args:
        epoch: The epoch at which its trials pause.
        settings: Number of settings.
    """

    epoch: int
    settings: int


def rungs(
    epochs: int, settings: int, *, factor: int, first: int | None = None, every: int = 1
) -> list[Rung]:
    """Return the stages: epochs are multiplied by the factor, and settings divided by it.

    Args:
        epochs: The epochs of the complete training.
        settings: Number of settings.
        factor: One out of ``factor`` settings is trained further; at least 2.
        first: Epochs of the first stage; None for as many stages as settings and epochs allow.
        every: Epochs between validations, since a stage ends with a validation.

    Returns:
        At least one, the last with all epochs.

    Raises:
        InputError: If the first stage would be the complete training.

    Example:
        >>> [(rung.epoch, rung.settings) for rung in rungs(27, 9, factor=3)]
        [(3, 9), (9, 3), (27, 1)]
    """
    least = epochs / factor ** math.floor(math.log(settings, factor) + 1e-9)
    start = max(first or math.ceil(least - 1e-9), 1)
    start = -(-start // every) * every
    if first is not None and start >= epochs:
        raise InputError(
            f"--first-epochs: {first} is not less than the whole training of {epochs} epochs "
            f"(validated every {every}). Give a smaller number."
        )
    stages = []
    while start < epochs and settings > 1:
        stages.append(Rung(start, settings))
        settings = math.ceil(settings / factor)
        start = min(epochs, -(-start * factor // every) * every)
    return [*stages, Rung(epochs, settings)]


def survivors(
    trials: Sequence[Trial], values: Mapping[str, float | None], number: int
) -> list[Trial]:
    """Return the trials of the best settings, in their order.

    A setting is ranked by the mean over its seeds; settings with a failed seed come last.

    Args:
        trials: The trials of a stage.
        values: Best validation metric of each trial by name, higher is better; None if there is
            none.
        number: Number of settings that are trained further.
    """
    groups: dict[Setting, list[float | None]] = {}
    for trial in trials:
        groups.setdefault(trial.setting, []).append(values.get(trial.name))
    means = {setting: _mean(group) for setting, group in groups.items()}
    best = set(sorted(groups, key=lambda setting: -means[setting])[:number])
    return [trial for trial in trials if trial.setting in best]


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else -math.inf
