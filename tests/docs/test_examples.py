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
OTHERS = {"adversarial_path.py", "flatness_over_training.py"}


def test_every_example_is_tried():
    assert GUESSED.keys() | OTHERS == {path.name for path in EXAMPLES.glob("*.py")}


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


@pytest.mark.slow
def test_kappa_is_largest_where_an_attack_flips_the_prediction(tmp_path):
    done = warm.run(str(EXAMPLES / "adversarial_path.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    samples, start, flip, end = _numbers(
        r"(\d+) samples that flip once: median kappa (\S+) at the start, "
        r"(\S+) where they flip, (\S+) at the end",
        done.stdout,
    )
    assert samples > 400
    assert flip > 100 * max(start, end), done.stdout
    (away,) = _numbers(r"largest kappa from the flip: (\d+) of 40 steps", done.stdout)
    assert away <= 2, done.stdout


@pytest.mark.nightly
@pytest.mark.slow
def test_kappa_grows_while_random_labels_are_learned(tmp_path):
    done = warm.run(str(EXAMPLES / "flatness_over_training.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loss, kappa = _numbers(r"epoch 30: loss (\S+), kappa of the first layer (\S+)", done.stdout)
    later = _numbers(r"epoch 200: loss (\S+), kappa of the first layer (\S+)", done.stdout)
    assert later[0] < loss / 2, done.stdout
    assert later[1] > 2 * kappa, done.stdout
    image = (tmp_path / "flatness_over_training.png").read_bytes()
    assert image.startswith(b"\x89PNG")


def _numbers(pattern, text):
    found = re.search(pattern, text)
    assert found, text
    return [float(number) for number in found.groups()]
