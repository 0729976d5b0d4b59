from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from famseg.flatness import FlatnessError
from famseg.flatness._estimators._eigenvalue import largest_eigenvalue, max_eigenvalue
from famseg.flatness._tracing._layer import find_layer
from famseg.flatness._tracing._operator import Operator
from famseg.flatness._tracing._pass import Task, differentiable

DOUBLE = torch.float64
TARGETS = torch.arange(15, dtype=DOUBLE).reshape(5, 3).cos()


def concave(z, y):
    return -F.mse_loss(z, y)


def flat(z, y):
    return (z * y).sum()


def coupled(z, y):
    """A loss in which the samples of a batch interact."""
    return (z.mean(0) - y[0]).square().sum() - 0.3 * z.var(0).sum()


def convolution(layer):
    return nn.Sequential(nn.Conv2d(1, 4, 2), nn.Tanh(), layer, nn.Tanh(), nn.Flatten())


NETWORKS = {
    "head": ("4", F.cross_entropy),
    "hidden": ("2", F.cross_entropy),
    "first": ("0", F.mse_loss),
    "concave": ("4", concave),
    "concave hidden": ("2", concave),
    "coupled": ("2", coupled),
}
CONVOLUTIONS = {
    "plain": nn.Conv2d(4, 2, 2, stride=2, padding=1),
    "grouped": nn.Conv2d(4, 6, 2, groups=2),
    "transposed": nn.ConvTranspose2d(4, 2, 2, groups=2),
}


def passed(model, layer, loss, inputs, targets):
    run = differentiable(Task(model, {layer: find_layer(model, layer)}, loss), inputs, targets)
    return run, run.uses[0]


class Dense:
    """The Hessian with respect to a layer's weight, as a matrix that can be differentiated."""

    def __init__(self, model, layer, loss, inputs, targets):
        self.parameters = dict(model.named_parameters())
        self.name = f"{layer}.weight" if layer else "weight"
        self.weight = self.parameters[self.name]

        def of_weight(weight):
            moved = {**self.parameters, self.name: weight}
            return loss(functional_call(model, moved, (inputs,)), targets)

        size = self.weight.numel()
        hessian = torch.autograd.functional.hessian(of_weight, self.weight, create_graph=True)
        self.matrix = hessian.reshape(size, size)

    def largest(self):
        return torch.linalg.eigvalsh(self.matrix)[-1]

    def measure(self, layer):
        """Sum over neurons, each given by the indices of its weights."""
        numbers = torch.arange(self.weight.numel()).view_as(self.weight)
        if isinstance(layer, nn.ConvTranspose2d):
            inputs, groups = self.weight.shape[0] // layer.groups, layer.groups
            rows = [
                numbers[g * inputs : (g + 1) * inputs, s].flatten()
                for g in range(groups)
                for s in range(self.weight.shape[1])
            ]
        else:
            rows = list(numbers.flatten(1))
        flat_weight = self.weight.flatten()
        return sum(
            flat_weight[r].square().sum() * torch.linalg.eigvalsh(self.matrix[r][:, r])[-1]
            for r in rows
        )

    def gradients(self, value):
        return torch.autograd.grad(value, list(self.parameters.values()), materialize_grads=True)


@pytest.mark.parametrize("interact", [False, True], ids=["separate", "lanczos"])
@pytest.mark.parametrize("samples", [2, 5], ids=["wide", "tall"])
@pytest.mark.parametrize(("layer", "loss"), NETWORKS.values(), ids=NETWORKS)
def test_is_the_sum_over_the_blocks_of_the_dense_hessian(
    net, batch, layer, loss, samples, interact
):
    if loss is coupled and not interact:
        pytest.skip("the separate form is for samples that do not meet")
    targets = batch[1] if loss is F.cross_entropy else TARGETS
    inputs, targets = batch[0][:samples], targets[:samples]
    dense = Dense(net, layer, loss, inputs, targets)
    run, use = passed(net, layer, loss, inputs, targets)
    found = max_eigenvalue(run, use, interact=interact, tolerance=1e-10)
    wanted = dense.measure(net.get_submodule(layer))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(dense.gradients(found), dense.gradients(wanted))


