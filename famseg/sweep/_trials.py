"""Trials: resolved configurations with a unique name each."""

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

_DIGITS = (
    10  # of the hash: two of a million trials are alike with a chance of one half in a million
)
_LONGEST = 80
_UNFIT = re.compile(r"[^A-Za-z0-9.+-]+")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        name: Name of its folder: what sets it apart, and the hash of its configuration.
        point: The values of what varies, by key, as they were typed.
        config: The resolved configuration as YAML.
        epochs: How many epochs it trains in all.
        seed: Its seed.
    """

    name: str
    point: Mapping[str, str]
    config: str
    epochs: int
    seed: int

    @property
    def setting(self) -> tuple[tuple[str, str], ...]:
        """The point without the seed: trials of the same setting are repeats."""
        return tuple((key, value) for key, value in self.point.items() if key != "seed")


def make_trials(
    base: str,
    fixed: Sequence[str],
    points: Sequence[Mapping[str, str]],
    *,
    tags: Mapping[str, str] | None = None,
) -> tuple[ModuleType, list[Trial]]:
    """Resolve the configuration of each point; of two that are alike one is left.

    Args:
        base: A path or the name of a shipped configuration.
        fixed: Overrides of all trials, ``key=value``.
        points: The points of the sweep.
        tags: Tags of all runs in MLflow; they make no difference between trials.

    Returns:
        The pipeline's module and the trials in the order of the points.

    Raises:
        InputError: With the faults of the first point that has any.
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
    """Return a hash of what bears on the result: not where, how fast or tracked in which place."""
    kept = {
        key: value for key, value in flatten(config).items() if not key.startswith(FREE_ON_RESUME)
    }
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _label(point: Mapping[str, str]) -> str:
    """Return the point in letters that fit a file name and an MLflow name."""
    parts = [f"{key.rpartition('.')[2]}{_canonical(value)}" for key, value in point.items()]
    return _UNFIT.sub("_", "-".join(parts))[:_LONGEST].strip("-_.") or "trial"


def _canonical(value: str) -> str:
    """Return a number in one way of writing it: 2e-3 is 0.002, in the name of one folder."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return value
