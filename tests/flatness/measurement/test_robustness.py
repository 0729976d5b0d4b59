from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from famseg.flatness import FAM, FlatnessError, LayerNotFoundError, relative_flatness
from famseg.flatness._measurement._relative_noise import RelativeNoise
from famseg.flatness._measurement._robustness import feature_robustness
from famseg.flatness._tracing._operator import Operator

KINDS = ["orthogonal", "gaussian"]
# Created in the test, from the seed that is set for each test.
LAYERS = {
    "linear, wide": (lambda: nn.Linear(6, 2), (5, 6)),
    "linear, tall": (lambda: nn.Linear(2, 6), (5, 2)),
    "convolution": (lambda: nn.Conv2d(2, 3, 2, padding=1), (3, 2, 3, 3)),
    "grouped": (lambda: nn.Conv1d(4, 4, 2, groups=2), (3, 4, 5)),
    "transposed": (lambda: nn.ConvTranspose1d(2, 3, 2, stride=2), (3, 2, 4)),
}


def draws_of(layer, *, kind, draws, delta=0.5):
    features = torch.zeros(1, layer.weight.shape[1]).to(layer.weight)
    with torch.no_grad():
        operator = Operator(layer, features, layer(features))
        noise = RelativeNoise(layer, delta, draws, kind, 0, antithetic=False)
        return torch.stack([operator.rows(noise._draw(operator, k)) for k in range(draws)])


@pytest.mark.parametrize("layer", [nn.Linear(6, 3), nn.Linear(2, 5), nn.Linear(4, 4)])
def test_an_orthogonal_draw_turns_the_rows_and_keeps_their_angles(layer):
    layer = copy.deepcopy(layer).double()
    gram = layer.weight @ layer.weight.T
    for rows in draws_of(layer, kind="orthogonal", draws=3):
        torch.testing.assert_close(rows[0] @ rows[0].T, 0.25 * gram.detach())
        assert (rows[0] - 0.5 * layer.weight).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_moments_that_the_prediction_takes(kind):
    # W = I shows A itself. E A_jk A_j'k' = delta^2 / m where the indices agree, else 0.
    layer = nn.Linear(3, 3, bias=False)
    nn.init.eye_(layer.weight)
    a = draws_of(layer, kind=kind, draws=1500)[:, 0].flatten(1)
    assert a.mean(0).abs().max() < 5 * (0.25 / 3 / 1500) ** 0.5
    second = a.T @ a / 1500
    torch.testing.assert_close(second, 0.25 / 3 * torch.eye(9), rtol=0, atol=0.016)


def test_an_orthogonal_draw_of_one_feature_has_both_signs():
    drawn = draws_of(nn.Linear(1, 1), kind="orthogonal", draws=40).flatten()
    assert 8 < (drawn > 0).sum() < 32


def dense_kappa(layer, inputs, targets):
    """The definition with a dense Hessian; neurons and groups are selected by weight indices."""

    def of_weight(weight):
        return F.mse_loss(torch.func.functional_call(layer, {"weight": weight}, (inputs,)), targets)

    weight = layer.weight.detach()
    hessian = torch.autograd.functional.hessian(of_weight, weight).reshape(weight.numel(), -1)
    numbers = torch.arange(weight.numel()).view_as(weight)
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, nn.ConvTranspose1d):
        numbers = numbers.transpose(0, 1)  # one group only
    kappa = 0.0
    for group in numbers.flatten(1).chunk(groups):
        for s in group:
            for t in group:
                dot = weight.flatten()[s] @ weight.flatten()[t]
                kappa += dot * hessian[s][:, t].trace()
    return float(kappa)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_mean_is_the_paper_s_constant_times_relative_flatness(make, shape, kind):
    """Under squared error the loss is quadratic in the weight: there are no higher-order terms."""
    layer = make().double()
    inputs = torch.randn(shape, dtype=torch.float64)
    targets = torch.randn_like(layer(inputs))
    found = feature_robustness(
        layer, "", (inputs, targets), 0.3, loss=nn.MSELoss(), draws=200, kind=kind
    )
    kappa = dense_kappa(layer, inputs, targets)
    wanted = 0.3**2 / (2 * found.features) * kappa
    assert abs(found.mean - wanted) < 4 * found.standard_error
    assert found.standard_error < 0.1 * wanted
    assert abs(found.kappa - kappa) <= 4 * found.kappa_error + 1e-9
    assert found.kappa_error < 0.3 * kappa


@pytest.mark.parametrize("layer", ["0", "2"])
def test_a_draw_is_a_perturbation_of_the_features(net, batch, layer):
    """The definition, with the matrix acting on the layer's input in a hook."""
    module = net.get_submodule(layer)
    weight = module.weight.detach()
    found = feature_robustness(
        net, layer, batch, 0.4, loss=F.cross_entropy, draws=3, antithetic=False
    )
    for rise, rows in zip(
        found.per_draw, draws_of(module, kind="orthogonal", draws=3, delta=0.4), strict=True
    ):
        a = torch.linalg.pinv(weight) @ rows[0]  # some A with W A as drawn
        torch.testing.assert_close(weight @ a, rows[0])
        hook = module.register_forward_pre_hook(lambda _, args, a=a: args[0] + args[0] @ a.T)
        moved = F.cross_entropy(net(batch[0]), batch[1])
        hook.remove()
        wanted = (moved - F.cross_entropy(net(batch[0]), batch[1])).item()
        assert rise == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("layer", ["0", "4"])
