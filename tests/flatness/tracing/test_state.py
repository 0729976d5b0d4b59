from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from famseg.flatness._tracing._state import evaluating, undone_on_error, untouched

CPU = torch.device("cpu")


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())


def use(model):
    return model(torch.randn(4, 3)).square().sum()


def state(model):
    return [b.clone() for b in model.buffers()] + [torch.get_rng_state()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_untouched_model_has_its_buffers_and_the_caller_its_random_state(model):
    before = state(model)
    with untouched([model], CPU):
        use(model)
        assert not same(before, state(model))
    assert same(before, state(model))


def test_all_that_a_network_may_draw_from_is_put_back(model):
    generator = torch.Generator().manual_seed(1)

    def numbers():
        return [
            torch.rand(1).item(),
            random.random(),  # noqa: S311
            np.random.random(),  # noqa: NPY002 - networks may draw from it
            torch.rand(1, generator=generator).item(),
        ]

    numbers()  # numpy initializes its generator on first use
    with untouched([model], CPU, generator):
        first = numbers()
    assert numbers() == first


def test_a_graph_that_is_still_to_be_differentiated_stays_right(model):
    wanted = torch.autograd.grad(use_seeded(model), model[0].weight)
    model[1].reset_running_stats()
    loss = use_seeded(model)
    with untouched([model], CPU):
        use(model)
    assert torch.equal(torch.autograd.grad(loss, model[0].weight)[0], wanted[0])


def use_seeded(model):
    torch.manual_seed(3)
    return use(model)


def test_a_replaced_buffer_is_the_old_one_again(model):
    old = model[1].running_mean
    with untouched([model], CPU):
        model[1].running_mean = torch.ones(3)
    assert model[1].running_mean is old


def test_state_is_put_back_only_on_an_error(model):
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        use_until_interrupted(model)
    assert same(before, state(model))
    with undone_on_error([model], CPU):
        use(model)
    assert not same(before, state(model))


def use_until_interrupted(model):
    with undone_on_error([model], CPU):
        use(model)
        raise KeyboardInterrupt


def test_buffers_of_all_parts_are_put_back(model):
    loss = nn.BatchNorm1d(3)
    before = state(model) + state(loss)
    with untouched([model, loss], CPU), evaluating(model, loss):
        assert not any(m.training for m in (*model.modules(), *loss.modules()))
        model.train()
        loss.train()
        loss(model(torch.randn(4, 3)))
    assert same(before, state(model) + state(loss))
    assert loss.training


def test_each_module_has_its_own_mode_again(model):
    model[1].eval()
    with evaluating(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model] == [True, False, True]
