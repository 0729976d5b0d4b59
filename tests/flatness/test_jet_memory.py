"""Jets store little for the backward pass, and so does the analysis of a network before them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from famseg.flatness import FAM
from famseg.flatness._jets._graph import recomputed
from famseg.flatness._jets._norm import by_definition, normalized
from famseg.flatness._jets._slope import by_definition as sloped_by_definition
from famseg.flatness._jets._slope import sloped


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    ("shape", "dims"), [((3, 2, 5), (2,)), ((4, 3, 2), (-2, -1)), ((4, 3, 5), (0, 2))]
)
def test_the_jet_of_a_normalization_has_the_derivatives_of_its_definition(shape, dims, parts):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    jet = torch.randn((parts, *shape), dtype=torch.float64, requires_grad=True)

    def function(x, jet):
        return normalized(x, jet, dims, 1e-2)

    torch.testing.assert_close(function(x, jet), by_definition(x, jet, dims, 1e-2))
    assert torch.autograd.gradcheck(function, (x, jet))
    assert torch.autograd.gradgradcheck(function, (x, jet))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("shape", [(1,), (3, 1)])
def test_the_jet_of_two_slopes_has_the_derivatives_of_its_definition(shape, parts):
    torch.manual_seed(0)
    jet = torch.randn((parts, 4, 3, 5), dtype=torch.float64, requires_grad=True)
    weight = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    positive = torch.randn(4, 3, 5) > 0

    def function(jet, weight):
        return sloped(jet, positive, weight)

    wanted = sloped_by_definition(jet, positive, weight)
    torch.testing.assert_close(function(jet, weight), wanted, rtol=1e-15, atol=1e-15)
    assert torch.autograd.gradcheck(function, (jet, weight))
    assert torch.autograd.gradgradcheck(function, (jet, weight))


def test_what_is_computed_again_may_get_one_tensor_twice_and_constants():
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    constant = torch.randn(3, dtype=torch.float64)

    def function(x):
        return recomputed(lambda one, two, c: one.exp() * two * c, x, x, constant)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


class Decoder(nn.Module):
    """A wide layer in front of images, whose tensors take almost all of the memory."""

    def __init__(self):
        super().__init__()
        self.body, self.layer = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.tail = nn.Sequential(
            *(nn.GroupNorm(8, 8), nn.PReLU(), nn.Conv2d(8, 8, 3, padding=1)),
            *(nn.GroupNorm(8, 8), nn.PReLU(), nn.Conv2d(8, 1, 3, padding=1)),
        )

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.tail(self.layer(torch.tanh(self.body(x) + h)))


def brier(z, y):
    return ((z.sigmoid() - y) ** 2).mean()


def peak(run):
    """Peak size in bytes of the tensors of a run."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def test_a_penalized_step_on_a_part_takes_little_more_memory_than_a_plain_one():
    torch.manual_seed(0)
    model, x = Decoder(), torch.randn(4, 1, 96, 96)
    y = (x > 0).float()
    plain = peak(lambda: brier(model(x), y).backward())
    fam = FAM(model, layer="layer", loss=brier, weight=1e-3, every=1)

    def run():
        fam(x, y).total.backward()

    first, second = peak(run), peak(run)
    third = peak(run)  # the pace looks at steps number 1, 2 and 4
    assert fam._planner.plan.jets
    assert fam._pace.looked == 3
    assert max(second, third) < 1.4 * plain
    assert first < 1.55 * plain


def test_the_gradient_is_the_same_where_its_graph_is_kept():
    torch.manual_seed(0)
    model, x = Decoder().double(), torch.randn(4, 1, 4, 4).double()
    y = (x > 0).double()
    fam = FAM(model, layer="layer", loss=brier, weight=0.5, estimator="hutchinson", samples=2)
    total = fam(x, y).total
    assert fam._planner.plan.jets
    parameters = list(model.parameters())
    with_graph = torch.autograd.grad(total, parameters, create_graph=True)
    assert all(slope.requires_grad for slope in with_graph)
    for one, other in zip(with_graph, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=1e-9, atol=1e-12)
