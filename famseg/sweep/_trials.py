"""Trials: resolved configurations with unique names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from famseg.config import flatten, load, to_yaml
from famseg.engine import FREE_ON_RESUME
from famseg.messages import InputError

if TYPE_CHECKING:
    from types import ModuleType

    from famseg.engine import RunConfig

_DIGITS = 10  # of the hash: among a thousand trials a collision has a probability of 5e-7
_LONGEST = 80
_UNFIT = re.compile(r"[^A-Za-z0-9.+-]+")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        name: Name of its folder: its distinctive settings and the hash of its configuration.
        point: The values of varying keys, as typed.
        config: The resolved configuration as YAML.
        epochs: Total number of epochs.
        seed: Its seed.
    """

    name: str
    point: Mapping[str, str]
    config: str
    epochs: int
    seed: int

    @property
    def setting(self) -> tuple[tuple[str, str], ...]:
        """The point without the seed; trials with the same setting are repetitions."""
        return tuple((key, value) for key, value in self.point.items() if key != "seed")


def make_trials(
    base: str,
    fixed: Sequence[str],
    points: Sequence[Mapping[str, str]],
    *,
    tags: Mapping[str, str] | None = None,
) -> tuple[ModuleType, list[Trial]]:
    """Resolve the configuration of each point, without duplicates.

    Args:
        base: A path or the name of a shipped configuration.
        fixed: Overrides of all trials, ``key=value``.
        points: The points of the sweep.
        tags: Tags of all runs in MLflow, which do not distinguish trials.

    Returns:
        The pipeline's module and the trials in the order of the points.

    Raises:
        InputError: With the errors of the first invalid point.
    """
    trials: dict[str, Trial] = {}
    pipeline = None
    marks = [f"tracking.tags.{key}={value}" for key, value in (tags or {}).items()]
    for point in points:
        overrides = [*fixed, *(f"{key}={value}" for key, value in point.items()), *marks]
        pipeline, loaded = load(base, overrides)
        config = cast("RunConfig", loaded)
        name = f"{_label(point)}-{trial_hash(config)}"
        trials.setdefault(
            name,
            Trial(
                name=name,
                point=dict(point),
                config=to_yaml(config, "A trial of a sweep. Made by famseg sweep."),
                epochs=config.training.epochs,
                seed=config.seed,
            ),
        )
    if pipeline is None:
        raise InputError("a sweep needs at least one trial")
    return pipeline, list(trials.values())


def trial_hash(config: RunConfig) -> str:
    """Return a hash of the keys that affect the result, without location, speed and tracking."""
    kept = {
        key: value for key, value in flatten(config).items() if not key.startswith(FREE_ON_RESUME)
    }
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _label(point: Mapping[str, str]) -> str:
    """Return the point as text that is valid in file names and MLflow names."""
    parts = [f"{key.rpartition('.')[2]}{_canonical(value)}" for key, value in point.items()]
    return _UNFIT.sub("_", "-".join(parts))[:_LONGEST].strip("-_.") or "trial"


def _canonical(value: str) -> str:
    """Return a number in canonical form, so that 2e-3 and 0.002 have the same folder name."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return value
