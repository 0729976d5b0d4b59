from __future__ import annotations

import torch

from famseg.flatness._probes import position_generator, signs

LIKE = torch.empty(0, dtype=torch.float64)


def test_are_signs_of_the_type_asked_for():
    drawn = signs((1000,), LIKE, position_generator(0, "train", 0))
    assert drawn.dtype == torch.float64
    assert set(drawn.tolist()) == {-1.0, 1.0}
    assert abs(drawn.mean()) < 0.1


def test_depend_on_seed_and_position_alone():
    first = signs((64,), LIKE, position_generator(3, "train", 7, 1))
    torch.randn(5)
    assert torch.equal(first, signs((64,), LIKE, position_generator(3, "train", 7, 1)))


def test_of_neighbouring_positions_are_independent():
    drawn = torch.stack(
        [
            signs((500,), LIKE, position_generator(seed, "train", step, stream))
            for seed in range(2)
            for step in range(4)
            for stream in range(2)
        ]
    )
    correlation = drawn @ drawn.T / 500 - torch.eye(16)
    assert correlation.abs().max() < 0.2  # standard deviation 0.045


def test_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    signs((8,), LIKE, position_generator(0, 0))
    assert torch.equal(before, torch.get_rng_state())
