"""Several layers at once, and the measures as in the authors' released code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from famseg.flatness import FAM, FlatnessError


def smooth(z, y):
    return (z.sin() * (1.5 * y[:, None] - 1)).mean()


def objective(model, layer, **options):
    fixed = {"loss": smooth, "weight": 1, "bound": "none", "every": 1, "samples": "all"}
    return FAM(model, layer=layer, **(fixed | options))


ALL = ["0", "2", "4"]


@pytest.mark.parametrize("estimator", ["columns", "exact"])
def test_exact_values_of_layers_add_up_with_their_gradients(net, batch, estimator):
    together = objective(net, ALL, estimator=estimator)(*batch).penalty
    parts = [objective(net, layer, estimator=estimator)(*batch).penalty for layer in ALL]
    torch.testing.assert_close(together, sum(parts))
    parameters = list(net.parameters())
    found = torch.autograd.grad(together, parameters)
    wanted = torch.autograd.grad(sum(parts), parameters)
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w)


@pytest.mark.parametrize("options", [{}, {"probe_per": "batch"}, {"quantity": "simplified"}])
def test_probes_of_several_layers_are_unbiased(net, batch, options):
    quantity = {k: v for k, v in options.items() if k == "quantity"}
    exact = objective(net, ALL, estimator="columns", **quantity).measure(*batch).kappa
    found = objective(net, ALL, estimator="hutchinson", probes=600, **options).measure(*batch)
    error = found.per_probe.mean() - exact
    assert abs(error) < 3.7 * found.per_probe.std() / math.sqrt(600)


def test_probes_of_several_layers_have_the_gradient_of_their_value(batch, check_gradient):
    """Including cross terms: they are part of the value although their mean is zero."""
    layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)
    net = nn.Sequential(*layers).double()  # no layer has more features than neurons
    fam = objective(net, ALL, estimator="hutchinson")

    def value():
        fam.seek(0)
        return fam(*batch).penalty

    check_gradient(value, net)


def test_layers_that_are_probed_share_their_products(net, batch, monkeypatch):
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (calls.append(1), grad(*a, **k))[1])
    counts = {}
    for layers in (ALL[:1], ALL):
        fam = objective(net, layers, estimator="hutchinson")
        fam(*batch)
        calls.clear()
        fam(*batch)
        counts[len(layers)] = len(calls)
    assert counts[1] == counts[3] == 2  # the slope, and one product


def test_layers_with_and_without_closed_form(net, batch):
    loss = nn.CrossEntropyLoss()
    together = objective(net, ["2", "4"], loss=loss, probes=9).measure(*batch)
    parts = [
        objective(net, layer, loss=loss, estimator="columns").measure(*batch)
        for layer in ("2", "4")
    ]
    torch.testing.assert_close(together.per_sample, parts[0].per_sample + parts[1].per_sample)
    explained = objective(net, ["2", "4"], loss=loss, probes=9)
    explained(*batch)
    first, second = explained.explain().splitlines()
    assert first.startswith("layer '2' (5 x 6): columns, exact, and as cheap")
    assert second.startswith("layer '4' (3 x 5): closed_form, exact and free")


@pytest.mark.parametrize("layer", [[], ["0", "0"]])
def test_no_layer_or_one_twice_is_refused(net, layer):
    with pytest.raises(FlatnessError, match="layer must name one or more different layers"):
        objective(net, layer)


def traces(net, batch, layer):
    """Tr(H_st) of all pairs of neurons, by torch."""
    weight = net.get_submodule(layer).weight.detach()

    def loss(w):
        moved = {f"{layer}.weight": w}
        return smooth(torch.func.functional_call(net, moved, batch[:1]), batch[1])

    return torch.einsum("sktk->st", torch.func.hessian(loss)(weight))


@pytest.mark.parametrize("estimator", ["columns", "exact", "auto"])
@pytest.mark.parametrize("quantity", ["relative_flatness", "simplified"])
def test_as_released_are_the_authors_norms_and_the_first_term(net, batch, quantity, estimator):
    """Neuron-wise over m; the norm, not its square; the Hessian detached (PAPER.md 4)."""
    weight = net[2].weight
    constant = traces(net, batch, "2")
    if quantity == "relative_flatness":
        wanted = ((weight @ weight.T) * constant).sum() / weight.shape[1]
    else:
        wanted = weight.norm() * constant.trace()
    probes = 6 if estimator == "auto" else 1
    fam = objective(
        net, "2", quantity=quantity, as_released=True, estimator=estimator, probes=probes
    )
    penalty = fam(*batch).penalty
    exact = estimator != "auto" or "columns" in fam.explain()
    if exact:
        torch.testing.assert_close(penalty, wanted)
        found = torch.autograd.grad(penalty, weight, retain_graph=True)[0]
        torch.testing.assert_close(found, torch.autograd.grad(wanted, weight)[0])
    others = torch.autograd.grad(penalty, [net[0].weight, net[4].weight], materialize_grads=True)
    assert not any(g.any() for g in others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"antithetic": True}, r"antithetic=True needs estimator=\"noise\", got 'auto'"),
        (
            {"quantity": "max_eigenvalue", "estimator": "columns"},
            r"has its own method\. Leave estimator at \"auto\", got 'columns'",
        ),
        (
            {"quantity": "max_eigenvalue", "as_released": True},
            "eigenvalue of the released code does not run",
        ),
        ({"estimator": "noise", "gradient": "weights_only"}, "trains a noisy network"),
        ({"estimator": "noise", "as_released": True}, "trains a noisy network"),
        ({"gradient": "half"}, "gradient must be one of 'full', 'weights_only', got 'half'"),
        ({"quantity": "trace"}, "quantity must be one of 'relative_flatness', .*got 'trace'"),
        ({"distribution": "cauchy"}, "distribution must be one of .*got 'cauchy'"),
        ({"samples": 0}, "samples must be a whole number of at least 1 or 'auto' or 'all', got 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(net, options, message):
    with pytest.raises(FlatnessError, match=message):
        objective(net, "2", **options)
