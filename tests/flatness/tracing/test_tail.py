from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from famseg.flatness import FAM, LayerError, LossError, SampleInteractionError, UnsupportedTailError

INPUTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.randn(6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Net(nn.Module):
    """A body, the penalized layer, and a tail on (n, 4, 2)."""

    def __init__(self, tail, body=None):
        super().__init__()
        self.body = body or nn.Tanh()
        self.layer = nn.Linear(3, 8)
        self.tail = tail

    def forward(self, x):
        return self.tail(self.layer(self.body(x)).unflatten(1, (4, 2))).flatten(1)


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def fam_of(model, estimator="columns", loss=None, **options):
    return FAM(
        model.double(),
        layer="layer",
        loss=loss or (lambda z, y: (z - y).tanh().square().mean()),
        weight=1,
        estimator=estimator,
        bound="none",
        every=1,
        samples="all",
        **options,
    )


NORMS = {
    "batch norm": (nn.BatchNorm1d(4), r"'tail', BatchNorm1d"),
    "instance norm": (nn.InstanceNorm1d(4), r"'tail', InstanceNorm1d"),
    "layer norm": (nn.LayerNorm(2), r"'tail', LayerNorm"),
    "deep": (nn.Sequential(nn.Tanh(), nn.LayerNorm(2)), r"'tail\.1', LayerNorm"),
    "functional layer norm": (Call(lambda z: F.layer_norm(z, (2,))), "layer norm runs after"),
    "functional instance norm": (Call(F.instance_norm), "batch or instance norm runs after"),
}


@pytest.mark.parametrize("tail", [tail for tail, _ in NORMS.values()], ids=NORMS)
@pytest.mark.parametrize("estimator", ["exact", "hutchinson"])
def test_norms_are_computed_in_a_form_whose_third_derivatives_are_right(
    tail, estimator, oracle, check_gradient
):
    model = Net(copy.deepcopy(tail), body=nn.Linear(3, 3))
    options = {"probe_per": "batch", "probes": 2} if estimator == "hutchinson" else {}
    fam = fam_of(model, estimator, **options)

    def value():
        fam.seek(0)
        return fam(INPUTS, TARGETS).penalty

    if estimator == "exact":
        wanted = oracle(model, "layer", fam.loss, INPUTS, TARGETS)
        assert value().item() == pytest.approx(wanted, rel=1e-4)
    check_gradient(value, model, step=3e-5)


def test_the_statistics_of_batch_norm_behind_the_layer_are_updated_once():
    model = Net(nn.BatchNorm1d(4))
    fam = fam_of(model, "hutchinson", probe_per="batch")
    plain = copy.deepcopy(model)
    wanted = fam.loss(plain(INPUTS), TARGETS)
    torch.testing.assert_close(fam(INPUTS, TARGETS).loss, wanted, rtol=1e-14, atol=0)
    for found, once in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(found, once)


@contextmanager
def native(active, reaches):
    yield


@pytest.mark.parametrize(("tail", "message"), NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("estimator", ["auto", "columns", "hutchinson", "exact"])
def test_norms_that_stay_native_are_refused_by_name(monkeypatch, tail, message, estimator):
    monkeypatch.setattr("famseg.flatness._tracing._watch.composites", native)
    with pytest.raises(UnsupportedTailError, match=rf"{message}.*wrong in torch.*GroupNorm"):
        fam_of(Net(tail), estimator)(INPUTS, TARGETS)


def test_torch_still_computes_them_wrongly(monkeypatch):
    """When this fails, torch has fixed layer norm: the composite version is not needed."""
    monkeypatch.setattr("famseg.flatness._tracing._watch.composites", native)
    monkeypatch.setattr("famseg.flatness._tracing._pass.check_operations", lambda *_, **__: None)
    model = Net(nn.LayerNorm(2))
    fam = fam_of(model)
    names, values = zip(*model.named_parameters(), strict=True)

    def penalty(*values):
        arguments = {f"model.{n}": v for n, v in zip(names, values, strict=True)}
        return torch.func.functional_call(fam, arguments, (INPUTS, TARGETS)).penalty

    assert not torch.autograd.gradcheck(penalty, values, raise_exception=False)


class Attention(nn.Module):
    def forward(self, z):
        return F.scaled_dot_product_attention(z, z.sin(), z.cos())


class Residual(nn.Module):
    def forward(self, z):
        return z + z.tanh().flip(1)


RIGHT = {
    "identity": nn.Identity(),
    "group norm": nn.GroupNorm(2, 4),
    "group norm as instance norm": nn.GroupNorm(4, 4),
    "rms norm": nn.RMSNorm(2),
    "batch norm in evaluation": nn.BatchNorm1d(4).eval(),
    "instance norm in evaluation": nn.InstanceNorm1d(4, track_running_stats=True).eval(),
    "attention": Attention(),
    "residual": Residual(),
    "relu, in place": nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2)),
    "prelu": nn.Sequential(nn.PReLU(), nn.Linear(2, 2)),
    "gelu": nn.GELU(),
    "elu": nn.ELU(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
    "softmax": nn.Softmax(2),
    "convolution": nn.Conv1d(4, 4, 2, padding=1, stride=2),
    "transposed convolution": nn.Sequential(nn.ConvTranspose1d(4, 4, 2), nn.AvgPool1d(2, 1)),
    "max pool": nn.Sequential(nn.Tanh(), nn.MaxPool1d(2), nn.Upsample(scale_factor=2)),
    "checkpoint": Call(lambda z: checkpoint(torch.sin, z, use_reentrant=False)),
}


@pytest.mark.parametrize("tail", RIGHT.values(), ids=RIGHT)
def test_value_and_gradient_of_a_supported_tail(tail, oracle, check_gradient):
    model = Net(tail, body=nn.Linear(3, 3))
    tail_mode = tail.training
    fam = fam_of(model)
    assert tail.training == tail_mode
    value = fam(INPUTS, TARGETS).penalty.item()
    assert value == pytest.approx(oracle(model, "layer", fam.loss, INPUTS, TARGETS), rel=1e-4)
    check_gradient(lambda: fam(INPUTS, TARGETS).penalty, model, step=1e-4)


def test_norms_before_the_layer_are_fine_and_updated_once(check_gradient):
    body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.LayerNorm(3))
    model = Net(nn.Tanh(), body)
    fam = fam_of(model)
    plain = copy.deepcopy(model)
    wanted = fam.loss(plain(INPUTS), TARGETS)
    assert torch.equal(fam(INPUTS, TARGETS).loss, wanted)
    for found, once in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(found, once)
    check_gradient(lambda: fam(INPUTS, TARGETS).penalty, model)