@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_is_the_sum_over_the_neurons_of_a_convolution(layer):
    model = convolution(layer).double()
    inputs = torch.randn(3, 1, 4, 4, dtype=DOUBLE)
    targets = torch.randn_like(model(inputs))
    dense = Dense(model, "2", F.mse_loss, inputs, targets)
    run, use = passed(model, "2", F.mse_loss, inputs, targets)
    found = max_eigenvalue(run, use, interact=False, tolerance=1e-10)
    wanted = dense.measure(layer)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(dense.gradients(found), dense.gradients(wanted))


def test_positions_of_a_sequence_meet():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Softmax(1)).double()
    inputs, targets = torch.randn(2, 5, 3, dtype=DOUBLE), torch.randn(2, 5, 2, dtype=DOUBLE)
    dense = Dense(model, "2", F.mse_loss, inputs, targets)
    run, use = passed(model, "2", F.mse_loss, inputs, targets)
    found = max_eigenvalue(run, use, interact=False, tolerance=1e-10)
    torch.testing.assert_close(found, dense.measure(model[2]))


@pytest.mark.parametrize("interact", [False, True])
def test_gradient_against_differences_of_the_value(net, batch, check_gradient, interact):
    def value():
        run, use = passed(net, "2", F.cross_entropy, *batch)
        return max_eigenvalue(run, use, interact=interact, tolerance=1e-10)

    check_gradient(value, net)


@pytest.mark.parametrize("interact", [False, True])
def test_weights_only_moves_the_norms_alone(net, batch, interact):
    run, use = passed(net, "2", F.cross_entropy, *batch)
    full = max_eigenvalue(run, use, interact=interact)
    found = max_eigenvalue(run, use, interact=interact, gradient="weights_only")
    torch.testing.assert_close(found, full, rtol=1e-10, atol=0)
    gradients = dict(
        zip(
            dict(net.named_parameters()),
            torch.autograd.grad(found, list(net.parameters()), allow_unused=True),
            strict=True,
        )
    )
    assert [name for name, g in gradients.items() if g is not None] == ["2.weight"]
    # 2 w_s lambda_s: along w_s that is twice the neuron's share of the value.
    along = (gradients["2.weight"] * net[2].weight).sum()
    torch.testing.assert_close(along, 2 * found)


@pytest.mark.parametrize("interact", [False, True])
def test_a_loss_without_curvature_has_none(net, batch, interact):
    run, use = passed(net, "4", flat, batch[0], TARGETS)
    found = max_eigenvalue(run, use, interact=interact)
    assert found.item() == 0
    gradients = torch.autograd.grad(found, list(net.parameters()), allow_unused=True)
    assert all(g is None or g.eq(0).all() for g in gradients)


@pytest.mark.parametrize("interact", [False, True])
def test_a_repeated_top_eigenvalue(interact):
    # Features 2 I: the block of each neuron is 2 / (n d) * 4 I, any vector is a top eigenvector.
    model = nn.Linear(3, 2, bias=False).double()
    inputs, targets = 2 * torch.eye(3, dtype=DOUBLE), torch.zeros(3, 2, dtype=DOUBLE)
    run, use = passed(model, "", F.mse_loss, inputs, targets)
    found = max_eigenvalue(run, use, interact=interact)
    torch.testing.assert_close(found, model.weight.square().sum() * 4 / 3)
    (gradient,) = torch.autograd.grad(found, model.weight)
    torch.testing.assert_close(gradient, 2 * model.weight * 4 / 3)


def test_off_the_span_of_few_concave_samples_the_largest_is_zero():
    model = nn.Linear(4, 2).double()
    inputs, targets = torch.randn(2, 4, dtype=DOUBLE), torch.randn(2, 2, dtype=DOUBLE)
    run, use = passed(model, "", concave, inputs, targets)
    assert max_eigenvalue(run, use, interact=False).item() == 0


