from __future__ import annotations

import pytest
import torch

from famseg.flatness import cross_entropy_flatness
from famseg.flatness._estimators import _softmax_spread
from famseg.flatness._estimators._softmax_spread import softmax_flatness


@pytest.fixture(params=["pairs", "likeliest"])
def way(request, monkeypatch):
    """Each of the two computations, whatever the sizes."""
    monkeypatch.setattr(_softmax_spread, "_by_pairs", lambda *_: request.param == "pairs")
    return request.param


def leaves(n=4, d=3, m=5, *, sure=0.0, dtype=torch.float64):
    logits = torch.randn(n, d)
    logits[:, 1] += sure
    tensors = torch.randn(n, m), logits, torch.randn(d, m), torch.rand(n) + 0.5
    return [x.to(dtype).requires_grad_() for x in tensors]


def by_the_sum(features, logits, weight, scale, *, simplified):
    """Term by term: the trace of W^T (diag p - p p^T) W, or |W|^2 times that of the Hessian."""
    values = []
    for phi, z, a in zip(features, logits, scale, strict=True):
        p = z.softmax(0)
        hessian = torch.diag(p) - torch.outer(p, p)
        trace = torch.trace(weight.T @ hessian @ weight)
        if simplified:
            trace = weight.square().sum() * torch.trace(hessian)
        values.append(a * phi.square().sum() * trace)
    return torch.stack(values)


@pytest.mark.parametrize("simplified", [False, True])
@pytest.mark.usefixtures("way")
def test_is_the_trace_with_its_first_and_second_derivatives(simplified):
    inputs = leaves()
    found = softmax_flatness(*inputs, simplified=simplified)
    wanted = by_the_sum(*inputs, simplified=simplified)
    torch.testing.assert_close(found, wanted)
    probe = torch.randn(4, dtype=torch.float64)
    slopes = [torch.autograd.grad(v @ probe, inputs, create_graph=True) for v in (found, wanted)]
    torch.testing.assert_close(*slopes)
    directions = [torch.randn_like(x) for x in inputs]
    bent = [
        torch.autograd.grad(
            sum((g * v).sum() for g, v in zip(gradient, directions, strict=True)), inputs
        )
        for gradient in slopes
    ]
    torch.testing.assert_close(*bent)


@pytest.mark.parametrize("simplified", [False, True])
@pytest.mark.usefixtures("way")
def test_gradient_without_a_graph_is_that_with_one(simplified):
    inputs = leaves()
    found, wanted = (
        torch.autograd.grad(
            softmax_flatness(*inputs, simplified=simplified).square().sum(),
            inputs,
            create_graph=create_graph,
        )
        for create_graph in (False, True)
    )
    torch.testing.assert_close(found, wanted)
    assert not any(g.requires_grad for g in found)


@pytest.mark.parametrize("simplified", [False, True])
@pytest.mark.parametrize("sure", [0.0, 10.0, 28.0, 60.0])
def test_float32_keeps_its_digits_where_the_network_is_sure(way, sure, simplified):
    inputs = leaves(sure=sure)
    with torch.no_grad():
        inputs[2].add_(10)  # what the rows share must not cost digits
    p = inputs[1].softmax(1)
    assert sure < 28 or (1 - p[:, 1]).max() < 1e-10
    single = [x.detach().float().requires_grad_() for x in inputs]
    double = [x.detach().double().requires_grad_() for x in single]  # the very same numbers
    found, wanted = (softmax_flatness(*x, simplified=simplified) for x in (single, double))
    assert (found > 0).all()
    torch.testing.assert_close(found.double(), wanted, rtol=3e-5, atol=0)
    slopes = torch.autograd.grad(found.sum(), single)
    expected = torch.autograd.grad(wanted.sum(), double)
    for slope, right in zip(slopes, expected, strict=True):
        assert (slope - right).abs().max() < 3e-5 * right.abs().max(), way


