"""FAM on heads with many positions, with losses called by user or model: exact and free."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from famseg.flatness import FAM

X = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TOKENS = torch.tensor([[0, 2, 1, 1, -100], [0, 1, -100, 2, 2], [1, 1, 0, 0, 2]])
IMAGES = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
PIXELS = torch.arange(18).reshape(2, 3, 3) % 3


class Tokens(nn.Module):
    """A network on tokens; its head returns (n, T, d), or the model returns the loss itself."""

    def __init__(self, *, own_loss=False, transpose=False):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.own_loss, self.transpose = own_loss, transpose

    def forward(self, x, labels=None):
        logits = self.head(torch.tanh(self.body(x)))
        if self.own_loss:
            return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten())}
        return logits.transpose(1, 2) if self.transpose else logits


def flattened(z, y):
    return F.cross_entropy(z.flatten(0, 1), y.flatten(), label_smoothing=0.1)


def weighted(z, y):
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    return F.cross_entropy(z, y, weight=weight)


def causal(z, y):
    return F.cross_entropy(z[:, :-1].reshape(-1, 3), y[:, 1:].reshape(-1))


def masked(z, y):
    return F.cross_entropy(z[y != -100], y[y != -100])


def rows_of_pixels(z, y):
    return F.cross_entropy(z.permute(0, 2, 3, 1).reshape(-1, 3), y.flatten())


def pixels():
    return nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 3, 1))


CASES = {
    "flattened in a lambda": (Tokens, "head", flattened, X, TOKENS),
    "transposed by the model": (
        lambda: Tokens(transpose=True),
        "head",
        nn.CrossEntropyLoss(),
        X,
        TOKENS,
    ),
    "causal, a copy": (Tokens, "head", causal, X, TOKENS),
    "masked, a copy": (Tokens, "head", masked, X, TOKENS),
    "pixels as rows, a copy": (pixels, "2", rows_of_pixels, IMAGES, PIXELS),
    "weights": (lambda: Tokens(transpose=True), "head", weighted, X, TOKENS),
    "squared error": (Tokens, "head", nn.MSELoss(), X, torch.ones(3, 5, 3).double()),
    "the model's own loss": (
        lambda: Tokens(own_loss=True),
        "head",
        lambda out, _: out["loss"],
        {"x": X, "labels": TOKENS},
        None,
    ),
    "pixels": (pixels, "2", nn.CrossEntropyLoss(ignore_index=1), IMAGES, PIXELS),
    "pixels, logistic": (
        pixels,
        "2",
        nn.BCEWithLogitsLoss(pos_weight=torch.full((3, 1, 1), 2.0).double()),
        IMAGES,
        (torch.arange(54).reshape(2, 3, 3, 3) % 2).double(),
    ),
}


def terms(model, layer, loss, inputs, targets, steps=1, **options):
    fixed = {"weight": 0.5, "samples": "all", "every": 1}
    fam = FAM(model, layer=layer, loss=loss, **(fixed | options))
    for _ in range(steps):
        found = fam(inputs, targets)
    gradients = torch.autograd.grad(found.total, list(model.parameters()))
    return found, gradients, fam


@pytest.mark.parametrize("steps", [1, 3], ids=["first step", "later step"])
@pytest.mark.parametrize("name", CASES)
def test_the_default_is_the_closed_form_and_equals_the_definition(name, steps):
    make, *rest = CASES[name]
    torch.manual_seed(0)
    model = make().double()
    found, slopes, fam = terms(model, *rest, steps=steps)
    assert "closed_form, exact and free" in fam.explain()
    wanted, right, _ = terms(model, *rest, estimator="exact")
    torch.testing.assert_close(found.penalty, wanted.penalty)
    for f, r in zip(slopes, right, strict=True):
        torch.testing.assert_close(f, r)


@pytest.mark.parametrize(
    "options", [{"quantity": "simplified"}, {"normalize": "features"}], ids=str
)
def test_options(options):
    make, *rest = CASES["pixels"]
    torch.manual_seed(0)
    model = make().double()
    found, _, fam = terms(model, *rest, steps=2, **options)
    assert fam._free is not None
    wanted, _, _ = terms(model, *rest, estimator="exact", **options)
    torch.testing.assert_close(found.penalty, wanted.penalty)


def test_a_mask_chooses_anew_at_each_step():
    torch.manual_seed(0)
    model, targets = Tokens().double(), TOKENS.clone()
    fam = FAM(model, layer="head", loss=masked, weight=0.5)
    for _ in range(4):
        targets = targets.roll(2, 1)
        found = fam(X, targets).penalty
        wanted, _, _ = terms(model, "head", masked, X, targets, estimator="exact")
        torch.testing.assert_close(found, wanted.penalty)
    assert "closed_form" in fam.explain()


def test_hooks_on_the_outputs_see_gradients_alone():
    torch.manual_seed(0)
    model, seen = Tokens().double(), []
    model.head.register_forward_hook(lambda m, args, out: out.register_hook(seen.append) and None)
    terms(model, "head", causal, X, TOKENS, steps=2)
    assert seen
    assert all(slope.abs().max() < 1 for slope in seen)  # numbers of rows begin at 1


def test_a_copy_that_keeps_its_gradient_gets_no_numbers_for_it():
    torch.manual_seed(0)
    copies = []

    def loss(z, y):
        copies.append(z[:, :-1].reshape(-1, 3))
        copies[-1].retain_grad()
        return F.cross_entropy(copies[-1], y[:, 1:].reshape(-1))

    terms(Tokens().double(), "head", loss, X, TOKENS, steps=2)
    assert all(copy.grad is None or copy.grad.abs().max() < 1 for copy in copies)


def test_per_sample_values_average_to_the_batch():
    make, layer, loss, inputs, targets = CASES["flattened in a lambda"]
    torch.manual_seed(0)
    found = FAM(make().double(), layer=layer, loss=loss, weight=1).measure(inputs, targets)
    assert found.per_sample.shape == (3,)
    torch.testing.assert_close(found.per_sample.mean(), found.kappa)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: 2 * flattened(z, y),
        lambda z, y: flattened(z, y) + z.square().mean(),
        lambda z, y: F.cross_entropy(z.flatten(0, 1).contiguous() * 1, y.flatten()),
        lambda z, y: F.cross_entropy(z.flatten(0, 1), z.flatten(0, 1).softmax(1)),
    ],
    ids=["a factor", "another term", "a copy", "targets of the output"],
)
def test_a_loss_that_is_more_than_the_call_has_no_closed_form(loss):
    torch.manual_seed(0)
    model = Tokens().double()
    _, _, fam = terms(model, "head", loss, X, TOKENS.clamp(min=0))
    assert "closed_form" not in fam.explain()


def test_a_loss_that_changes_to_something_else_is_planned_anew():
    torch.manual_seed(0)
    model, extra = Tokens().double(), []

    def loss(z, y):
        value = flattened(z, y)
        return value + z.square().mean() if extra else value

    fam = FAM(model, layer="head", loss=loss, weight=1e-3, bound="none")
    targets = TOKENS.clamp(min=0)
    fam(X, targets)
    fam(X, targets)
    assert "closed_form" in fam.explain()
    extra.append(1)
    draws = torch.stack([_penalty(fam, X, targets, step) for step in range(400)])
    wanted = FAM(model, layer="head", loss=loss, weight=1, bound="none", estimator="exact")
    wanted = wanted(X, targets).penalty
    assert "closed_form" not in fam.explain()
    assert abs(draws.mean() - wanted) < 4 * draws.std() / 20


def _penalty(fam, inputs, targets, step):
    fam.seek(20 * step)
    return fam(inputs, targets).penalty.detach()


def test_conv1d_of_transformers_is_penalized_like_its_linear_twin():
    Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    odd, linear = Conv1D(3, 6).double(), nn.Linear(6, 3).double()
    with torch.no_grad():
        linear.weight.copy_(odd.weight.T)
        linear.bias.copy_(odd.bias)
    body = nn.Linear(4, 6).double()
    found = []
    for head in (odd, linear):
        model = nn.Sequential(body, nn.Tanh(), head)
        for loss in (nn.CrossEntropyLoss(), lambda z, y: F.cross_entropy(z.sin(), y)):
            value, slopes, _ = terms(model, "2", loss, X[:, 0], TOKENS[:, 0])
            found.append((value.penalty, slopes[2].T if head is odd else slopes[2]))
    for (one, slope), (two, other) in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(slope, other)


def test_a_loss_of_torch_with_hooks_or_another_forward_is_not_taken_for_itself():
    torch.manual_seed(0)
    model = Tokens().double()
    x, y = X[:, 0], TOKENS[:, 0]

    def hooked(loss):
        loss.register_forward_hook(lambda m, a, out: 3 * out)

    def before(loss):
        loss.register_forward_pre_hook(lambda m, a: (3 * a[0], a[1]))

    def replaced(loss):
        loss.forward = lambda z, y: F.cross_entropy(3 * z, y)

    for change in (hooked, before, replaced):
        loss = nn.CrossEntropyLoss()
        change(loss)
        _, _, fam = terms(model, "head", loss, x, y, weight=1e-3)
        assert "closed_form" not in fam.explain()
