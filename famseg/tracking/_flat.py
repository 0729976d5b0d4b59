"""The numbers of an evaluation with flat names, in one schema for all evaluations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

N, FAILED = "n", "failed"
# Suffixes of the names of a score's spread and interval.
_STD = "_std"
_SPREADS = (_STD, "_low", "_high")
# Older runs have both counts for each score, instead of separate names.
_OLD_COUNTS = ("_n", "_failed")


def flat_figures(place: str, metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Return the statistics of a set of cases as flat numbers for a tracker or a script.

    Args:
        place: Prefix of the names, such as ``test/set1/skull``.
        metrics: ``mean``, ``std``, ``n`` and ``failed`` by metric; means and deviations that are
            None are left out.

    Returns:
        ``PLACE/METRIC`` (the mean) and ``PLACE/METRIC_std`` of each metric; ``PLACE/n`` and
        ``PLACE/failed`` once, for the metric with the most cases.

    Raises:
        ValueError: If a metric has the name of a count.

    Example:
        >>> flat_figures("test", {"r2": {"mean": 0.5, "std": 0.1, "n": 2, "failed": 0}})
        {'test/r2': 0.5, 'test/r2_std': 0.1, 'test/n': 2.0, 'test/failed': 0.0}
    """
    flat: dict[str, float] = {}
    for metric, figures in metrics.items():
        if metric in (N, FAILED):
            raise ValueError(
                f"a score cannot be called {metric!r}, which is the name of a count of cases."
            )
        for end, value in (("", figures["mean"]), (_STD, figures["std"])):
            if value is not None:
                flat[f"{place}/{metric}{end}"] = float(value)
    for count in (N, FAILED) if metrics else ():
        flat[f"{place}/{count}"] = float(max(figures[count] or 0 for figures in metrics.values()))
    return flat


def is_score(name: str, names: Collection[str]) -> bool:
    """Return whether a flat number of an evaluation is a score, not a count or spread.

    Args:
        name: Its flat name.
        names: All names of the evaluation, which distinguish counts in older runs from scores with
            the same name.

    Example:
        >>> names = ("test/r2", "test/r2_std", "test/n", "test/top_n", "test/a_n", "test/a_failed")
        >>> [name for name in names if is_score(name, names)]
        ['test/r2', 'test/top_n']
    """
    last = PurePosixPath(name).name
    if last in (N, FAILED) or last.endswith(_SPREADS):
        return False
    for end in _OLD_COUNTS:
        stem = name.removesuffix(end)
        if stem != name and all(f"{stem}{other}" in names for other in _OLD_COUNTS):
            return False
    return True
