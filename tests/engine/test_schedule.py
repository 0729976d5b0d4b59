from __future__ import annotations

import pytest

from famseg.engine import learning_rate_factor


def test_the_cosine_runs_from_one_to_its_floor() -> None:
    factors = [learning_rate_factor(e, epochs=10, kind="cosine", floor=0.1) for e in (0, 5, 10)]
    assert factors == pytest.approx([1.0, 0.55, 0.1])


def test_the_cosine_begins_after_the_warm_up() -> None:
    factors = [learning_rate_factor(e, epochs=12, kind="cosine", warmup=2) for e in (1, 2, 7, 12)]
    assert factors == pytest.approx([0.5, 1.0, 0.5, 0.0])


def test_the_line_falls_from_the_end_of_the_warm_up_to_its_floor() -> None:
    factors = [
        learning_rate_factor(e, epochs=12, kind="linear", warmup=2, floor=0.2)
        for e in (0, 1, 2, 7, 12, 13)
    ]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 0.6, 0.2, 0.2])


def test_steps_multiply() -> None:
    factors = [
        learning_rate_factor(e, epochs=10, kind="step", milestones=(0.3, 0.6), gamma=0.2)
        for e in (2.9, 3, 6)
    ]
    assert factors == pytest.approx([1.0, 0.2, 0.04])