@pytest.mark.usefixtures("way")
def test_autocast_costs_no_digits():
    head, features = torch.nn.Linear(5, 3), torch.randn(301, 5)
    targets = torch.arange(301) % 4  # a quarter is ignored: a share that half precision rounds
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features)
        assert logits.dtype == torch.bfloat16
        found = cross_entropy_flatness(features, logits, targets, head.weight, ignore_index=3)
        (slope,) = torch.autograd.grad(found.sum(), head.weight)  # under autocast, as some do it
    leaf = head.weight.detach().double().requires_grad_()
    z = torch.nn.functional.linear(features.double(), leaf, head.bias.double())
    z = z + (logits.double() - z).detach()  # the rounded outputs, and their derivative
    wanted = cross_entropy_flatness(features.double(), z, targets, leaf, ignore_index=3)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)
    (expected,) = torch.autograd.grad(wanted.sum(), leaf)
    # The derivative of the outputs themselves has the precision of autocast.
    assert (slope - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.usefixtures("way")
def test_equal_rows_have_no_spread():
    features, logits, weight, scale = leaves(d=30, dtype=torch.float32)
    weight = weight[:1].detach().expand(30, -1).clone().requires_grad_()
    found = softmax_flatness(features, logits, weight, scale, simplified=False)
    (slope,) = torch.autograd.grad(found.sum(), weight)
    assert found.abs().max() < 1e-10
    assert slope.abs().max() < 1e-5


def test_nothing_is_computed_for_what_needs_no_gradient():
    features, logits, weight, scale = (x.detach() for x in leaves())
    weight.requires_grad_()
    values = softmax_flatness(features, logits, weight, scale, simplified=False)
    assert [edge[0] is None for edge in values.grad_fn.next_functions] == [True, True, False, True]
    values.sum().backward()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("n", "d", "m", "pairs"),
    [
        (1, 10, 128, True),  # small: the number of operations decides
        (64, 100, 512, True),
        (256, 100, 2048, True),
        (64, 1000, 512, False),  # 1000 classes of 64 samples: the matrix of pairs costs more
        (32, 50_000, 768, False),
        (4096, 1000, 2048, True),  # nearly as many classes, and samples by the thousand
    ],
)
def test_many_classes_take_no_matrix_of_pairs(n, d, m, pairs):
    assert _softmax_spread._by_pairs(n, d, m) is pairs


def test_a_vocabulary_fits_into_memory():
    inputs = leaves(2, 50_000, 3, dtype=torch.float32)  # 10 GB, were there a matrix of pairs
    values = softmax_flatness(*inputs, simplified=False)
    values.sum().backward()
    assert inputs[2].grad.isfinite().all()


def per_sample(features, logits, weight, targets):
    return cross_entropy_flatness(features, logits, targets, weight)


def test_function_transforms_see_through():
    features, logits, weight, _ = (x.detach() for x in leaves())
    targets = torch.tensor([0, 2, 1, 1])

    def mean(weight):
        return per_sample(features, logits, weight, targets).mean()

    wanted = torch.autograd.functional.jacobian(mean, weight)
    torch.testing.assert_close(torch.func.grad(mean)(weight), wanted)
    direction = torch.randn_like(weight)
    value, slope = torch.func.jvp(mean, (weight,), (direction,))
    torch.testing.assert_close(value, mean(weight))
    torch.testing.assert_close(slope, (wanted * direction).sum())
    with torch.autograd.forward_ad.dual_level():
        dual = mean(torch.autograd.forward_ad.make_dual(weight, direction))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, slope)
    stack = torch.stack([weight, 2 * weight])
    torch.testing.assert_close(
        torch.vmap(mean)(stack), torch.stack([mean(weight), mean(2 * weight)])
    )


@pytest.mark.slow  # the compiler alone takes seconds to import
def test_compiles_without_a_graph_break():
    features, logits, weight, _ = leaves()
    targets = torch.tensor([0, 2, 1, 1])

    def mean(weight):
        return per_sample(features, logits, weight, targets).mean()

    found = torch.compile(mean, backend="aot_eager", fullgraph=True)(weight)
    wanted = mean(weight)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, weight), torch.autograd.grad(wanted, weight)
    )