@pytest.mark.parametrize("interact", [False, True])
def test_rescaling_the_layer_does_not_move_it(net, batch, interact):
    """The curse of reparameterization: c W on features / c."""
    run, use = passed(net, "2", F.cross_entropy, *batch)
    before = max_eigenvalue(run, use, interact=interact)
    with torch.no_grad():
        net[2].weight.mul_(100)

    class Shrunk(nn.Module):
        def forward(self, x):
            return x.tanh() / 100

    net[1] = Shrunk()
    run, use = passed(net, "2", F.cross_entropy, *batch)
    torch.testing.assert_close(
        max_eigenvalue(run, use, interact=interact), before, rtol=1e-6, atol=0
    )


def test_curvature_that_is_not_finite_gives_nan(net, batch):
    run, use = passed(net, "4", lambda z, y: F.cross_entropy(z * torch.inf, y), *batch)
    assert max_eigenvalue(run, use, interact=False).isnan()
    assert max_eigenvalue(run, use, interact=True).isnan()


def test_too_few_iterations_are_told_by_a_warning(net, batch):
    run, use = passed(net, "2", F.cross_entropy, *batch)
    with pytest.warns(RuntimeWarning, match=r"layer '2': .* did not converge in 2 iterations"):
        max_eigenvalue(run, use, interact=True, max_iterations=2)


@pytest.mark.parametrize("samples", [2, 5])
@pytest.mark.parametrize(("layer", "loss"), NETWORKS.values(), ids=NETWORKS)
def test_largest_is_that_of_the_dense_hessian(net, batch, layer, loss, samples):
    targets = batch[1] if loss is F.cross_entropy else TARGETS
    inputs, targets = batch[0][:samples], targets[:samples]
    dense = Dense(net, layer, loss, inputs, targets)
    run, use = passed(net, layer, loss, inputs, targets)
    found = largest_eigenvalue(run, use, tolerance=1e-10, create_graph=True)
    assert found.converged
    torch.testing.assert_close(found.value, dense.largest())
    gradients = dense.gradients(found.value), dense.gradients(dense.largest())
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_largest_of_a_convolution(layer):
    model = convolution(layer).double()
    inputs = torch.randn(3, 1, 4, 4, dtype=DOUBLE)
    targets = torch.randn_like(model(inputs))
    run, use = passed(model, "2", F.mse_loss, inputs, targets)
    found = largest_eigenvalue(run, use, tolerance=1e-10)
    torch.testing.assert_close(
        found.value, Dense(model, "2", F.mse_loss, inputs, targets).largest().detach()
    )
    assert not found.value.requires_grad


def test_largest_says_that_it_did_not_converge(net, batch):
    run, use = passed(net, "2", F.cross_entropy, *batch)
    found = largest_eigenvalue(run, use, max_iterations=2)
    assert not found.converged
    assert found.iterations == 2
    wanted = Dense(net, "2", F.cross_entropy, *batch).largest().item()
    assert wanted - 10 * found.residual < found.value.item() < wanted


def test_largest_takes_its_start_from_the_generator_and_leaves_the_global_one(net, batch):
    run, use = passed(net, "2", F.cross_entropy, *batch)
    state = torch.get_rng_state()
    first, again, other = (
        largest_eigenvalue(run, use, max_iterations=2, generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert first.value != other.value


@pytest.mark.parametrize("option", [{"tolerance": 0.0}, {"max_iterations": 0}])
def test_options_out_of_range_are_refused(net, batch, option):
    run, use = passed(net, "2", F.cross_entropy, *batch)
    with pytest.raises(
        FlatnessError, match="needs a tolerance above 0 and max_iterations of at least 1"
    ):
        largest_eigenvalue(run, use, **option)


def test_a_wide_head_needs_no_dense_hessian():
    head = nn.Linear(512, 200)
    run, use = passed(head, "", F.cross_entropy, torch.randn(16, 512), torch.arange(16))
    max_eigenvalue(run, use, interact=False).backward()
    assert head.weight.grad.isfinite().all()
    assert isinstance(use.operator, Operator)