def test_a_norm_beside_the_tail_is_fine():
    class Beside(Net):
        def forward(self, x):
            z = self.layer(x)
            return z.tanh() + self.tail(x).mean()  # runs later but does not depend on the layer

    fam_of(Beside(nn.LayerNorm(3)))(INPUTS, TARGETS).total.backward()


def test_batch_norm_is_checked_anew_when_its_mode_changes():
    model = Net(nn.BatchNorm1d(4).eval())
    fam = fam_of(model)
    fam(INPUTS, TARGETS)
    model.tail.train()
    with pytest.raises(SampleInteractionError, match="batch statistics"):
        fam(INPUTS, TARGETS)


@pytest.mark.parametrize("where", ["before", "behind", "loss"])
def test_a_weight_that_is_also_used_by_itself_is_refused(where):
    class Twice(Net):
        def forward(self, x):
            if where == "before":
                x = F.linear(x, self.layer.weight)[:, :3]
            z = self.layer(x)
            return z + F.linear(x, self.layer.weight).tanh() if where == "behind" else z

    model = Twice(nn.Identity())

    def loss(z, y):
        extra = model.layer.weight.square().sum() if where == "loss" else 0
        return (z - y).tanh().square().mean() + extra

    with pytest.raises(LayerError, match=r"weight of layer 'layer' also reaches the loss outside"):
        fam_of(model, loss=loss)(INPUTS, TARGETS)


def test_a_reentrant_checkpoint_is_refused():
    fam = fam_of(Net(Call(lambda z: checkpoint(torch.sin, z, use_reentrant=True))))
    with pytest.raises(UnsupportedTailError, match=r"reentrant checkpoint.*use_reentrant=False"):
        fam(INPUTS, TARGETS)


def test_a_reentrant_checkpoint_around_the_layer_is_refused():
    class Inside(Net):
        def forward(self, x):
            hidden = self.body(x)
            return checkpoint(self.layer, hidden, use_reentrant=True).tanh()

    fam = fam_of(Inside(nn.Identity(), body=nn.Linear(3, 3)))
    with pytest.raises(UnsupportedTailError, match=r"inside a reentrant checkpoint.*=False"):
        fam(INPUTS, TARGETS)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_any_part_may_be_checkpointed_without_reentrance(first, check_gradient):
    class Checkpointed(Net):
        def forward(self, x):
            parts = [self.body, self.layer, self.tail]
            for index, part in enumerate(parts):
                x = checkpoint(part, x, use_reentrant=False) if index == first else part(x)
            return x

    model = Checkpointed(nn.Sequential(nn.Tanh(), nn.Linear(8, 8)), body=nn.Linear(3, 3))
    fam = fam_of(model)
    check_gradient(lambda: fam(INPUTS, TARGETS).penalty, model, step=1e-4)


class SyncBatchNorm(torch.autograd.Function):
    """Named like torch's class, which appears in a graph only with several processes."""

    @staticmethod
    def forward(ctx, z):
        return z.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_synchronized_batch_norm_over_processes_is_refused():
    fam = fam_of(Net(Call(lambda z: SyncBatchNorm.apply(z).sin())))
    with pytest.raises(UnsupportedTailError, match=r"synchronized batch norm runs after layer"):
        fam(INPUTS, TARGETS)


