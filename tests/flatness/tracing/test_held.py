"""Python state that a pass may change is restored."""

from __future__ import annotations

import functools
import random
from collections import Counter, deque

import numpy as np
import pytest
import torch
from torch import nn

from famseg.flatness import FAM
from famseg.flatness._tracing._held import Held


class Plain:
    """An object with state that is not a module."""

    def __init__(self):
        self.count, self.log, self.inner = 0, [], {"seen": {1}, "queue": deque([1], maxlen=2)}


class Holding(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps, self.h, self.plain = 0, None, Plain()
        self.center = torch.zeros(2)
        self.array = np.zeros(3)
        self.counts = Counter("a")
        self.rng = random.Random(1)  # noqa: S311 - no secret
        self.numbers = np.random.default_rng(1)
        self.generator = torch.Generator().manual_seed(1)
        self.child = nn.Linear(2, 2)
        self.pair = ([],)

    def move(self):
        self.steps += 1
        self.h = torch.ones(1)
        self.child.extra = 5
        self.plain.count += 1
        self.plain.log.append(1)
        self.plain.inner["seen"].add(2)
        self.plain.inner["queue"].append(2)
        self.plain.inner["new"] = 1
        self.center += 1
        self.array += 1
        self.counts["a"] += 1
        self.pair[0].append(1)
        return [self.rng.random(), self.numbers.random(), torch.rand(1, generator=self.generator)]


def test_attributes_containers_arrays_and_generators_are_put_back():
    model = Holding()
    log, center = model.plain.log, model.center
    held = Held([model])
    drawn = model.move()
    held.put_back()
    assert (model.steps, model.h, model.plain.count) == (0, None, 0)
    assert not hasattr(model.child, "extra")
    assert model.plain.log is log
    assert log == []
    assert model.plain.inner == {"seen": {1}, "queue": deque([1], maxlen=2)}
    assert model.center is center
    assert center.tolist() == [0, 0]
    assert model.array.tolist() == [0, 0, 0]
    assert model.counts == Counter("a")
    assert model.pair == ([],)
    assert model.move() == drawn


def counter():
    calls, total = [], 0

    def count(*_):
        nonlocal total
        total += 1
        calls.append(total)
        return total

    return count, calls


@pytest.mark.parametrize(
    "wrap", [lambda f: f, functools.partial, lambda f: [f]], ids=["itself", "partial", "in a list"]
)
def test_what_functions_close_over_is_put_back(wrap):
    count, calls = counter()
    held = Held([wrap(count)])
    assert count() == 1
    held.put_back()
    assert calls == []
    assert count() == 1


def test_hooks_and_bound_methods_lead_to_state_too():
    model, plain = nn.Linear(2, 2), Plain()
    count, calls = counter()
    model.register_forward_hook(count)
    method = plain.log.append
    held = Held([model, Plain.__init__.__get__(plain)])
    model(torch.zeros(1, 2))
    method(1)
    held.put_back()
    assert (calls, plain.log) == ([], [])


def test_a_program_that_hangs_on_a_model_is_not_walked_to_its_end():
    root = first = []
    for _ in range(50_000):
        first.append([])
        first = first[0]
    held = Held([root])
    assert len(held._undo) <= 20_000


class Stash(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.h = torch.tanh(self.a(x))
        return self.c(torch.tanh(self.b(self.h)))


@pytest.mark.parametrize("options", [{}, {"samples": 3}, {"estimator": "finite_difference"}])
def test_a_penalized_step_leaves_a_model_and_a_loss_as_a_plain_step_does(options):
    sizes, model = [], Stash().double()
    x, y = torch.randn(12, 4).double(), torch.arange(12) % 3

    def loss(logits, targets):
        sizes.append(len(logits))
        return nn.functional.cross_entropy(logits, targets)

    fam = FAM(model, layer="b", loss=loss, weight=1e-4, every=1, **options)
    for step in range(1, 4):
        assert fam(x, y).penalty is not None
        assert sizes == [12] * step
        assert model.calls == step
        assert model.h.shape == (12, 6)
        assert model.h.requires_grad
        assert torch.equal(model.h, torch.tanh(model.a(x)))


def test_of_a_long_history_only_the_length_is_put_back():
    history = [torch.zeros(3) for _ in range(300)]
    held = Held([history])
    history += [torch.ones(3), torch.ones(3)]
    assert len(held._undo) == 1
    held.put_back()
    assert len(history) == 300


def test_a_property_of_somebody_else_that_fails_is_no_fault():
    class Odd:
        @property
        def __dict__(self):
            raise RuntimeError

    Held([Odd()]).put_back()
