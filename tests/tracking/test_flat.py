from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from famseg.engine import scores_metrics, write_scores
from famseg.evaluation import case_scores, flat_metrics, summarize
from famseg.tracking import flat_figures, is_score

BOX = np.pad(np.ones((4, 4, 4)), 2)


def test_the_default_evaluation_and_that_of_skulls_have_one_schema(tmp_path: Path) -> None:
    """PLACE/METRIC, PLACE/METRIC_std of each metric, PLACE/n and PLACE/failed once."""
    rows = case_scores(BOX, BOX, BOX, (1, 1, 1), subject="a", dataset="set1")
    skulls = flat_metrics(summarize(rows))
    default = scores_metrics(write_scores({"set1": [{"dsc": 0.5}, {"dsc": 1.0}]}, tmp_path))
    assert default == {
        "test/set1/dsc": 0.75,
        "test/set1/dsc_std": 0.25,
        "test/set1/n": 2.0,
        "test/set1/failed": 0.0,
    }
    for found, place in ((skulls, "test/set1/skull"), (default, "test/set1")):
        inside = [name.removeprefix(f"{place}/") for name in found if name.startswith(place)]
        metrics = {name for name in inside if f"{name}_std" in inside}
        assert {*inside} - metrics == {f"{name}_std" for name in metrics} | {"n", "failed"}
    assert all(isinstance(value, float) for value in (*skulls.values(), *default.values()))
    json.dumps([skulls, default], allow_nan=False)


def test_the_counts_are_those_of_the_metric_with_the_most() -> None:
    one = {"mean": 0.5, "std": 0.0, "n": 3, "failed": 0}
    lost = {"mean": None, "std": None, "n": 3, "failed": 2}
    found = flat_figures("test", {"a": one, "b": lost})
    assert found == {"test/a": 0.5, "test/a_std": 0.0, "test/n": 3.0, "test/failed": 2.0}
    assert flat_figures("test", {}) == {}


@pytest.mark.parametrize("name", ["n", "failed"])
def test_a_score_that_is_called_like_a_count_is_refused(name: str) -> None:
    figures = {"mean": 0.5, "std": 0.0, "n": 3, "failed": 0}
    with pytest.raises(ValueError, match=rf"^a score cannot be called '{name}'"):
        flat_figures("test", {name: figures})


def test_counts_and_spreads_are_no_scores() -> None:
    names = {f"test/r2{end}" for end in ("", "_std", "_low", "_high", "_n", "_failed")}
    names |= {"test/n", "test/failed", "test/set1/n", "test/seen_n"}
    assert {name for name in names if is_score(name, names)} == {"test/r2", "test/seen_n"}
