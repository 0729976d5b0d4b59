from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from famseg.flatness import FAM, LayerError


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


DATA = (
    torch.randn(6, 4, generator=torch.Generator().manual_seed(1)),
    torch.tensor([0, 1, 2, 0, 1, 2]),
)


def objective(model, **options):
    options = {"layer": "2", "estimator": "columns", "loss": nn.CrossEntropyLoss()} | options
    return FAM(model, weight=1, every=1, samples="all", **options)


@pytest.mark.parametrize(
    ("layer", "estimator"), [("2", "columns"), ("2", "hutchinson"), ("4", "closed_form")]
)
def test_under_autocast_the_tail_stays_in_float32(model, layer, estimator):
    fam = objective(model, layer=layer, estimator=estimator)
    wanted = fam(*DATA)
    gradient = torch.autograd.grad(wanted.total, model.parameters())
    fam.seek(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = fam(*DATA)
        assert torch.is_autocast_enabled("cpu")
        assert model[0](DATA[0]).dtype == torch.bfloat16  # the caller's autocast remains active
    assert found.loss.dtype == found.penalty.dtype == torch.float32
    torch.testing.assert_close(found.penalty, wanted.penalty, rtol=0.03, atol=0)
    again = torch.autograd.grad(found.total, model.parameters())
    flat, other = (torch.cat([g.flatten() for g in part]) for part in (gradient, again))
    assert torch.cosine_similarity(flat, other, 0) > 0.998


def test_the_body_still_runs_in_the_callers_precision(model):
    seen = []
    model[0].register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    model[2].register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        objective(model)(*DATA)
    assert seen == [torch.bfloat16, torch.float32]  # the step's; the analysis's is undone


class OwnAutocast(nn.Module):
    """A model that enters autocast itself, like many in transformers."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(x)


@pytest.mark.parametrize("outer", [True, False])
def test_autocast_is_restored_whatever_the_model_did(model, outer):
    fam = objective(OwnAutocast(model), layer="model.2")
    with torch.autocast("cpu", torch.bfloat16, enabled=outer):
        terms = fam(*DATA)
        assert torch.is_autocast_enabled("cpu") == outer
    assert not torch.is_autocast_enabled("cpu")
    assert terms.penalty.dtype == torch.float32


def test_autocast_is_restored_after_an_exception(model):
    def broken(z, y):
        raise ArithmeticError

    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ArithmeticError):
            objective(model, loss=broken)(*DATA)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16


class Attentive(nn.Module):
    """Attention before and behind the layer, optionally checkpointed."""

    def __init__(self, checkpointed):
        super().__init__()
        self.query, self.fc, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.run = functools.partial(checkpoint, use_reentrant=False) if checkpointed else call

    def attend(self, x):
        z = x.unflatten(1, (1, 4, 2))
        return nn.functional.scaled_dot_product_attention(z, z.sin(), z.cos()).flatten(1)

    def forward(self, x):
        z = self.run(self.attend, self.query(x))
        return self.head(self.run(self.attend, self.fc(z)))


def call(function, x):
    return function(x)


def test_attention_may_be_checkpointed_before_and_behind_the_layer():
    torch.manual_seed(0)
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = Attentive(checkpointed)
        terms = objective(model, layer="fc")(*DATA)
        terms.total.backward()
        found.append([terms.penalty.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_attention_backends_are_restored(model):
    before = (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
    )
    objective(model)(*DATA)
    after = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
    assert before == after


def test_an_input_that_is_changed_in_place_is_refused():
    class Spoils(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            hidden = self.body(x)
            return self.fc(hidden) + hidden.mul_(2)[:, :3]

    with pytest.raises(LayerError, match=r"input of layer 'fc' was changed in place.*out-of-place"):
        objective(Spoils(), layer="fc")(*DATA)


def test_an_output_may_be_changed_in_place(model):
    wanted = objective(model)(*DATA)
    in_place = nn.Sequential(model[0], nn.Tanh(), model[2], Tanh_(), model[4])
    found = objective(in_place)(*DATA)
    torch.testing.assert_close(found.penalty, wanted.penalty)
    assert "closed_form" not in explained(nn.Sequential(*model, Tanh_()), layer="4")


class Tanh_(nn.Module):  # noqa: N801 - torch's naming of in-place modules
    def forward(self, x):
        return x.tanh_()


def explained(model, **options):
    fam = objective(model, estimator="auto", **options)
    fam(*DATA)
    return fam.explain()


class Adapted(nn.Linear):
    """A linear layer with a second, hidden map: its weight does not define it completely."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.second = nn.Linear(*shape)

    def forward(self, x):
        return super().forward(x) + self.second(x)


def test_a_layer_that_computes_something_else_is_refused(model):
    model[2] = Adapted(16, 8)
    with pytest.raises(LayerError, match="'2', a Adapted, does not compute what its weight"):
        objective(model)(*DATA)
