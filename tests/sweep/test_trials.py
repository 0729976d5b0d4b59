from __future__ import annotations

from pathlib import Path

import pytest

from famseg.config import read
from famseg.messages import InputError
from famseg.sweep import make_trials


def names(base: str, *fixed: str, **tags: str) -> list[str]:
    points = [{"lambda": "0", "seed": "1"}, {"lambda": "0.002", "seed": "1"}]
    return [trial.name for trial in make_trials(base, fixed, points, tags=tags)[1]]


def test_a_trial_is_named_by_what_bears_on_its_result() -> None:
    plain = names("skull")
    assert [name.rpartition("-")[0] for name in plain] == ["lambda0-seed1", "lambda0.002-seed1"]
    elsewhere = ("output=elsewhere", "training.threads=1", "tracking.enabled=false")
    assert names("skull", *elsewhere, sweep_id="a") == plain
    assert names("skull", "training.epochs=3") != plain


def test_two_ways_to_write_a_value_are_one_trial() -> None:
    points = [{"lambda": "0.002"}, {"lambda": "2e-3"}]
    (trial,) = make_trials("skull", (), points)[1]
    assert trial.name.startswith("lambda0.002-")


def test_the_configuration_of_a_trial_is_complete(tmp_path: Path) -> None:
    _, (trial,) = make_trials(
        "skull", ["training.epochs=7"], [{"seed": "3"}], tags={"sweep_id": "x"}
    )
    path = tmp_path / "trial.yaml"
    path.write_text(trial.config)
    values = read(str(path)).values
    assert (trial.epochs, trial.seed, values["seed"]) == (7, 3, 3)
    assert values["tracking"]["tags"] == {"sweep_id": "x"}
    assert trial.setting == ()


def test_a_wrong_value_is_named() -> None:
    with pytest.raises(InputError, match="seed"):
        make_trials("skull", (), [{"seed": "one"}])


def test_a_value_cannot_lead_out_of_the_folder() -> None:
    _, (trial,) = make_trials("skull", (), [{"tracking.experiment": "a/../../b"}])
    assert "/" not in trial.name
