"""Jets give, with the same probe, the value and the gradient of reverse mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from famseg.flatness import FAM, _settle


class Vectors(nn.Module):
    """A layer on vectors and the modules behind it."""

    width = 6

    def __init__(self, tail):
        super().__init__()
        self.body, self.layer, self.head = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)
        self.gate = nn.Linear(4, 6)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)
        self.tail = tail

    def forward(self, x):
        h = self.layer(torch.tanh(self.body(x)))
        return self.head(self.tail(self, h, x).flatten(1))


class Images(nn.Module):
    """A convolution and the modules behind it."""

    def __init__(self, tail):
        super().__init__()
        self.body, self.layer = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.up, self.slopes = nn.ConvTranspose2d(4, 4, 2, stride=2), nn.PReLU(4)
        self.one_slope = nn.PReLU()
        self.norms = nn.ModuleDict(
            {"group": nn.GroupNorm(2, 4), "batch": nn.BatchNorm2d(4), "layer": nn.LayerNorm(4)}
        )
        self.head = nn.Conv2d(4, 1, 1)
        self.tail = tail

    def forward(self, x):
        h = self.layer(torch.tanh(self.body(x)))
        return self.head(self.tail(self, h, x))


def attention(model, h, x):
    h = h.unflatten(1, (3, 2))
    a = (h @ h.transpose(1, 2) / 2**0.5).softmax(-1)
    return torch.matmul(a, h) + h


VECTORS = {
    "relu": lambda m, h, x: F.relu(h),
    "relu in place": lambda m, h, x: F.relu(h, inplace=True),
    "leaky": lambda m, h, x: F.leaky_relu(h, 0.2),
    "elu": lambda m, h, x: F.elu(h),
    "tanh": lambda m, h, x: torch.tanh(torch.tanh(h)),
    "sigmoid": lambda m, h, x: h.sigmoid() * m.scale,
    "silu": lambda m, h, x: F.silu(h),
    "gelu": lambda m, h, x: F.gelu(F.gelu(h)),
    "softplus": lambda m, h, x: F.softplus(h, beta=2, threshold=1),
    "layer norm": lambda m, h, x: F.layer_norm(h, (6,), m.scale),
    "two norms": lambda m, h, x: F.layer_norm(F.layer_norm(h, (6,)).tanh(), (6,)),
    "residual": lambda m, h, x: h + torch.tanh(h),
    "difference": lambda m, h, x: torch.tanh(h) - 2 * h,
    "gate of the body": lambda m, h, x: torch.tanh(h) * m.gate(x).sigmoid(),
    "square": lambda m, h, x: h * torch.tanh(h),
    "product of itself": lambda m, h, x: torch.tanh(h) * torch.sigmoid(h) / (1 + x[:, :1] ** 2),
    "joined with the body": lambda m, h, x: torch.cat([h.tanh(), x[:, :2]], 1)[:, :6],
    "joined bent and straight": lambda m, h, x: torch.cat([h[:, :2].tanh(), h[:, 2:]], 1),
    "attention": attention,
    "mean": lambda m, h, x: h.tanh() - h.tanh().mean(1, keepdim=True),
    "padded": lambda m, h, x: F.pad(h[:, 1:-1].tanh(), (1, 1), value=3.0),
    "no dropout": lambda m, h, x: F.dropout(h, 0.5, training=False).tanh(),
    "shapes": lambda m, h, x: (
        h.view(len(h), 2, 3).permute(0, 2, 1).contiguous().unsqueeze(1).squeeze(1).tanh()
    ),
    "compared": lambda m, h, x: h.tanh() * (h > 0),
}
IMAGES = {
    "transposed": lambda m, h, x: m.slopes(m.up(h)),
    "transposed to one channel": lambda m, h, x: torch.cat(
        [F.conv_transpose2d(h.tanh(), m.up.weight[:, :1], stride=2)] * 4, 1
    ),
    "one slope": lambda m, h, x: m.one_slope(h).tanh(),
    "group norm": lambda m, h, x: m.slopes(m.norms["group"](h)),
    "group norms": lambda m, h, x: m.norms["group"](m.up(m.norms["group"](h).relu())),
    "max pool": lambda m, h, x: F.max_pool2d(h.tanh(), 2),
    "average pool": lambda m, h, x: F.avg_pool2d(h, 2).tanh() + F.adaptive_avg_pool2d(h, 1).relu(),
    "interpolated": lambda m, h, x: (
        F.interpolate(F.avg_pool2d(h.tanh(), 2), scale_factor=2, mode="bilinear") + h
    ),
    "layer norm of channels": lambda m, h, x: m.norms["layer"](h.permute(0, 2, 3, 1)).permute(
        0, 3, 1, 2
    ),
    "batch norm": lambda m, h, x: m.norms["batch"](h).relu(),
}


def vectors(name):
    torch.manual_seed(3)
    inputs = torch.randn(8, 4, dtype=torch.float64)
    return Vectors(VECTORS[name]).double(), inputs, torch.arange(8) % 3, nn.CrossEntropyLoss()


def images(name):
    torch.manual_seed(3)
    inputs = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    model = Images(IMAGES[name]).double()
    with torch.no_grad():
        shape = model(inputs).shape
    targets = (torch.rand(shape) > 0.5).double()
    return model, inputs, targets, lambda z, y: ((z.sigmoid() - y) ** 2).mean()


def both(monkeypatch, setup, **options):
    """Terms and gradients, by jets and by reverse mode."""
    found = []
    fixed = {
        "layer": "layer",
        "weight": 0.5,
        "every": 1,
        "bound": "none",
        "estimator": "hutchinson",
    }
    for jets in (True, False):
        model, inputs, targets, loss = setup()
        fam = FAM(model, loss=loss, **(fixed | options))
        with monkeypatch.context() as patch:
            if not jets:
                patch.setattr(_settle, "may_carry", lambda *_: False)
            terms = fam(inputs, targets)
        assert fam._planner.plan.jets == jets
        gradients = torch.autograd.grad(
            terms.total, list(model.parameters()), allow_unused=True, materialize_grads=True
        )
        found.append((terms, gradients, copy.deepcopy(model.state_dict())))
    return found


def check(monkeypatch, setup, **options):
    (jets, slopes, state), (reverse, wanted, state_wanted) = both(monkeypatch, setup, **options)
    assert jets.loss == reverse.loss
    torch.testing.assert_close(jets.penalty, reverse.penalty, rtol=1e-9, atol=1e-12)
    for found, right in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-11)
    assert all(torch.equal(value, state_wanted[name]) for name, value in state.items())


@pytest.mark.parametrize("samples", ["all", 3])
@pytest.mark.parametrize("name", VECTORS)
def test_vectors(monkeypatch, name, samples):
    check(monkeypatch, lambda: vectors(name), samples=samples)


@pytest.mark.parametrize("samples", ["all", 2])
@pytest.mark.parametrize("name", [name for name in IMAGES if name != "batch norm"])
def test_images(monkeypatch, name, samples):
    check(monkeypatch, lambda: images(name), samples=samples)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_in_both_modes(monkeypatch, training):
    def setup():
        model, *rest = images("batch norm")
        model.norms["batch"].train(training)
        return model, *rest

    options = {"probe_per": "batch"} if training else {"samples": 2}
    check(monkeypatch, setup, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"quantity": "simplified"},
        {"standardize": True},
        {"normalize": "features"},
        {"probe_per": "batch"},
        {"distribution": "gaussian"},
        {"layer": ["body", "layer"]},
        {"layer": ["layer", "body"]},  # not in the order of running
        {"layer": ["body", "layer"], "samples": 3},
    ],
    ids=str,
)
def test_options(monkeypatch, options):
    check(monkeypatch, lambda: vectors("silu"), **options)


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("no rule", lambda m, h, x: torch.logcumsumexp(h, 1)),
        ("several results", lambda m, h, x: torch.cat(h.chunk(2, 1), 1)),
        ("samples mixed", lambda m, h, x: h.tanh() - h.mean(0)),
        ("in place", lambda m, h, x: h.mul_(2).exp_()),
    ],
)
def test_where_they_end_reverse_mode_takes_over(name, tail):
    torch.manual_seed(0)
    model = Vectors(tail).double()
    options = {"layer": "layer", "loss": nn.CrossEntropyLoss(), "weight": 0.5, "bound": "none"}
    x, y = torch.randn(8, 4).double(), torch.arange(8) % 3
    fam = FAM(model, estimator="hutchinson", probe_per="batch", **options)
    draws = torch.stack([fam(x, y).penalty.detach() for _ in range(300)])
    assert not fam._planner.plan.jets
    wanted = FAM(model, estimator="exact", **options)(x, y).penalty
    assert abs(draws.mean() - wanted) < 4 * draws.std() / 300**0.5


def test_a_loss_that_looks_past_the_prediction_is_left_to_reverse_mode():
    class Stash(Vectors):
        def forward(self, x):
            self.h = self.layer(torch.tanh(self.body(x)))
            return self.head(self.h.relu())

    torch.manual_seed(0)
    model = Stash(None).double()

    def loss(z, y):
        return F.cross_entropy(z, y) + model.h.pow(4).mean()

    x, y = torch.randn(8, 4).double(), torch.arange(8) % 3
    fam = FAM(model, layer="layer", loss=loss, weight=0.5, estimator="hutchinson")
    fam(x, y)
    assert not fam._planner.plan.jets


def test_jets_that_end_later_leave_the_step_to_reverse_mode_on_the_same_pass():
    class Changing(Vectors):
        late = False

        def forward(self, x):
            self.calls += 1
            h = self.layer(torch.tanh(self.body(x)))
            return self.head(torch.logcumsumexp(h, 1) if self.late else h.tanh())

    torch.manual_seed(0)
    model = Changing(None).double()
    model.calls = 0
    x, y = torch.randn(8, 4).double(), torch.arange(8) % 3
    options = {"layer": "layer", "loss": nn.CrossEntropyLoss(), "weight": 0.5, "bound": "none"}
    fam = FAM(model, estimator="hutchinson", **options)
    fam(x, y)
    assert fam._planner.plan.jets
    Changing.late = True  # on the class, which nobody watches
    draws = []
    for step in range(300):
        fam.seek(step)
        draws.append(fam(x, y).penalty.detach())
    assert model.calls == 301
    wanted = FAM(model, estimator="exact", **options)(x, y).penalty
    assert abs(torch.stack(draws).mean() - wanted) < 4 * torch.stack(draws).std() / 300**0.5


class Swish(torch.autograd.Function):
    """A memory-saving activation as commonly written: autograd does not see its operations."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return slope * s * (1 + x * (1 - s))


