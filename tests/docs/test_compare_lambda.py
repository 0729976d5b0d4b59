"""What docs/compare-lambda.md says to type into the search field of MLflow finds runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from famseg.tracking import Tracker

PAGE = Path(__file__).parents[2] / "docs" / "compare-lambda.md"
FILTERS = re.findall(r"^\| [^|]+ \| `([^`]+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one run of each filter's kind and a run of none."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    for weight, seed, dsc in ((0.02, 1, 0.5), (0.002, 1, 0.5), (0.5, 0, 0.5), (0.5, 1, 0.7)):
        with Tracker.start(
            uri=uri,
            run_name=f"{weight} {seed}",
            parameters={"seed": seed, "penalty": {"lambda": weight}},
            penalty_weight=weight,
            method=f"FAM lambda={weight:g}",
            scores=("val/dsc",),
        ) as tracker:
            tracker.log_epoch(1, {"val/dsc": dsc})
    return uri


@pytest.mark.slow
@pytest.mark.parametrize("words", FILTERS)
def test_a_filter_finds_one_of_the_runs(store, words):
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiments = [each.experiment_id for each in client.search_experiments()]
    assert len(client.search_runs(experiments, words)) == 1


def test_the_page_has_filters():
    assert len(FILTERS) == 4
