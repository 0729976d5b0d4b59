"""The formulas of docs/flatness.md that it does not check by itself."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from famseg.flatness import FAM, relative_flatness

same = torch.testing.assert_close
CROSS_ENTROPY = nn.CrossEntropyLoss()


ROOT = Path(__file__).parents[2]


@pytest.fixture
def net():
    torch.manual_seed(0)
    layers = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)
    return nn.Sequential(*layers).double()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(12, 4).double(), torch.arange(12) % 3


def measured(net, batch, layer, loss=CROSS_ENTROPY, **options):
    return FAM(net, layer=layer, loss=loss, weight=1, **options).measure(*batch)


def whole_hessian(net, batch, layer):
    """Shape (d, m, d, m)."""
    name, weight = f"{layer}.weight", net.get_submodule(layer).weight.detach()
    inputs, targets = batch
    return hessian(lambda w: CROSS_ENTROPY(functional_call(net, {name: w}, (inputs,)), targets))(
        weight
    ).detach()


@pytest.fixture
def parts(net, batch):
    """Layer "2": its weight, its features, and the Hessians of the samples in its outputs."""
    inputs, targets = batch
    weight, bias = net[2].weight.detach(), net[2].bias.detach()
    features = net[:2](inputs).detach()
    curvatures = [
        hessian(lambda z, t=t: CROSS_ENTROPY(net[3:](z)[None], t[None]))(weight @ f + bias)
        for f, t in zip(features, targets, strict=True)
    ]
    return weight, features, torch.stack(curvatures).detach()


def between_probes(weight, features, curvatures):
    """M_i = |phi_i|^2 W^T H_i W, shape (n, m, m)."""
    return features.square().sum(1)[:, None, None] * (weight.T @ curvatures @ weight)


def test_kappa_in_the_outputs_of_the_layer(net, batch, parts):
    traces = between_probes(*parts).diagonal(dim1=1, dim2=2).sum(1)
    found = measured(net, batch, "2", estimator="columns")
    same(found.per_sample, traces)
    same(measured(net, batch, "2", estimator="exact").kappa, traces.mean())


def without_diagonal(matrices, distribution):
    squares = matrices.square().sum((-2, -1))
    if distribution == "rademacher":
        squares = squares - matrices.diagonal(dim1=-2, dim2=-1).square().sum(-1)
    return 2 * squares


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("probe_per", ["sample", "batch"])
def test_the_variance_of_a_probe(net, batch, parts, probe_per, distribution):
    weight, features, curvatures = parts
    basis = torch.linalg.qr(weight.T).Q
    reduced = weight @ basis if distribution == "rademacher" else weight
    n = len(features)
    if probe_per == "sample":
        matrices = between_probes(reduced, features, curvatures)
        variance = without_diagonal(matrices, distribution).sum() / n**2
    else:
        inner = reduced.T @ curvatures @ reduced
        size = inner.shape[1] * features.shape[1]
        matrix = torch.einsum("iab,ij,ik->ajbk", inner, features, features).reshape(size, size)
        variance = without_diagonal(matrix / n, distribution)
    options = {"probe_per": probe_per, "distribution": distribution, "probes": 2000}
    found = measured(net, batch, "2", estimator="hutchinson", **options).per_probe
    assert 0.85 < (found.var() / variance).item() < 1.15


def test_probes_for_the_batch_add_the_terms_that_couple_samples(parts):
    weight, features, curvatures = parts
    inner = weight.T @ curvatures @ weight
    coupled = torch.einsum("iab,jab->ij", inner, inner) * (features @ features.T).square()
    same(coupled.diagonal(), between_probes(*parts).square().sum((1, 2)))
    size, n = inner.shape[1] * features.shape[1], len(features)
    matrix = torch.einsum("iab,ij,ik->ajbk", inner, features, features).reshape(size, size) / n
    same(coupled.sum() / n**2, matrix.square().sum())


def test_other_closed_forms(net, batch):
    weight, z = net[4].weight.detach(), net(batch[0]).detach()
    length = net[:4](batch[0]).square().sum(1).detach()
    energy = weight.square().sum(1)
    data = batch[0], torch.rand(12, 3).double()
    for loss, bracket in (
        (nn.MSELoss(), 2 / 3 * energy.sum()),
        (nn.BCEWithLogitsLoss(), (z.sigmoid() * (-z).sigmoid()) @ energy / 3),
    ):
        same(measured(net, data, "4", loss, estimator="exact").kappa, (length * bracket).mean())


@pytest.mark.parametrize("kind", ["tokens", "pixels"])
def test_a_closed_form_at_many_positions_is_their_weighted_sum(kind):
    torch.manual_seed(0)
    labels = torch.randint(3, (4, 6))
    labels[:, 4:] = -100
    inputs = torch.randn(4, 6, 5).double()
    layer = nn.Linear(5, 3)
    if kind == "pixels":
        layer, inputs = nn.Conv1d(5, 3, 1), inputs.transpose(1, 2).contiguous()
    net = nn.Sequential(layer).double()

    def loss(z, y):
        z = z.flatten(0, 1) if kind == "tokens" else z
        return nn.functional.cross_entropy(z, y.flatten() if kind == "tokens" else y)

    found = measured(net, (inputs, labels), "0", loss, estimator="closed_form").kappa
    same(found, measured(net, (inputs, labels), "0", loss, estimator="exact").kappa)
    rows = inputs if kind == "tokens" else inputs.transpose(1, 2)
    kept = labels != -100
    p = (net(inputs) if kind == "tokens" else net(inputs).transpose(1, 2)).softmax(-1)[kept]
    weight = layer.weight.detach().flatten(1)
    spread = p @ weight.square().sum(1) - (p @ weight).square().sum(1)
    same(found, (rows[kept].square().sum(1) * spread).mean().detach())


def test_a_direction_carried_along_gives_the_second_derivative(batch):
    """Through tanh, a matrix and the loss: jets by hand, and by two derivatives of torch."""
    (z, targets), v = batch, torch.randn(12, 4).double()
    matrix = torch.randn(4, 3).double()

    def loss(prediction):
        return CROSS_ENTROPY(prediction, targets)

    def second(function, x, direction):
        def slope(at):
            return torch.func.jvp(function, (at,), (direction,))[1]

        return torch.func.jvp(slope, (x,), (direction,))[1]

    y = z.tanh()
    first, bent = (1 - y**2) * v, -2 * y * (1 - y**2) * v**2  # J_f v, D^2 f[v, v]
    p, first, bent = y @ matrix, first @ matrix, bent @ matrix
    found = second(loss, p, first) + (torch.func.grad(loss)(p) * bent).sum()
    same(found, second(lambda x: loss(x.tanh() @ matrix), z, v))


def test_layers_add_up(net, batch):
    one, other = (measured(net, batch, layer, estimator="exact").kappa for layer in ("0", "2"))
    same(measured(net, batch, ["0", "2"], estimator="exact").kappa, one + other)


def test_differences_of_the_gradient_have_few_wrong_digits(net, batch):
    """With the same probes."""
    found, wanted = (
        measured(net, batch, "2", estimator=name).kappa
        for name in ("finite_difference", "hutchinson")
    )
    same(found, wanted, rtol=1e-8, atol=0)
    data = batch[0].float(), batch[1]
    found = measured(net.float(), data, "2", estimator="finite_difference").kappa
    same(found.double(), wanted, rtol=3e-4, atol=0)


def test_groups_add_up():
    torch.manual_seed(0)
    layers = nn.Conv1d(2, 4, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    net = nn.Sequential(*layers).double()
    data = torch.randn(5, 2, 6).double(), torch.tensor([0, 1, 2, 0, 1])
    rows = net[0].weight.detach().reshape(2, 2, 3)  # (groups, d / groups, m)
    curvature = whole_hessian(net, data, "0").reshape(2, 2, 3, 2, 2, 3)
    by_hand = torch.einsum("gsi,gti,gskgtk->", rows, rows, curvature)
    same(measured(net, data, "0", estimator="exact").kappa, by_hand)


def test_twice_with_less_once_constant_is_the_whole_gradient():
    """Of v^T H v with H = diag(cos z), v = z**2; one constant v alone loses half of r dv."""
    u = torch.randn(5).double().requires_grad_()
    v, z = u**2, u + 0
    (slope,) = torch.autograd.grad(-z.cos().sum(), z, create_graph=True)
    (r,) = torch.autograd.grad(slope, z, v.detach(), create_graph=True)
    q = (u**4 * u.cos()).sum()
    value = 2 * r @ v - r @ v.detach()
    same(value, q)
    (whole,) = torch.autograd.grad(q, u)
    (found,) = torch.autograd.grad(value, u, retain_graph=True)
    (half,) = torch.autograd.grad(r @ v, u)
    same(found, whole)
    same(whole - half, (r * 2 * u).detach())


def test_term_one_is_a_weight_decay_with_the_traces(net, batch):
    weight = net[2].weight
    traces = torch.einsum("sktk->st", whole_hessian(net, batch, "2"))
    options = {"layer": "2", "loss": CROSS_ENTROPY, "weight": 1, "every": 1, "bound": "none"}
    fam = FAM(net, estimator="exact", gradient="weights_only", **options)
    (found,) = torch.autograd.grad(fam(*batch).penalty, weight)
    same(found, (2 * traces @ weight).detach())
    released = measured(net, batch, "2", estimator="exact", as_released=True).kappa
    same(8 * released, measured(net, batch, "2", estimator="exact").kappa)


def test_what_is_not_squared_pulls_half_as_hard(net, batch):
    """At the lambda that makes the two simplified terms equal."""
    gradients = []
    for released in (False, True):
        options = {"quantity": "simplified", "as_released": released, "gradient": "weights_only"}
        fam = FAM(
            net, layer="2", loss=CROSS_ENTROPY, weight=1, bound="none", every=1,
            estimator="exact", **options,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(fam(*batch).penalty, net[2].weight)
        gradients.append(gradient)
    same(gradients[0], 2 * net[2].weight.norm().detach() * gradients[1])


def test_the_error_of_noise_is_of_fourth_order():
    """With m = 2 the mean over all 16 sign matrices is exact."""
    torch.manual_seed(0)
    weight, features = torch.randn(3, 2).double(), torch.randn(12, 2).double()
    targets = torch.arange(12) % 3
    signs = [torch.tensor(z).double().reshape(2, 2) for z in itertools.product((-1, 1), repeat=4)]

    def loss(w):
        return CROSS_ENTROPY(features @ w.T, targets)

    kappa = relative_flatness(loss, weight)

    def error(s):
        noisy = sum(loss(weight + s * weight @ z) for z in signs) / 16
        return (noisy - loss(weight) - s**2 / 2 * kappa).item()

    assert error(0.02) / error(0.01) == pytest.approx(16, rel=0.01)


def test_the_error_of_differences_is_the_third_derivative_of_the_gradient():
    z, v = torch.randn(6).double(), torch.randn(6).double()

    def error(h):  # of the loss sum(sin z), whose gradient is cos z
        difference = ((z + h * v).cos() - (z - h * v).cos()) / (2 * h)
        return (difference + z.sin() * v - h**2 / 6 * z.sin() * v**3).abs().max()

    assert error(0.02) / error(0.01) == pytest.approx(16, rel=0.02)


@pytest.mark.parametrize(("d", "m"), [(3, 5), (1, 5)])
def test_simplified_is_d_times_kappa_for_orthogonal_rows(d, m):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(m, d), nn.Tanh(), nn.Linear(d, 3)).double()
    nn.init.orthogonal_(net[0].weight, gain=0.7)
    data = torch.randn(12, m).double(), torch.arange(12) % 3
    kappa = measured(net, data, "0", estimator="exact").kappa
    same(measured(net, data, "0", estimator="exact", quantity="simplified").kappa, d * kappa)


def test_simplified_is_at_least_kappa_where_the_loss_is_convex(net, batch):
    kappa = measured(net, batch, "4").per_sample
    assert (measured(net, batch, "4", quantity="simplified").per_sample >= kappa).all()


def test_the_reduced_factor_has_gram_matrix_and_derivative_of_the_weight(net):
    weight = net[2].weight.detach()
    basis = torch.linalg.qr(weight.T).Q
    same((weight @ basis) @ (weight @ basis).T, weight @ weight.T)
    change = torch.randn_like(weight)
    moved = torch.func.jvp(lambda w: (w @ basis) @ (w @ basis).T, (weight,), (change,))[1]
    same(moved, torch.func.jvp(lambda w: w @ w.T, (weight,), (change,))[1])


def test_messages_of_the_page_are_those_of_the_code():
    """Some are raised only by what a test on one processor cannot make."""
    page = (ROOT / "docs/flatness.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| situation \|.*?\n\n", page, re.DOTALL)
    messages = [
        message
        for row in table.strip().splitlines()[2:]
        for message in re.findall(r"`([^`]+)`", row.split("|")[2])
        if " " in message
    ]
    assert len(messages) >= 10
    sources = (path.read_text(encoding="utf-8") for path in ROOT.glob("famseg/flatness/**/*.py"))
    code = re.sub(r'"\s+f?"', "", "".join(sources))
    for message in messages:
        for words in re.split(r"\(?(?<!\w)'[^']*'(?:, '[^']*'\))?|layer norm|\d+", message):
            assert words in code, message