def shifted(model, h, x):
    with torch.no_grad():
        h += 0.1
    return torch.tanh(h)


@torch.jit.script
def _scripted(h):
    return torch.tanh(h)


@pytest.mark.parametrize(
    "tail",
    [
        lambda m, h, x: Swish.apply(h),
        shifted,
        lambda m, h, x: torch.relu(h) + m.zero * _scripted(h),
    ],
    ids=["a function of its own", "in place without gradients", "hidden behind a gate of zero"],
)
def test_what_hides_from_jets_is_found_by_its_gradient(tail):
    torch.manual_seed(0)
    model = Vectors(tail).double()
    model.zero = nn.Parameter(torch.zeros(6).double())
    x, y = torch.randn(8, 4).double(), torch.arange(8) % 3
    options = {"layer": "layer", "loss": nn.CrossEntropyLoss(), "weight": 1e-3, "bound": "none"}
    fam = FAM(model, estimator="hutchinson", **options)
    fam(x, y)
    assert not fam._planner.plan.jets


def test_an_assignment_that_hits_later_ends_the_jets_then():
    def clipped(model, h, x):
        h = h.clone()
        h[h > 0.8] = 0.8
        return torch.tanh(h)

    torch.manual_seed(0)
    model = Vectors(clipped).double()
    x, y = torch.randn(8, 4).double(), torch.arange(8) % 3
    options = {"layer": "layer", "loss": nn.CrossEntropyLoss(), "weight": 1e-3, "bound": "none"}
    fam = FAM(model, estimator="hutchinson", **options)
    fam(0.05 * x, y)
    draws = torch.stack([fam(4 * x, y).penalty.detach() for _ in range(400)])
    wanted = FAM(model, estimator="exact", **options)(4 * x, y).penalty
    assert abs(draws.mean() - wanted) < 4 * draws.std() / 20


