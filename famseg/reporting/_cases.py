"""Metrics of single cases, read from the tables of evaluations."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from famseg.messages import InputError
from famseg.reporting._runs import LARGEST

Case = tuple[str, ...]
# For each case the score, and whether the case failed.
Scores = dict[Case, tuple[float, bool]]

# Columns that identify the case of a row, and columns that verify that it is the same case.
_PLACES = ("set", "source", "region")
_IDENTITY = ("set", "region", "subject", "label", "truth_voxels")
# Metrics whose column has another name.
_COLUMNS = {"accuracy": "correct", "evaluation_loss": "loss"}
_MODEL = "model"


@dataclass(frozen=True)
class Cases:
    """The table ``cases.csv`` of a run's evaluation.

    Attributes:
        path: The file.
        columns: Position of each column.
        rows: The rows of the trained network's predictions, as texts.
    """

    path: Path
    columns: Mapping[str, int]
    rows: Sequence[Sequence[str]]

    @property
    def identity(self) -> str:
        """Return a hash that is equal for tables about the same cases."""
        places = [self.columns[name] for name in _IDENTITY if name in self.columns]
        lines = sorted("\t".join(row[place] for place in places) for row in self.rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def scores(self, metric: str) -> Scores | None:
        """Return score and failure of each case.

        Args:
            metric: Flat name of a mean over cases: ``test/set1/skull/dsc``, ``test/accuracy``.

        Returns:
            Scores by case; None if the metric is not a metric of single cases.

        Raises:
            InputError: If a value is not a finite number.
        """
        *where, name = metric.split("/")
        column = self.columns.get(_COLUMNS.get(name, name))
        chosen = self._chosen(where)
        if column is None or chosen is None or "subject" not in self.columns:
            return None
        keys = [self.columns[key] for key in (*_PLACES, "subject") if key in self.columns]
        failed = self.columns.get("failed")
        return {
            tuple(row[place] for place in keys): (
                self._number(row[column], metric),
                failed is not None and row[failed] == "True",
            )
            for row in chosen
        }

    def _chosen(self, where: Sequence[str]) -> list[Sequence[str]] | None:
        """Return the rows whose mean is the metric; None if its name cannot be interpreted."""
        rows, left = list(self.rows), list(where)
        for name in _PLACES:
            place = self.columns.get(name)
            values = set() if place is None else {row[place] for row in self.rows}
            asked = next((part for part in left if part in values), None)
            if asked is not None and place is not None:
                left.remove(asked)
                rows = [row for row in rows if row[place] == asked]
        return rows if rows and left in ([], list(where[:1])) else None

    def _number(self, text: str, metric: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not abs(value) <= LARGEST:  # also true for NaN
            raise InputError(
                f"{self.path}: {text!r} for {metric} is not a number. Evaluate the run again."
            )
        return value


def read_case_table(path: Path) -> Cases | None:
    """Read the case table of any pipeline; None if there is none.

    Raises:
        InputError: If it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}). Evaluate the run again.") from error
    columns = {name: place for place, name in enumerate(header)}
    if any(len(row) != len(header) for row in rows):
        raise InputError(f"{path}: has rows of different length. Evaluate the run again.")
    source = columns.get("source")
    return Cases(path, columns, [r for r in rows if source is None or r[source] == _MODEL])
