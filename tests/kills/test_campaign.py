from __future__ import annotations

import os
import random
from dataclasses import replace

import campaign
import pytest
from campaign import COLUMNS, Found, Kill, Row, Whole, compare, table

# One of each kind; with FAMSEG_KILLS=100 it takes half an hour.
KILLS = int(os.environ.get("FAMSEG_KILLS", "4"))

FOUND = Found(
    weights={"last: w": b"12", "best: w": b"34"},
    record=[{"epoch": 1, "val/dsc": 0.5}, {"epoch": 2, "val/dsc": 0.6}],
    tracked=[("FINISHED", {"val/dsc": [(1, 0.5), (2, 0.6)]})],
    files=frozenset({"mlflow.db", "runs", "runs/a", "runs/a/config.yaml"}),
)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_killed_runs_end_as_runs_that_nobody_killed(tmp_path):
    rows = list(campaign.campaign(KILLS, seed=0, folder=tmp_path))
    faults = [f"{row.kind}, killed {row.kills}: {row.faults}" for row in rows if row.faults]
    assert not faults, "\n".join([*faults, table(rows)])
    assert sum(len(row.kills) for row in rows) >= KILLS


def test_equal_runs_have_no_fault():
    assert compare(FOUND, FOUND) == {}


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"weights": {"last: w": b"12", "best: w": b"35"}}, "same weights"),
        ({"weights": {"last: w": b"12"}}, "same weights"),
        ({"record": FOUND.record[:1]}, "whole record"),
        ({"record": [*FOUND.record, FOUND.record[1]]}, "whole record"),
        ({"tracked": [*FOUND.tracked, ("RUNNING", {})]}, "one MLflow run"),
        ({"tracked": [("KILLED", FOUND.tracked[0][1])]}, "one MLflow run"),
        ({"tracked": [("FINISHED", {"val/dsc": [(1, 0.5)]})]}, "one MLflow run"),
        ({"files": FOUND.files | {"runs/a-2"}}, "nothing left over"),
        ({"files": FOUND.files - {"runs/a/config.yaml"}}, "nothing left over"),
    ],
)
def test_what_a_kill_can_leave_is_noticed(change, column):
    faults = compare(replace(FOUND, **change), FOUND)
    assert list(faults) == [column]


def test_the_table_counts_what_is_right():
    kind = campaign.KINDS[0]
    rows = [Row(kind, [Kill(0, event=3)]), Row(kind, [Kill(0, seconds=1.5)], {COLUMNS[1]: "w"})]
    lines = table(rows).splitlines()
    assert lines[2] == "| skull | 1 | 2 | 2 | 2 | 1 | 2 | 2 | 2 |"
    assert lines[-1].startswith("| all |  | 2 | 2 | 2 | 1 |")


def test_kills_are_drawn_of_both_sorts():
    whole = Whole(FOUND, events=[7, 2], seconds=5.0)
    chance = random.Random(0)  # noqa: S311  # kills, not keys
    kills = [campaign._draw(whole, chance) for _ in range(200)]
    assert {kill.event for kill in kills if kill.rank == 0} == set(range(8))
    assert {kill.event for kill in kills if kill.rank == 1} == {0, 1, 2}
    assert all(0 < kill.seconds < 5 for kill in kills if not kill.event)
