"""Outputs of modules before the penalized layer are reused with their graph, where valid."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils import checkpoint

from famseg.flatness._tracing._body import Finished, finished_noted, given_back, kept

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Linear(3, 5), nn.Tanh())
        self.gate = nn.Linear(3, 5)
        self.layer = nn.Linear(5, 5)
        self.tail = nn.Linear(5, 2)

    def forward(self, x):
        gate = self.gate(x).sigmoid()
        return self.tail(self.layer(self.a(x)) * gate)


def noted(model, x=X, layer="layer"):
    with finished_noted(model, {layer: model.get_submodule(layer)}) as calls:
        model(x)
    return calls


def test_the_outermost_calls_that_end_before_the_layer_are_noted():
    assert [call.name for call in noted(Net().double())] == ["gate", "a"]


def test_what_is_given_back_is_not_computed_again_and_keeps_its_gradient():
    model = Net().double()
    held = frozenset({""})
    plan = (Finished("gate", held, False), Finished("a", held, False))
    with kept(model, plan, draws_on=None) as calls:
        whole = model(X)
    part = torch.tensor([1, 3])
    ran = []
    hooks = [m.register_forward_hook(lambda *_: ran.append(1)) for m in (model.gate, model.a[0])]
    with given_back(model, plan, calls, part):
        found = model(X[part])
    assert ran == []
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found, whole[part])
    wanted = torch.autograd.grad(model(X)[part].sum(), list(model.parameters()))
    got = torch.autograd.grad(found.sum(), list(model.parameters()))
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w)
    torch.testing.assert_close(model(X), whole)  # the modules are restored


def test_modules_are_themselves_again_after_an_exception():
    model = Net().double()
    plan = (Finished("gate", frozenset(), False),)
    with kept(model, plan, draws_on=None) as calls:
        model(X)
    with pytest.raises(ArithmeticError), given_back(model, plan, calls, None):
        raise ArithmeticError
    assert "_call_impl" not in model.gate.__dict__
    assert model.gate._compiled_call_impl is None


def test_a_module_that_is_called_again_behind_the_layer_runs_there():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.outer, self.layer = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.outer(self.layer(self.outer(x)))

    model = Twice().double()
    calls = noted(model)
    assert [call.name for call in calls] == ["outer"]
    plan = (Finished("outer", frozenset({""}), False),)
    with kept(model, plan, draws_on=None) as calls:
        whole = model(X)
    with given_back(model, plan, calls, None):
        torch.testing.assert_close(model(X), whole)


def test_an_output_that_is_changed_in_place_later_is_told_and_copied():
    class Changing(Net):
        def forward(self, x):
            h = self.a(x)
            h.add_(1)
            return self.tail(self.layer(h) + h)

    model = Changing().double()
    (call,) = noted(model)
    assert not call.intact
    plan = (Finished("a", frozenset({""}), True),)
    with kept(model, plan, draws_on=None) as calls:
        whole = model(X)
    with given_back(model, plan, calls, None):
        torch.testing.assert_close(model(X), whole)


def test_calls_that_a_checkpoint_may_hold_together_with_the_layer_are_left_out():
    class Checkpointed(Net):
        def forward(self, x):
            gate = self.gate(x)
            inner = lambda x: self.layer(self.a(x))  # noqa: E731
            return self.tail(checkpoint.checkpoint(inner, x, use_reentrant=False) * gate)

    model = Checkpointed().double()
    assert [call.name for call in noted(model)] == ["gate"]
    plan = (Finished("gate", frozenset(), False), Finished("a", frozenset(), False))
    with kept(model, plan, draws_on=None) as calls:
        model(X)
    assert calls == []


def test_random_state_after_a_call_is_taken_up_with_it():
    class Dropping(Net):
        def forward(self, x):
            return torch.dropout(self.layer(torch.dropout(self.a(x), 0.5, True)), 0.5, True)

    model = Dropping().double()
    model.a.append(nn.Dropout(0.5))
    plan = (Finished("a", frozenset(), False),)
    state = torch.get_rng_state()
    with kept(model, plan, draws_on=X.device) as calls:
        whole = model(X)
    torch.set_rng_state(state)
    with given_back(model, plan, calls, None):
        assert torch.equal(model(X), whole)