@pytest.mark.parametrize("samples", ["all", 2])
def test_a_square_matrix_as_large_as_the_batch_is_no_sample(monkeypatch, samples):
    def setup():
        torch.manual_seed(0)
        model = Vectors(lambda m, h, x: torch.tanh(h) @ m.matrix).double()
        model.matrix = nn.Parameter(torch.randn(6, 6).double())
        return model, torch.randn(6, 4).double(), torch.arange(6) % 3, nn.CrossEntropyLoss()

    check(monkeypatch, setup, samples=samples)


def test_layers_that_see_different_numbers_of_rows():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.each, self.all, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            h = torch.tanh(self.each(x.flatten(0, 1))).view(len(x), 4, 6).mean(1)
            return self.head(torch.tanh(self.all(h)))

    torch.manual_seed(0)
    model = Encoder().double()
    x, y = torch.randn(6, 4, 5).double(), torch.arange(6) % 3
    options = {"layer": ["each", "all"], "loss": nn.CrossEntropyLoss(), "bound": "none"}
    fam = FAM(model, weight=1e-4, every=1, **options)
    draws = torch.stack([fam(x, y).penalty.detach() for _ in range(600)])
    wanted = FAM(model, weight=1, estimator="exact", **options)(x, y).penalty
    assert abs(draws.mean() - wanted) < 4 * draws.std() / 600**0.5


