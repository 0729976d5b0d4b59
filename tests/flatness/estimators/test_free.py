"""A step with a closed form is a plain step with a few additional operations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from famseg.flatness import FAM, LayerError


def head(net, **options):
    fixed = {"layer": "4", "loss": nn.CrossEntropyLoss(), "weight": 0.5}
    return FAM(net, **(fixed | options))


def gradients(total, net):
    return torch.autograd.grad(total, list(net.parameters()))


@pytest.mark.parametrize(
    "options",
    [{}, {"quantity": "simplified"}, {"gradient": "weights_only"}, {"normalize": "features"}],
    ids=str,
)
def test_later_steps_are_the_first_one(net, batch, options):
    fam = head(net, **options)
    first = fam(*batch)
    assert fam._free is not None
    second = fam(*batch)
    torch.testing.assert_close(second.total, first.total, rtol=1e-12, atol=0)
    for a, b in zip(gradients(first.total, net), gradients(second.total, net), strict=True):
        torch.testing.assert_close(a, b)


def test_steps_that_are_rarer_are_as_much_stronger(net, batch):
    fam = head(net, every=3)
    terms = [fam(*batch) for _ in range(9)]
    assert [t.penalty is not None for t in terms] == [True, False, False] * 3
    for t in terms[::3]:
        torch.testing.assert_close(t.total, t.loss + 1.5 * t.penalty)


def test_it_equals_the_definition(net, batch):
    fam = head(net, ceiling=1e9)
    fam(*batch)
    terms = fam(*batch)
    exact = head(net, estimator="exact", samples="all")(*batch)
    torch.testing.assert_close(terms.penalty, exact.penalty)
    for a, b in zip(gradients(terms.total, net), gradients(exact.total, net), strict=True):
        torch.testing.assert_close(a, b)


def test_the_model_and_the_loss_run_once(net, batch):
    ran = []
    net[0].forward = lambda x, f=net[0].forward: ran.append(1) or f(x)
    fam = head(net)
    fam(*batch)
    ran.clear()
    fam(*batch)
    assert ran == [1]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in fam.modules())


def test_another_loss_or_a_replaced_layer_is_noticed(net, batch):
    fam = head(net)
    fam(*batch)
    fam.loss = nn.MSELoss()
    one_hot = nn.functional.one_hot(batch[1], 3).double()
    assert fam(batch[0], one_hot).penalty.item() == pytest.approx(
        head(net, loss=nn.MSELoss())(batch[0], one_hot).penalty.item()
    )
    fam.loss = nn.CrossEntropyLoss()
    fam(*batch)
    net[4] = nn.Linear(5, 3).double()
    torch.testing.assert_close(fam(*batch).penalty, head(copy.deepcopy(net))(*batch).penalty)
    net[0].weight = nn.Parameter(net[0].weight.detach())
    fam(*batch)


def test_reduction_and_class_weights_of_the_loss_are_read_at_each_step(net, batch):
    fam = head(net)
    fam(*batch)
    fam.loss.weight = torch.tensor([1.0, 3.0, 0.5]).double()
    wanted = head(net, loss=nn.CrossEntropyLoss(weight=fam.loss.weight))(*batch)
    torch.testing.assert_close(fam(*batch).total, wanted.total)


class Own(nn.Module):
    """A network that enters autocast by itself."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x)


def test_flatness_has_full_precision_where_the_network_enters_autocast_by_itself(batch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    options = {"layer": "net.2", "loss": nn.CrossEntropyLoss(), "weight": 0.5}
    fam = FAM(Own(net), **options)
    inputs = batch[0].float()
    first, second = fam(inputs, batch[1]), fam(inputs, batch[1])
    assert second.penalty.dtype == torch.float32
    torch.testing.assert_close(second.penalty, first.penalty, rtol=1e-2, atol=0)


class Experts(nn.Module):
    """Hard routing: an expert sees the tokens that are routed to it, possibly none."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 5)
        self.experts = nn.ModuleList(nn.Linear(5, 3) for _ in range(2))

    def forward(self, x):
        h, first = torch.tanh(self.body(x)), x[:, 0] > 0
        out = h.new_zeros(len(x), 3)
        for expert, mask in zip(self.experts, (first, ~first), strict=True):
            if mask.any() or self.always:
                out = out.index_put((mask.nonzero()[:, 0],), expert(h[mask]))
        return out


@pytest.mark.parametrize("always", [False, True], ids=["not called", "called without rows"])
@pytest.mark.parametrize("layers", [["experts.0", "experts.1"], ["experts.1"]], ids=len)
def test_an_expert_without_tokens_counts_nothing(layers, always):
    torch.manual_seed(0)
    model = Experts().double()
    model.always = always
    x, y = torch.randn(6, 4).double(), torch.arange(6) % 3
    options = {"loss": nn.CrossEntropyLoss(), "weight": 1e-3, "estimator": "exact"}
    fam = FAM(model, layer=layers, **options)
    assert fam(x, y).penalty > 0
    found = fam(x.abs(), y)  # all go to the first
    if layers == ["experts.1"]:
        assert found.penalty == 0
        assert torch.equal(found.total, found.loss)
    else:
        wanted = FAM(model, layer="experts.0", **options)(x.abs(), y)
        torch.testing.assert_close(found.penalty, wanted.penalty)
    assert fam(x, y).penalty > 0


def test_a_layer_that_is_never_called_is_still_refused():
    model = nn.MultiheadAttention(4, 2)
    fam = FAM(model, layer="out_proj", output=None, loss=lambda z, y: z[0].sum(), weight=1)
    x = torch.randn(3, 2, 4)
    with pytest.raises(LayerError, match="was not called in the forward pass"):
        fam((x, x, x), x)
