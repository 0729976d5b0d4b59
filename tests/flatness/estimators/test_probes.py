from __future__ import annotations

import math

import pytest
import torch

from famseg.flatness._estimators._probes import normals, part_of, position_generator, signs

LIKE = torch.empty(0, dtype=torch.float64)
FEW, MANY = 100, 1000  # drawn coin by coin, and from the bits of words


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [FEW, MANY])
def test_are_signs_of_the_type_asked_for(n, dtype):
    drawn = signs((n,), LIKE.to(dtype), position_generator(0, "train", 0))
    assert drawn.dtype == dtype
    assert set(drawn.tolist()) == {-1.0, 1.0}
    assert abs(drawn.double().mean()) < 5 / math.sqrt(n)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (511,), (512,), (7, 11, 13), (64, 8)])
def test_have_the_shape_asked_for(shape):
    assert signs(shape, LIKE, position_generator(0)).shape == shape


def test_are_fair_and_independent_bit_by_bit():
    rounds = 20_000
    drawn = signs((rounds, 64), LIKE, position_generator(0, "bits"))  # a word a row
    assert drawn.mean(0).abs().max() < 5 / math.sqrt(rounds)
    correlation = drawn.T @ drawn / rounds - torch.eye(64)
    assert correlation.abs().max() < 5.5 / math.sqrt(rounds)
    follows = drawn[1:].T @ drawn[:-1] / (rounds - 1)
    assert follows.abs().max() < 5.5 / math.sqrt(rounds)


@pytest.mark.parametrize("numbers", [signs, normals])
@pytest.mark.parametrize("n", [FEW, MANY])
def test_depend_on_seed_and_position_alone(n, numbers):
    first = numbers((n,), LIKE, position_generator(3, "train", 7, 1))
    torch.randn(5)
    assert torch.equal(first, numbers((n,), LIKE, position_generator(3, "train", 7, 1)))


@pytest.mark.parametrize("n", [FEW, MANY])
def test_a_generator_goes_on(n):
    generator = position_generator(0)
    assert not torch.equal(signs((n,), LIKE, generator), signs((n,), LIKE, generator))


@pytest.mark.parametrize("n", [500, MANY])
def test_of_neighboring_positions_are_independent(n):
    drawn = torch.stack(
        [
            signs((n,), LIKE, position_generator(seed, "train", step, stream))
            for seed in range(2)
            for step in range(4)
            for stream in range(2)
        ]
    )
    correlation = drawn @ drawn.T / n - torch.eye(16)
    assert correlation.abs().max() < 0.2  # standard deviation 0.045 and less


@pytest.mark.parametrize("n", [FEW, MANY])
def test_leave_the_global_generator_alone(n):
    before = torch.get_rng_state()
    signs((n,), LIKE, position_generator(0, 0))
    assert torch.equal(before, torch.get_rng_state())


def test_drawn_in_inference_mode_first_they_serve_training_later():
    like = torch.empty(0, dtype=torch.float16)  # of no other test: its table is made here
    with torch.inference_mode():
        signs((MANY,), like, position_generator(0))
    x = torch.ones(MANY, dtype=torch.float16, requires_grad=True)
    drawn = signs((MANY,), like, position_generator(0))
    (x * drawn).sum().backward()
    assert torch.equal(x.grad, drawn)


def test_a_part_is_a_choice_in_order():
    chosen = part_of(10, 4, position_generator(0))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == 4


@pytest.mark.cuda
@pytest.mark.parametrize("n", [FEW, MANY])
def test_are_drawn_on_the_device(n):
    generator = position_generator(0, "train", device="cuda")
    assert generator.device.type == "cuda"
    like = LIKE.cuda()
    drawn = signs((n,), like, generator)
    assert drawn.device.type == "cuda"
    assert set(drawn.tolist()) == {-1.0, 1.0}
    assert abs(drawn.mean()) < 5 / math.sqrt(n)


@pytest.mark.cuda
@pytest.mark.parametrize("numbers", [signs, normals])
@pytest.mark.parametrize("n", [FEW, MANY])
def test_a_generator_on_the_cpu_draws_the_same_for_a_gpu(n, numbers):
    there = numbers((n,), LIKE.cuda(), position_generator(0))
    here = numbers((n,), LIKE, position_generator(0))
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), here)


@pytest.mark.cuda
def test_the_bits_of_a_gpu_are_fair_and_independent():
    rounds = 20_000
    drawn = signs((rounds, 64), LIKE.cuda(), position_generator(0, device="cuda"))
    assert drawn.mean(0).abs().max() < 5 / math.sqrt(rounds)
    correlation = drawn.T @ drawn / rounds - torch.eye(64, device="cuda")
    assert correlation.abs().max() < 5.5 / math.sqrt(rounds)
