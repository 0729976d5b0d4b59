"""Grouping of runs by data and method, with distinctive names of the methods."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from famseg.reporting._runs import Run
from famseg.tracking import cut

Settings = Mapping[str, str]

_LONGEST_VALUE = 40
# Keys that the label of a method already contains.
_IN_LABEL = (
    "penalty.kind",
    "penalty.lambda",
    "loss.label_smoothing",
    *(f"sam.{key}" for key in ("kind", "rho", "gamma", "every", "alpha", "adaptive")),
    "nso",
    "training.swa",
)


@dataclass(frozen=True)
class Group:
    """The runs with the same configuration, which differ only in the seed.

    Attributes:
        name: The method, and other settings that distinguish the group from most others in the
            study.
        method: The method alone, see ``famseg.tracking.method_label``.
        plain: Whether it has neither a penalty nor SAM or another method that finds flat minima.
        runs: Finished runs, one per seed, sorted by seed.
        unfinished: Runs that did not finish, sorted by seed.
        repeated: Finished runs with a seed for which there is a later finished run.
    """

    name: str
    method: str
    plain: bool
    runs: tuple[Run, ...]
    unfinished: tuple[Run, ...]
    repeated: tuple[Run, ...]

    @property
    def by_seed(self) -> dict[int, Run]:
        """Its finished runs by seed."""
        return {run.seed: run for run in self.runs}


@dataclass(frozen=True)
class Study:
    """Groups that can be compared, because they share the pipeline and the data.

    Attributes:
        name: Pipeline, data set and the beginning of the data's fingerprint.
        pipeline: Name of the pipeline.
        data_hash: Fingerprint of the data; None if it is unknown.
        groups: Baselines first, then by method.
        usual: Settings that hold unless the name of a group states otherwise, such as
            ``training.batch_size=64``.
    """

    name: str
    pipeline: str
    data_hash: str | None
    groups: tuple[Group, ...]
    usual: tuple[str, ...]


def studies(runs: Sequence[Run]) -> list[Study]:
    """Sort runs into studies by pipeline and data, and into groups by configuration.

    Runs of one group have the same configuration except for the seed and keys that do not affect
    the result (names, folders, tracking, device, number of threads and workers).

    Args:
        runs: Runs of any pipelines, finished or not.
    """
    parts: dict[tuple[str, str | None], list[Run]] = {}
    for run in runs:
        parts.setdefault((run.pipeline, run.data_hash), []).append(run)
    found = []
    for (pipeline, data_hash), members in sorted(parts.items(), key=lambda part: str(part[0])):
        kinds = dict.fromkeys(run.settings.get("data.kind") for run in members)
        data = [*(kind for kind in kinds if kind), f"({(data_hash or 'unknown')[:8]})"]
        name = f"{pipeline}, data {' '.join(data)}"
        found.append(Study(name, pipeline, data_hash, *_groups(members)))
    return found


def _groups(runs: Sequence[Run]) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    alike: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        alike.setdefault(tuple(run.settings.items()), []).append(run)
    members = list(alike.values())
    names, usual = _names([each[0] for each in members])
    groups = [_group(name, each) for name, each in zip(names, members, strict=True)]
    groups.sort(key=lambda group: (not group.plain, _order(group.name)))
    return tuple(groups), usual


def _group(name: str, runs: Sequence[Run]) -> Group:
    newest: dict[int, Run] = {}
    repeated = []
    for run in sorted(runs, key=lambda run: (run.created, str(run.path))):
        if run.finished:
            repeated += [newest[run.seed]] if run.seed in newest else []
            newest[run.seed] = run
    return Group(
        name=name,
        method=runs[0].method,
        plain=runs[0].plain,
        runs=tuple(newest[seed] for seed in sorted(newest)),
        unfinished=tuple(sorted((r for r in runs if not r.finished), key=lambda run: run.seed)),
        repeated=tuple(repeated),
    )


def _names(runs: Sequence[Run]) -> tuple[list[str], tuple[str, ...]]:
    """Return a name for each of the runs, which represent groups, and the settings left out.

    A name is the method with every setting that differs, except values that most groups have.
    """
    settings = [run.settings for run in runs]
    parts: list[list[str]] = [[run.method] for run in runs]
    left_out = []
    for key in dict.fromkeys(key for each in settings for key in each):
        if _labeled(key):
            continue
        told, usual = _told(key, settings)
        for names_part, text in zip(parts, told, strict=True):
            names_part += [text] if text else []
        left_out += [usual] if usual else []
    names: list[str] = []
    for name in map(", ".join, parts):
        # Differences that are lost by rounding in the label.
        twins = sum(each == name or each.startswith(f"{name} (") for each in names)
        names.append(f"{name} ({twins + 1})" if twins else name)
    return names, tuple(left_out)


def _labeled(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _IN_LABEL)


def _told(key: str, settings: Sequence[Settings]) -> tuple[list[str], str]:
    """Return the text about a key in the name of each group, and the usual value that is omitted.

    Only groups with the same kind in the section of the key are compared, because without a penalty
    there is no layer that could differ.
    """
    kinds = [kinds_of(key, each) for each in settings]
    concerned = {kind for kind, each in zip(kinds, settings, strict=True) if key in each}
    values = {
        kind: [each.get(key) for of, each in zip(kinds, settings, strict=True) if of == kind]
        for kind in concerned
    }
    if all(len(set(of_kind)) == 1 for of_kind in values.values()):
        return [""] * len(settings), ""
    every = [value for of_kind in values.values() for value in of_kind]
    usual, count = Counter(every).most_common(1)[0]
    shared = 2 * count > len(every)
    told = [
        "" if kind not in concerned or (shared and each.get(key) == usual) else _text(key, each)
        for kind, each in zip(kinds, settings, strict=True)
    ]
    return told, _text(key, {key: usual} if usual is not None else {}) if shared else ""


def kinds_of(key: str, settings: Settings) -> tuple[str | None, ...]:
    """Return the kinds of the sections that contain a key."""
    parts = key.split(".")
    sections = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return tuple(settings.get(f"{each}.kind") for each in sections if f"{each}.kind" != key)


def _text(key: str, settings: Settings) -> str:
    return f"{key}={cut(settings[key], _LONGEST_VALUE)}" if key in settings else f"no {key}"


def _order(name: str) -> list[tuple[str, float]]:
    """Return a sort key for names, with numbers in numerical order.

    Example:
        >>> sorted(["FAM lambda=0.1", "FAM lambda=1e-05", "FAM lambda=10"], key=_order)
        ['FAM lambda=1e-05', 'FAM lambda=0.1', 'FAM lambda=10']
    """
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", name)
    return [
        (text, float(number)) for text, number in zip(parts[::2], [*parts[1::2], 0], strict=True)
    ]
