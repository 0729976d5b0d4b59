"""The campaign of kills detects damage that a kill can cause; it is itself run by hand."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sweep_campaign import COLUMNS, Found, Row, compare, table  # found through the line above

FOUND = Found(
    weights={"a": {"w": b"12"}, "b": {"w": b"34"}},
    records={"a": [{"epoch": 1}], "b": [{"epoch": 1}]},
    tracked=["FINISHED: []", "FINISHED: []"],
    files=frozenset({"sweep/sweep.json"}),
)


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"weights": {"a": {"w": b"12"}, "b": {"w": b"35"}}}, "same weights"),
        ({"records": {"a": [{"epoch": 1}, {"epoch": 1}], "b": [{"epoch": 1}]}}, "each epoch once"),
        ({"tracked": ["FINISHED: []"] * 3}, "one MLflow run"),
        ({"tracked": ["FINISHED: []", "RUNNING: []"]}, "one MLflow run"),
        ({"files": FOUND.files | {"sweep/trials/a/.part"}}, "nothing left over"),
        ({}, None),
    ],
)
def test_what_a_kill_can_leave_is_noticed(change: dict[str, Any], column: str | None) -> None:
    assert list(compare(replace(FOUND, **change), FOUND)) == ([column] if column else [])


def test_the_table_counts_what_is_right() -> None:
    rows = [
        Row(Counter(sweep=2, trial=3), 1),
        Row(Counter(trial=5), faults={COLUMNS[1]: "a"}),
    ]
    assert table(rows).splitlines()[-1] == "| 2 | 8 | 2 | 8 | 1 | 2 | 1 | 2 | 2 | 2 |"
