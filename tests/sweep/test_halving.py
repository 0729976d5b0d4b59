from __future__ import annotations

import pytest

from famseg.messages import InputError
from famseg.sweep import Rung, Trial, rungs, survivors


def trial(name: str, seed: int) -> Trial:
    return Trial(f"{name}{seed}", {"x": name, "seed": str(seed)}, "", 9, seed)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"epochs": 27, "settings": 9, "factor": 3}, [(3, 9), (9, 3), (27, 1)]),
        ({"epochs": 30, "settings": 8, "factor": 2}, [(4, 8), (8, 4), (16, 2), (30, 1)]),
        ({"epochs": 30, "settings": 8, "factor": 2, "first": 10}, [(10, 8), (20, 4), (30, 2)]),
        ({"epochs": 20, "settings": 4, "factor": 2, "every": 5}, [(5, 4), (10, 2), (20, 1)]),
        ({"epochs": 2, "settings": 9, "factor": 3}, [(1, 9), (2, 3)]),
        ({"epochs": 5, "settings": 1, "factor": 3}, [(5, 1)]),
    ],
)
def test_epochs_grow_as_settings_shrink(
    arguments: dict[str, int], expected: list[tuple[int, int]]
) -> None:
    assert [(rung.epoch, rung.settings) for rung in rungs(**arguments)] == expected


def test_a_first_stage_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(InputError, match="--first-epochs: 10 is not less"):
        rungs(10, 4, factor=2, first=10)


def test_a_setting_is_as_good_as_the_mean_over_its_seeds() -> None:
    trials = [trial(name, seed) for seed in (1, 2) for name in "abc"]
    values = {"a1": 0.9, "a2": 0.1, "b1": 0.6, "b2": 0.6, "c1": 0.99, "c2": None}
    kept = survivors(trials, values, 1)
    assert [each.name for each in kept] == ["b1", "b2"]  # a seed of c failed, so c ranks last
    assert [each.name for each in survivors(trials, values, 2)] == ["a1", "b1", "a2", "b2"]


def test_the_last_stage_has_all_epochs() -> None:
    for epochs in range(1, 40):
        for settings in range(1, 12):
            stages = rungs(epochs, settings, factor=2)
            assert stages[-1].epoch == epochs
            assert isinstance(stages[0], Rung)
            assert stages[0].settings == settings
            assert [each.epoch for each in stages] == sorted({each.epoch for each in stages})
