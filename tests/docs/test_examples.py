"""Each example runs as a user runs it, and shows what it is there to show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import warm

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
LINE = re.compile(
    r"weight (?P<weight>\S+): accuracy (?P<accuracy>\S+), loss (?P<loss>\S+), "
    r"kappa (?P<kappa>\S+) \+- (?P<error>\S+)"
)
# What guessing gives: three rings, few voxels inside, two judgements.
GUESSED = {
    "plain_loop.py": 1 / 3,
    "monai_trainer.py": 0.93,
    "lightning_module.py": 1 / 3,
    "transformers_trainer.py": 1 / 2,
}


def test_every_example_is_tried():
    assert set(GUESSED) == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.slow
@pytest.mark.parametrize("name", GUESSED)
def test_an_example_trains_and_the_penalty_flattens(name, tmp_path):
    done = warm.run(str(EXAMPLES / name), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [LINE.fullmatch(line) for line in done.stdout.splitlines()]
    runs = [{k: float(v) for k, v in m.groupdict().items()} for m in lines if m]
    assert [run["weight"] == 0 for run in runs] == [True, False], done.stdout
    plain, flat = runs
    for run in runs:
        assert run["accuracy"] > GUESSED[name] + 0.04, done.stdout
    # Further apart than their standard errors, and no worse.
    assert plain["kappa"] - flat["kappa"] > 2 * (plain["error"] + flat["error"]), done.stdout
    assert flat["accuracy"] > plain["accuracy"] - 0.03, done.stdout