def test_an_operation_without_second_derivative_is_refused_in_words():
    fam = fam_of(
        Net(nn.Identity()),
        loss=lambda z, y: F.multi_margin_loss(z, torch.zeros(6, dtype=torch.long)),
        estimator="exact",
    )
    with pytest.raises(UnsupportedTailError, match=r"cannot be differentiated twice.*Replace it"):
        fam(INPUTS, TARGETS)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (z,) = ctx.saved_tensors
        return gradient * z.cos()


@pytest.mark.parametrize("estimator", ["auto", "columns", "hutchinson", "exact"])
def test_an_operation_that_is_differentiable_once_is_refused(estimator):
    with pytest.raises(UnsupportedTailError, match=r"marked once_differentiable.*count as zero"):
        fam_of(Net(Call(Once.apply)), estimator)(INPUTS, TARGETS)


def test_before_the_layer_it_is_fine():
    fam_of(Net(nn.Tanh(), body=nn.Sequential(nn.Linear(3, 3), Call(Once.apply))))(INPUTS, TARGETS)


def test_another_fault_of_torch_is_passed_on():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        fam_of(Net(Call(Broken.apply)))(INPUTS, TARGETS)


def pair_loss(first, second):
    return lambda z, y: z.square().mean() + (z[first % len(z)] * z[second % len(z)]).sum() / 100


@pytest.mark.parametrize("pair", [(0, 1), (2, 3), (0, 4), (1, 5), (4, 5), (2, 5)])
@pytest.mark.parametrize("estimator", ["columns", "hutchinson"])
def test_any_pair_of_samples_that_interacts_is_found(pair, estimator):
    fam = fam_of(Net(nn.Tanh()), estimator, loss=pair_loss(*pair))
    with pytest.raises(SampleInteractionError, match=r'influence each other.*probe_per="batch"'):
        fam(INPUTS, TARGETS)


def test_auto_takes_probes_for_the_batch_where_samples_interact():
    fam = fam_of(Net(nn.Tanh()), "auto", loss=pair_loss(0, 1))
    fam(INPUTS[:1], TARGETS[:1])  # not detectable with one sample
    fam(INPUTS, TARGETS)
    assert "batch_probes, unbiased: the samples of a batch interact" in fam.explain()


@pytest.mark.parametrize("first", [0.0, float("nan")])
def test_a_batch_that_cannot_show_an_interaction_settles_nothing(first):
    scale = [first]
    fam = fam_of(Net(nn.Identity()), loss=lambda z, y: z.mean() + scale[0] * pair_loss(0, 1)(z, y))
    fam(INPUTS, TARGETS)
    scale[0] = 1.0
    with pytest.raises(SampleInteractionError):
        fam(INPUTS, TARGETS)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda z, y: z.square().mean(1), r"one scalar for the batch, got shape \(6,\)"),
        (lambda z, y: 1.0, "must return a tensor, got float"),
        (lambda z, y: y.mean(), "does not depend on layer 'layer'"),
        (lambda z, y: z.detach().mean(), "does not depend on layer 'layer'"),
    ],
)
def test_losses_that_cannot_be_penalized_are_refused(loss, message):
    with pytest.raises(LossError, match=message):
        fam_of(Net(nn.Identity()), loss=loss)(INPUTS, TARGETS)


@pytest.mark.parametrize("of", ["inputs", "weight"])
@pytest.mark.parametrize("layer", ["2", "4"])
@pytest.mark.parametrize("estimator", ["auto", "exact", "hutchinson"])
def test_a_gradient_penalty_is_refused_by_that_name(net, batch, estimator, layer, of):
    inputs = batch[0].requires_grad_()

    def loss(z, y):
        leaf = inputs if of == "inputs" else net[2].weight
        (slope,) = torch.autograd.grad(z.square().sum(), leaf, create_graph=True)
        return nn.functional.cross_entropy(z, y) + slope.square().sum()

    fam = FAM(net, layer=layer, loss=loss, weight=0.1, estimator=estimator)
    with pytest.raises(UnsupportedTailError, match="gradient penalty"):
        fam(inputs, batch[1])


def test_gradients_that_are_no_penalty_of_the_layer_are_allowed(net, batch):
    other = nn.Linear(3, 1).double()

    def critic(z, y):
        leaf = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(other(leaf).sum(), leaf, create_graph=True)
        return nn.functional.cross_entropy(z, y) + slope.square().sum()

    def adaptive(z, y):
        value = nn.functional.cross_entropy(z, y)
        (slope,) = torch.autograd.grad(value, z, retain_graph=True)
        return value * (1 + slope.norm().detach())

    for loss in (critic, adaptive):
        assert FAM(net, layer="2", loss=loss, weight=0.1)(*batch).penalty is not None


def test_a_gradient_penalty_by_backward_leaves_no_gradient_behind(net, batch):
    def loss(z, y):
        leaf = batch[0].clone().requires_grad_()
        net(leaf).sum().backward(create_graph=True)
        return nn.functional.cross_entropy(z, y) + leaf.grad.square().mean()

    with pytest.raises(UnsupportedTailError, match="gradient penalty"):
        FAM(net, layer="2", loss=loss, weight=0.1)(*batch)
    assert all(p.grad is None for p in net.parameters())