def test_a_small_delta_meets_the_prediction_of_the_definition(net, batch, layer):
    found = feature_robustness(net, layer, batch, 0.01, loss=F.cross_entropy, draws=400, probes=64)

    def of_weight(weight):
        moved = {f"{layer}.weight": weight}
        return F.cross_entropy(torch.func.functional_call(net, moved, (batch[0],)), batch[1])

    weight = net.get_submodule(layer).weight
    kappa = relative_flatness(of_weight, weight).item()
    wanted = 0.01**2 / (2 * weight.shape[1]) * kappa
    assert abs(found.mean - wanted) < 4 * found.standard_error + 1e-3 * abs(wanted)
    assert abs(found.kappa - kappa) <= 4 * found.kappa_error + 1e-9
    assert found.predicted == pytest.approx(0.01**2 / (2 * weight.shape[1]) * found.kappa)
    assert found.features == weight.shape[1]


def test_both_ways_the_slope_drops_out(net, batch):
    both, one = (
        feature_robustness(net, "4", batch, 0.01, loss=F.cross_entropy, antithetic=antithetic)
        for antithetic in (True, False)
    )
    assert both.standard_error < 0.05 * one.standard_error
    assert abs(one.mean - both.mean) < 4 * one.standard_error


def test_the_interval_is_student_s(net, batch):
    found = feature_robustness(net, "4", batch, 0.1, loss=F.cross_entropy, draws=5)
    values = torch.tensor(found.per_draw, dtype=torch.float64)
    assert found.mean == pytest.approx(values.mean().item())
    assert found.standard_error == pytest.approx(values.std().item() / math.sqrt(5))
    # 2.7764 is the 97.5 % quantile with 4 degrees of freedom.
    assert found.high - found.mean == pytest.approx(2.77645 * found.standard_error, rel=1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    wider = feature_robustness(net, "4", batch, 0.1, loss=F.cross_entropy, draws=5, confidence=0.99)
    assert wider.high > found.high
    assert wider.mean == found.mean


def test_batches_count_by_their_samples(net, batch):
    options = {"loss": F.cross_entropy, "draws": 3}
    whole = feature_robustness(net, "4", batch, 0.2, **options)
    parts = [(batch[0][:2], batch[1][:2]), [batch[0][2:], batch[1][2:]]]
    for data in (parts, iter(parts), DataLoader(TensorDataset(*batch), 2)):
        found = feature_robustness(net, "4", data, 0.2, **options)
        assert found.samples == whole.samples == 5
        assert found.per_draw == pytest.approx(whole.per_draw)
        assert found.loss == pytest.approx(whole.loss)
        assert found.kappa == pytest.approx(whole.kappa)


def test_groups_are_turned_independently():
    layer = nn.Conv1d(2, 2, 3, groups=2)
    with torch.no_grad():
        layer.weight[1] = layer.weight[0]
        features = torch.zeros(1, 2, 4)
        noise = RelativeNoise(layer, 1.0, 1, "orthogonal", 0, antithetic=False)
        drawn = noise._draw(Operator(layer, features, layer(features)), 0)
    assert (drawn[0] - drawn[1]).abs().max() > 0.1
    torch.testing.assert_close(
        drawn.flatten(1).norm(dim=1), layer.weight.detach().flatten(1).norm(dim=1)
    )


def test_error_of_kappa_is_that_of_its_probes():
    layer = nn.Conv1d(2, 3, 2)
    inputs, targets = torch.randn(6, 2, 5), torch.randn(6, 3, 4)
    options = {"loss": nn.MSELoss(), "probes": 5}
    one = FAM(layer, layer="", weight=1, **options).measure(inputs, targets)
    found = feature_robustness(layer, "", (inputs, targets), 0.1, draws=2, **options)
    assert found.kappa == pytest.approx(one.kappa.item())
    assert found.kappa_error == pytest.approx(one.per_probe.std().item() / math.sqrt(5))
    parts = [(inputs[:2], targets[:2]), (inputs[2:], targets[2:])]
    split = feature_robustness(layer, "", parts, 0.1, draws=2, **options)
    errors = [
        FAM(layer, layer="", weight=1, **options).measure(*part).per_probe.std().item() / 5**0.5
        for part in parts
    ]
    wanted = math.hypot(errors[0] * 2 / 6, errors[1] * 4 / 6)
    assert split.kappa_error == pytest.approx(wanted)


class Leaky(nn.Module):
    """Dropout that is also active in evaluation mode, and a buffer that counts calls."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.norm(F.dropout(self.head(x), 0.5, training=True))


def test_leaves_no_trace(batch):
    model = Leaky().double().train()
    model.head.eval()
    model(batch[0]).sum().backward()
    before = copy.deepcopy(model.state_dict())
    grads = [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    data = DataLoader(TensorDataset(*batch), 2, shuffle=True)
    feature_robustness(model, "head", data, 0.1, loss=F.cross_entropy, probes=2)
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert [m.training for m in model.modules()] == [True, False, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_leaves_no_trace_of_a_failure(net, batch):
    state = torch.get_rng_state()

    def broken(z, y):
        torch.rand(1)
        raise RuntimeError("no such loss")

    with pytest.raises(RuntimeError, match="no such loss"):
        feature_robustness(net, "4", batch, 0.1, loss=broken)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_the_same_masks_with_and_without_perturbation(batch):
    """Otherwise dropout noise, which is thousands of times larger here, would hide the rise."""
    found = feature_robustness(
        Leaky().double(), "head", batch, 1e-6, loss=F.cross_entropy, probes=0
    )
    assert max(map(abs, found.per_draw)) < 1e-8


def test_draws_are_those_of_the_seed(net, batch):
    first, again, other = (
        feature_robustness(net, "4", batch, 0.1, loss=F.cross_entropy, draws=2, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert set(first.per_draw).isdisjoint(other.per_draw)


class Slope(torch.autograd.Function):
    """A derivative that cannot be differentiated, like those of many kernels."""

    @staticmethod
    def forward(ctx, slope, z):
        return 2 * slope * z

    @staticmethod
    def backward(ctx, *slopes):
        raise RuntimeError("double backward is not implemented")


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z * z

    @staticmethod
    def backward(ctx, slope):
        return Slope.apply(slope, *ctx.saved_tensors)


class Kernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return Squared.apply(self.head(x))


def test_a_tail_without_second_derivatives_has_no_prediction(batch):
    found = feature_robustness(Kernel().double(), "head", batch, 0.1, loss=F.cross_entropy, draws=2)
    assert found.kappa is found.kappa_error is found.predicted is None
    assert "cannot be differentiated twice" in found.note
    assert str(found).endswith(f"no prediction: {found.note}")
    assert all(math.isfinite(rise) and rise for rise in found.per_draw)


def test_says_itself_in_a_line(net, batch):
    found = feature_robustness(net, "4", batch, 0.1, loss=F.cross_entropy)
    assert str(found) == (
        f"feature robustness at delta 0.1: the loss {found.loss:.4g} rises by {found.mean:.4g} "
        f"(95 % interval {found.low:.4g} to {found.high:.4g}, 16 orthogonal draws, 5 samples); "
        f"relative flatness predicts {found.predicted:.4g}"
    )
    without = feature_robustness(net, "4", batch, 0.1, loss=F.cross_entropy, probes=0)
    assert without.mean == found.mean
    assert str(without).endswith("no prediction: probes=0")


def test_takes_a_part_of_the_output_and_keywords():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, pixels):
            return {"logits": self.head(pixels), "other": pixels}

    data = {"pixels": torch.randn(5, 4)}, torch.tensor([0, 2, 1, 1, 0])
    found = feature_robustness(
        Named(), "head", data, 0.1, loss=F.cross_entropy, output="logits", draws=2
    )
    assert found.samples == 5
    assert found.kappa > 0


def test_runs_under_autocast(net, batch):
    net = net.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = feature_robustness(
            net, "4", (batch[0].float(), batch[1]), 0.5, loss=F.cross_entropy, draws=8
        )
    assert math.isfinite(found.mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0}, "delta must be a finite number above 0, got 0"),
        ({"delta": math.inf}, "delta must be a finite number above 0, got inf"),
        ({"draws": 1}, "draws must be at least 2"),
        ({"draws": 2.5}, "draws must be a whole number"),
        ({"kind": "uniform"}, "kind must be one of 'orthogonal', 'gaussian', got 'uniform'"),
        ({"confidence": 95}, "confidence must be between 0 and 1, got 95"),
        ({"probes": -1}, "probes must be a whole number"),
        ({"data": []}, "the data contain no batch"),
        ({"data": iter([])}, "data contains no batch. If it is an iterator, it may be exhausted"),
        ({"data": iter([torch.ones(2, 4)])}, "batch 0 of the data is a Tensor: give"),
        ({"data": 3}, "got a int"),
        ({"loss": lambda z, y: z}, "must be one scalar"),
        (
            {"loss": lambda z, y: z.sum() / 0},
            "without any perturbation, so there is nothing to compare with",
        ),
    ],
)
def test_faulty_arguments_are_refused(net, batch, options, message):
    arguments = {"data": batch, "delta": 0.1, "loss": F.cross_entropy, **options}
    with pytest.raises(FlatnessError, match=message):
        feature_robustness(net, "4", **arguments)


def test_an_unknown_layer_is_refused(net, batch):
    with pytest.raises(LayerNotFoundError, match="no layer is called 'head'"):
        feature_robustness(net, "head", batch, 0.1, loss=F.cross_entropy)