def test_a_network_that_is_frozen_later_is_still_measured():
    torch.manual_seed(0)
    model = Vectors(VECTORS["tanh"]).double()
    x, y = torch.randn(8, 4).double(), torch.arange(8) % 3
    options = {"layer": "layer", "loss": nn.CrossEntropyLoss(), "weight": 1e-3, "bound": "none"}
    fam = FAM(model, estimator="hutchinson", **options)
    fam(x, y)
    model.requires_grad_(False)
    fam.seek(0)
    frozen = fam(x, y).penalty
    model.requires_grad_(True)
    fam.seek(0)
    torch.testing.assert_close(frozen, fam(x, y).penalty.detach())


def test_tensors_of_monai_give_what_plain_ones_give():
    MetaTensor = pytest.importorskip("monai.data").MetaTensor
    torch.manual_seed(0)
    model, inputs, targets, _ = images("group norm")

    def loss(z, y):
        return ((z.sigmoid() - y) ** 2).mean()

    found = []
    for wrap in (lambda t: t, MetaTensor):
        for options in ({}, {"estimator": "hutchinson", "samples": 2}):
            fam = FAM(model, layer="layer", loss=loss, weight=1e-3, **options)
            terms = fam(wrap(inputs), wrap(targets))
            terms.total.backward()
            found.append(terms.total.item())
            assert type(terms.total) is torch.Tensor
            assert type(fam.measure(wrap(inputs), wrap(targets)).kappa) is torch.Tensor
    assert found[:2] == pytest.approx(found[2:])
