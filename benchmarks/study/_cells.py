"""Common parts of the blocks: rows that survive a kill, tuning, paired differences, pages."""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import environment, table

from famseg.files import write_atomically
from famseg.statistics import holm, permutation_test

Row = dict[str, str | float | int]
MARGIN = 0.01  # smaller differences in accuracy count as equivalent
LEVEL = 0.05


class Rows:
    """Rows of cells, one file per cell: existing rows are not computed again.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, cell: Mapping[str, object], compute: Callable[[], Sequence[Row]]) -> list[Row]:
        """Return the rows of a cell; if missing, compute and write them atomically."""
        path = self._path(cell)
        if not path.is_file():
            write_atomically(path, to_csv([{**cell, **row} for row in compute()]).encode())
        return read_csv(path)

    def has(self, cell: Mapping[str, object]) -> bool:
        """Return whether the rows of a cell exist."""
        return self._path(cell).is_file()

    def _path(self, cell: Mapping[str, object]) -> Path:
        name = re.sub(r"[^A-Za-z0-9.+=-]+", "_", ",".join(f"{k}={v}" for k, v in cell.items()))
        return self.folder / f"{name}.csv"


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as CSV, numbers with five digits."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _short(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _short(value: object) -> object:
    return f"{value:.5g}" if isinstance(value, float) else value


def read_csv(path: Path) -> list[Row]:
    """Return the rows of a file, with numbers converted."""
    with path.open(newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def published(path: Path) -> dict[tuple[str, float, int], dict[str, list[Row]]]:
    """Return the rows of an earlier page by condition (data, noise, n) and method, if any."""
    found: dict[tuple[str, float, int], dict[str, list[Row]]] = {}
    for row in read_csv(path) if path.is_file() else ():
        key = (str(row["data"]), float(row["noise"]), int(float(row["n"])))
        found.setdefault(key, {}).setdefault(str(row["method"]), []).append(row)
    return found


def _value(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def decades(top: float, number: int = 4, *, each: int = 1) -> list[float]:
    """Return strengths from ``top`` downwards, ``each`` per decade.

    Example:
        >>> decades(10.0)
        [0.001, 0.01, 0.1, 1.0, 10.0]
        >>> decades(10.0, 1, each=2)
        [1.0, 3.16228, 10.0]
    """
    return [float(f"{top * 10.0 ** (-k / each):.6g}") for k in range(number * each, -1, -1)]


def tuned(grid: Sequence[float], score: Callable[[float], float]) -> tuple[float, bool]:
    """Return the best strength of a grid, refined by half decades, and whether it is an end.

    Args:
        grid: Strengths, one decade apart; a single one is not tuned.
        score: Mean validation score, the higher the better; NaN is the worst.
    """
    if len(grid) == 1:
        return grid[0], False
    values = {each: _finite(score(each)) for each in grid}
    best = max(values, key=values.__getitem__)
    root = math.sqrt(10)
    inner = [float(f"{best * factor:.6g}") for factor in (1 / root, root)]
    for each in inner:
        if min(map(abs, grid)) < abs(each) < max(map(abs, grid)):
            values[each] = _finite(score(each))
    best = max(values, key=values.__getitem__)
    return best, best in (grid[0], grid[-1])


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences.

    Attributes:
        n: Number of pairs.
        mean: Their mean.
        low: Lower end of its 95 % interval, Student's t.
        high: Upper end.
        p: Two-sided permutation test.
        p_equal: Two one-sided t tests of equivalence: the larger p value.
        margin: The equivalence margin.
        p_holm: ``p`` adjusted for the family of comparisons.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    p_equal: float
    margin: float
    p_holm: float = math.nan

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"

    @property
    def verdict(self) -> str:
        """Interpretation of the difference."""
        p = self.p_holm if math.isfinite(self.p_holm) else self.p
        if p < LEVEL and (self.low > 0 or self.high < 0):
            small = ", within the margin" if self.p_equal < LEVEL else ""
            return f"{'higher' if self.mean > 0 else 'lower'}{small}"
        if self.p_equal < LEVEL:
            return f"equivalent within {self.margin:g}"
        return "no difference shown, none excluded"


def difference(one: Sequence[float], two: Sequence[float], *, margin: float = MARGIN) -> Difference:
    """Compare paired scores: interval, permutation test, equivalence by two one-sided t tests."""
    values = np.subtract(one, two)
    n, mean = len(values), float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    beyond = (margin - abs(mean)) / error if error else math.inf if abs(mean) < margin else -1.0
    return Difference(
        n=n,
        mean=mean,
        low=mean - half,
        high=mean + half,
        p=permutation_test(one, two).p_value,
        p_equal=float(stats.t.sf(beyond, n - 1)),
        margin=margin,
    )


def loss_difference(one: Sequence[float], two: Sequence[float]) -> str:
    """Return the difference of losses with its interval, or how many are not finite."""
    diverged = int((~np.isfinite(one)).sum())
    if diverged:
        return f"{diverged} of {len(one)} diverged"
    found = difference(one, two)
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def family(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """Return comparisons with Holm-adjusted p values."""
    from dataclasses import replace

    values = holm([each.p for each in differences.values()])
    return {
        name: replace(each, p_holm=float(p))
        for (name, each), p in zip(differences.items(), values, strict=True)
    }


def column(rows: Iterable[Row], name: str) -> list[float]:
    """Return the numbers of a column."""
    return [float(row[name]) for row in rows]


def average(values: Sequence[float]) -> str:
    """Return mean and standard deviation."""
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def p_words(value: float) -> str:
    """Format a p value for a table."""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def machine(packages: Sequence[str] = ("torch",)) -> str:
    """Return the description of the machine for the page, as a list."""
    return "\n".join(f"- {key}: {value}" for key, value in environment("cpu", 1, packages).items())


__all__ = [
    "LEVEL",
    "MARGIN",
    "Difference",
    "Row",
    "Rows",
    "average",
    "column",
    "decades",
    "difference",
    "family",
    "loss_difference",
    "machine",
    "p_words",
    "published",
    "read_csv",
    "table",
    "to_csv",
    "tuned",
]
