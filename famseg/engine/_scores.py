"""The default evaluation of a task: its scores on its test sets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from famseg.files import csv_text, write_atomically, write_json
from famseg.messages import InputError, text_table
from famseg.tracking import flat_figures

Row = dict[str, Any]
Figures = dict[str, float | int | None]


def write_scores(rows: Mapping[str, Sequence[Row]], folder: Path) -> dict[str, Any]:
    """Write one line per case to ``cases.csv`` and finally the aggregates to ``summary.json``.

    Args:
        rows: The score rows of each test set.
        folder: Output folder, which is created if it does not exist.

    Returns:
        ``{set: {metric: {mean, std, min, max, n, failed}}}`` for every column of floats. A case
        whose score is not finite has failed: it is counted, and the metric then has no mean.

    Raises:
        InputError: If the folder cannot be written to.
    """
    summary = {name: _aggregate(of_set) for name, of_set in rows.items()}
    columns = dict.fromkeys(key for of_set in rows.values() for row in of_set for key in row)
    cases = ({"set": name, **row} for name, of_set in rows.items() for row in of_set)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "cases.csv", csv_text(["set", *columns], cases).encode())
        write_json(folder / "summary.json", summary)
    except (PermissionError, NotADirectoryError) as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}). Choose another folder."
        ) from error
    return summary


def _aggregate(rows: Sequence[Row]) -> dict[str, Figures]:
    metrics = [name for name, value in rows[0].items() if isinstance(value, float)] if rows else []
    return {name: _figures([float(row[name]) for row in rows]) for name in metrics}


def _figures(values: Sequence[float]) -> Figures:
    failed = sum(not math.isfinite(value) for value in values)
    if failed:
        return {"mean": None, "std": None, "min": None, "max": None} | _counts(values, failed)
    return {
        "mean": statistics.fmean(sorted(values)),
        "std": statistics.pstdev(sorted(values)),
        "min": min(values),
        "max": max(values),
    } | _counts(values, failed)


def _counts(values: Sequence[float], failed: int) -> Figures:
    return {"n": len(values), "failed": failed}


def scores_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the aggregates as flat numbers, see ``famseg.tracking.flat_figures``.

    Example:
        >>> figures = {"mean": 0.5, "std": 0.1, "min": 0.4, "max": 0.6, "n": 2, "failed": 0}
        >>> scores_metrics({"test": {"r2": figures}})
        {'test/r2': 0.5, 'test/r2_std': 0.1, 'test/n': 2.0, 'test/failed': 0.0}
    """
    flat: dict[str, float] = {}
    for name, metrics in summary.items():
        # The set is usually called "test", which is then not repeated.
        flat |= flat_figures("test" if name == "test" else f"test/{name}", metrics)
    return flat


def scores_table(summary: Mapping[str, Any]) -> str:
    """Return the aggregates as text, one line per set and metric.

    Example:
        >>> figures = {"mean": 0.5, "std": 0.1, "min": 0.4, "max": 0.6, "n": 2, "failed": 0}
        >>> print(scores_table({"test": {"r2": figures}}))
        set   metric  mean ± std  min  max  n  failed
        test  r2      0.5 ± 0.1   0.4  0.6  2  0
    """
    lines = []
    for name, metrics in summary.items():
        for metric, figures in metrics.items():
            mean, std, low, high = (
                "none" if figures[key] is None else f"{figures[key]:.4g}"
                for key in ("mean", "std", "min", "max")
            )
            counts = [str(figures["n"]), str(figures["failed"])]
            lines.append([name, metric, f"{mean} ± {std}", low, high, *counts])
    return text_table(["set", "metric", "mean ± std", "min", "max", "n", "failed"], lines)
