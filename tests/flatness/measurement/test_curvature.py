from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from famseg.flatness import (
    FAM,
    FlatnessError,
    LayerCurvature,
    LayerError,
    LayerNotFoundError,
    rescaled_layer,
)
from famseg.flatness import report as flatness_report

DOUBLE = torch.float64


def mlp():
    layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
    return nn.Sequential(*layers)


def convolution(layer):
    return nn.Sequential(nn.Conv2d(1, 4, 2), nn.Tanh(), layer, nn.Tanh(), nn.Flatten())


def coupled(z, y):
    """A loss in which the samples of a batch interact."""
    return (z.mean(0) - y[0]).square().sum() - 0.3 * z.var(0).sum()


def normalized():
    """Batch norm behind the layer, with running statistics other than the default."""
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    model.double().train()
    model(3 + 2 * torch.randn(20, 4, dtype=DOUBLE))
    return model


CASES = {
    "head": (mlp, "4", F.cross_entropy, (4,)),
    "more neurons than features": (mlp, "0", F.cross_entropy, (4,)),
    "more features than neurons": (mlp, "2", F.cross_entropy, (4,)),
    "samples that meet": (mlp, "2", coupled, (4,)),
    "batch norm": (normalized, "0", F.cross_entropy, (4,)),
    "tokens": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Softmax(1)),
        "2",
        F.mse_loss,
        (3, 3),
    ),
    "convolution": (
        lambda: convolution(nn.Conv2d(4, 2, 2, stride=2, padding=1)),
        "2",
        F.mse_loss,
        (1, 4, 4),
    ),
    "groups": (lambda: convolution(nn.Conv2d(4, 6, 2, groups=2)), "2", F.mse_loss, (1, 4, 4)),
    "transposed": (
        lambda: convolution(nn.ConvTranspose2d(4, 2, 2, groups=2)),
        "2",
        F.mse_loss,
        (1, 4, 4),
    ),
}


class Case:
    """A network with the Hessian of one layer and with the matrix of the definition."""

    def __init__(self, build, layer, loss, shape, samples=5):
        self.model, self.layer, self.loss = build().double().train(), layer, loss
        self.inputs = torch.randn(samples, *shape, dtype=DOUBLE)
        with torch.no_grad():
            outputs = copy.deepcopy(self.model).eval()(self.inputs)
        self.targets = torch.randn_like(outputs)
        if loss is F.cross_entropy:
            self.targets = torch.arange(samples) % 3
        self.weight = self.model.get_submodule(layer).weight
        self.size = self.weight.numel()

    @property
    def data(self):
        return self.inputs, self.targets

    def of_weight(self, weight, batch=None):
        inputs, targets = batch or self.data
        network = copy.deepcopy(self.model).eval()
        return self.loss(
            functional_call(network, {f"{self.layer}.weight": weight}, (inputs,)), targets
        )

    def hessian(self, batch=None):
        weight = self.weight.detach()
        found = torch.func.hessian(lambda w: self.of_weight(w, batch))(weight)
        return found.reshape(self.size, self.size).detach()

    def gram(self):
        """(W W^T x I): <w_s, w_t> for each two weights of one column of neurons s and t."""
        numbers = torch.arange(self.size).view_as(self.weight)
        layer, flat = self.model.get_submodule(self.layer), self.weight.detach().flatten()
        if isinstance(layer, nn.ConvTranspose2d):
            groups = [part.transpose(0, 1).flatten(1) for part in numbers.chunk(layer.groups)]
        else:
            groups = [part.flatten(1) for part in numbers.chunk(getattr(layer, "groups", 1))]
        matrix = torch.zeros(self.size, self.size, dtype=DOUBLE)
        for rows in groups:
            for s in rows:
                for t in rows:
                    matrix[s, t] = flat[s] @ flat[t]
        return matrix

    def defined(self):
        return self.gram() @ self.hessian()

    def curvature(self, data=None, **options):
        return LayerCurvature(self.model, data or self.data, self.loss, layer=self.layer, **options)


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    return Case(*request.param)


@pytest.fixture
def hidden():
    return Case(*CASES["more features than neurons"])


def whole(curvature):
    return curvature @ torch.eye(curvature.shape[0], dtype=curvature.dtype)


def root_of(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T


def test_products_are_those_of_the_dense_matrices(case):
    curvature, gram, hessian = case.curvature(), case.gram(), case.hessian()
    units = torch.eye(case.size, dtype=DOUBLE).reshape(-1, *case.weight.shape)
    defined = curvature.product_as_defined(units).flatten(1).T
    torch.testing.assert_close(defined, gram @ hessian, rtol=1e-9, atol=1e-12)
    root = root_of(gram)
    torch.testing.assert_close(whole(curvature), root @ hessian @ root, rtol=1e-6, atol=1e-8)


def test_is_symmetric_with_the_eigenvalues_of_the_definition(case):
    matrix = whole(case.curvature())
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-13 * matrix.abs().max().item())
    wanted = torch.linalg.eigvals(case.defined())
    assert wanted.imag.abs().max() < 1e-6
    found = torch.linalg.eigvalsh(matrix)
    torch.testing.assert_close(found, wanted.real.sort().values, rtol=1e-6, atol=1e-6)


def test_the_trace_is_relative_flatness(case):
    found = case.curvature().trace(products=case.size)
    assert (found.method, found.standard_error, found.products) == ("exact", 0, case.size)
    assert found.value == pytest.approx(case.defined().trace().item(), rel=1e-10)
    fam = FAM(case.model, layer=case.layer, loss=case.loss, weight=1, estimator="exact")
    assert found.value == pytest.approx(fam.measure(*case.data).kappa.item(), rel=1e-10)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_the_trace_is_unbiased(hidden, method):
    curvature, exact = hidden.curvature(), hidden.defined().trace().item()
    source = torch.Generator().manual_seed(3)
    found = [curvature.trace(method, products=12, generator=source) for _ in range(60)]
    values = torch.tensor([one.value for one in found])
    assert abs(values.mean().item() - exact) < 5 * values.std().item() / math.sqrt(60)
    errors = torch.tensor([one.standard_error for one in found]).square().mean().sqrt().item()
    assert 0.7 < errors / values.std().item() < 1.9
    assert {(one.method, one.products) for one in found} == {(method, 12)}


def test_probes_are_always_the_same_without_a_generator(hidden):
    curvature, state = hidden.curvature(), torch.get_rng_state()
    first = curvature.trace(products=8)
    assert first == curvature.trace(products=8)
    assert first != curvature.trace(products=8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("which", ["magnitude", "largest", "smallest"])
def test_eigenvalues_are_those_of_the_dense_matrix(case, which):
    wanted = torch.linalg.eigvals(case.defined()).real
    order = {"magnitude": torch.abs, "largest": lambda x: x, "smallest": torch.neg}[which]
    wanted = wanted[order(wanted).argsort(descending=True)[:3]]
    found = case.curvature().eigenvalues(3, which=which, tolerance=1e-8)
    assert found.converged.all()
    torch.testing.assert_close(order(found.values), order(wanted), rtol=1e-6, atol=1e-8)
    assert found.vectors.shape == found.directions.shape == (3, *case.weight.shape)


def test_eigenvectors_and_the_directions_along_which_the_loss_bends(hidden):
    found = hidden.curvature().eigenvalues(2, tolerance=1e-9)
    x, y = found.vectors.flatten(1), found.directions.flatten(1)
    torch.testing.assert_close(x @ x.T, torch.eye(2, dtype=DOUBLE))
    torch.testing.assert_close(hidden.defined() @ y.T, y.T * found.values, rtol=1e-6, atol=1e-9)
    weight, step = hidden.weight.detach(), 1e-4
    with torch.no_grad():
        for value, direction in zip(found.values, found.directions, strict=True):
            ends = [hidden.of_weight(weight + by * direction) for by in (step, -step)]
            bend = (sum(ends) - 2 * hidden.of_weight(weight)) / step**2
            assert bend.item() == pytest.approx(value.item(), rel=1e-4)


def test_a_direction_is_a_relative_change_of_the_weight_of_unit_norm(hidden):
    (direction,) = hidden.curvature().eigenvalues(1).directions
    relative = torch.linalg.pinv(hidden.weight.detach()) @ direction  # W Z = direction
    torch.testing.assert_close(hidden.weight.detach() @ relative, direction)
    assert relative.norm().item() == pytest.approx(1)


def test_repeated_eigenvalues_are_found_as_often_as_they_are_there():
    # Squared error and features of unit covariance: H is a multiple of the identity.
    model = nn.Linear(3, 3, bias=False).double()
    nn.init.orthogonal_(model.weight)
    data = 2 * torch.eye(3, dtype=DOUBLE), torch.zeros(3, 3, dtype=DOUBLE)
    found = LayerCurvature(model, data, nn.MSELoss(), layer="").eigenvalues(9)
    torch.testing.assert_close(found.values, torch.full((9,), 2 / 9 * 4, dtype=DOUBLE))


def test_the_moments_of_the_density_are_traces_of_powers(hidden):
    defined = hidden.defined()
    found = hidden.curvature().spectral_density(probes=100, steps=4)
    assert (found.size, found.products) == (30, 400)
    for power in range(1, 8):
        value, error = found.mean(lambda x, power=power: x**power)
        wanted = torch.linalg.matrix_power(defined, power).trace().item() / 30
        assert abs(value - wanted) < 5 * error
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1, abs=1e-6)


def test_all_of_the_quantities(hidden):
    norm, hessian = hidden.weight.detach().square().sum(), hidden.hessian()
    plain = whole(hidden.curvature(quantity="hessian"))
    torch.testing.assert_close(plain, hessian, rtol=1e-9, atol=1e-12)
    simplified = hidden.curvature(quantity="simplified")
    torch.testing.assert_close(whole(simplified), norm * hessian, rtol=1e-9, atol=1e-12)
    units = torch.eye(30, dtype=DOUBLE).reshape(-1, 5, 6)
    defined = simplified.product_as_defined(units).flatten(1)
    torch.testing.assert_close(defined, norm * hessian, rtol=1e-9, atol=1e-12)


def test_agrees_with_the_report_on_several_batches(hidden):
    batches = [(hidden.inputs[:2], hidden.targets[:2]), (hidden.inputs[2:], hidden.targets[2:])]
    row = flatness_report(hidden.model, batches, hidden.loss, layers=["2"], probes=8)["2"]
    assert row.probes == 0  # exact
    relative, plain = (
        hidden.curvature(batches, quantity=q) for q in ("relative_flatness", "hessian")
    )
    assert relative.trace(products=30).value == pytest.approx(row.kappa, rel=1e-9)
    assert plain.trace(products=30).value == pytest.approx(row.trace, rel=1e-9)
    largest = plain.eigenvalues(which="largest", tolerance=1e-6).values.item()
    assert largest == pytest.approx(row.largest_eigenvalue, rel=0.03)


def test_several_batches_are_the_mean_over_their_samples(case):
    batches = [tuple(part[rows] for part in case.data) for rows in (slice(0, 2), slice(2, 5))]
    mean = 0.4 * case.hessian(batches[0]) + 0.6 * case.hessian(batches[1])
    root = root_of(case.gram())
    found = whole(case.curvature(batches))
    torch.testing.assert_close(found, root @ mean @ root, rtol=1e-6, atol=1e-8)


def test_several_batches_are_run_once_for_each_stack(hidden):
    calls = []

    def count(module, _):
        calls.extend([1] * (module is hidden.model))

    # A global module hook, since hooks of the model are restored after a pass.
    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        curvature = hidden.curvature(DataLoader(TensorDataset(*hidden.data), 2))
        calls.clear()
        curvature.matvec(torch.randn(7, 5, 6, dtype=DOUBLE))
        assert len(calls) == 3
        one = hidden.curvature()
        calls.clear()
        one.matvec(torch.randn(7, 5, 6, dtype=DOUBLE))
        assert not calls
    finally:
        hook.remove()


def test_does_not_depend_on_the_scale_of_the_layer(hidden):
    before = hidden.curvature().eigenvalues(3, tolerance=1e-8).values
    with rescaled_layer(hidden.model, "2", 8.0):
        after = hidden.curvature().eigenvalues(3, tolerance=1e-8).values
        plain = hidden.curvature(quantity="hessian").trace(products=30).value
    torch.testing.assert_close(after, before, rtol=1e-8, atol=0)
    assert plain == pytest.approx(hidden.hessian().trace().item() / 64)


def test_shapes_of_vectors(hidden):
    curvature = hidden.curvature()
    assert (curvature.shape, curvature.weight_shape) == ((30, 30), (5, 6))
    assert (curvature.dtype, curvature.device) == (DOUBLE, torch.device("cpu"))
    stack = torch.randn(4, 5, 6, dtype=DOUBLE)
    found = curvature.matvec(stack)
    assert not found.requires_grad
    torch.testing.assert_close(curvature.matvec(stack[1]), found[1])
    torch.testing.assert_close(curvature @ stack[1].flatten(), found[1].flatten())
    torch.testing.assert_close(curvature @ stack.flatten(1).T, found.flatten(1).T)
    assert curvature.matvec(stack[:0]).shape == (0, 5, 6)
    assert curvature.product_as_defined(stack[2]).shape == (5, 6)


class Drawing(nn.Module):
    """Dropout that is also active in evaluation, a buffer that counts calls, and batch norm."""

    def __init__(self):
        super().__init__()
        self.head, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.norm(F.dropout(self.head(x), 0.5, training=True))


def test_leaves_no_trace():
    model, inputs = Drawing().double().train(), torch.randn(6, 4, dtype=DOUBLE)
    targets = torch.arange(6) % 3
    model.head.eval()
    model(inputs).sum().backward()
    before = copy.deepcopy(model.state_dict())
    slopes = [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    data = [(inputs[:3], targets[:3]), (inputs[3:], targets[3:])]
    curvature = LayerCurvature(model, data, F.cross_entropy, layer="head")
    curvature.trace(products=4)
    curvature.eigenvalues(2)
    curvature.spectral_density(probes=2, steps=2)
    after = model.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), slopes, strict=True))
    assert [m.training for m in model.modules()] == [True, False, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_leaves_no_trace_of_a_failure(hidden):
    def broken(z, y):
        raise RuntimeError("no such loss")

    with pytest.raises(RuntimeError, match="no such loss"):
        LayerCurvature(hidden.model, hidden.data, broken, layer="2")
    assert hidden.model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in hidden.model.modules())


@pytest.mark.parametrize(
    "around",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_is_the_same_within(hidden, around):
    wanted = whole(hidden.curvature())
    with around():
        data = hidden.inputs.clone(), hidden.targets.clone()  # made in inference mode as well
        found = whole(hidden.curvature(data))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


def test_a_frozen_layer_has_curvature_and_stays_frozen(hidden):
    wanted = whole(hidden.curvature())
    hidden.model.requires_grad_(False)
    torch.testing.assert_close(whole(hidden.curvature()), wanted)
    assert not any(p.requires_grad for p in hidden.model.parameters())


def test_takes_a_part_of_the_output_and_keywords():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, pixels):
            return {"logits": self.head(pixels), "other": pixels}

    model, data = Named(), ({"pixels": torch.randn(5, 4)}, torch.arange(5) % 3)
    found = LayerCurvature(model, data, F.cross_entropy, layer="head", output="logits")
    fam = FAM(model, layer="head", loss=F.cross_entropy, weight=1, output="logits")
    kappa = fam.measure(*data).kappa.item()
    assert found.trace(products=12).value == pytest.approx(kappa, rel=1e-4)


def test_too_few_products_are_told_by_a_warning(hidden):
    with pytest.warns(RuntimeWarning, match=r"layer '2': [12] of 2 eigenvalues did not converge"):
        found = hidden.curvature().eigenvalues(2, max_products=4, tolerance=1e-8)
    assert found.products == 4
    assert not found.converged.all()


@pytest.mark.parametrize("batches", [1, 2])
def test_weights_that_have_changed_are_refused(hidden, batches):
    data = [(hidden.inputs, hidden.targets)] * batches
    curvature = hidden.curvature(data)
    torch.optim.SGD(hidden.model.parameters(), 0.1).step()  # no gradients: nothing moves
    curvature.trace(products=4)
    hidden.loss(hidden.model(hidden.inputs), hidden.targets).backward()
    torch.optim.SGD(hidden.model.parameters(), 0.1).step()
    with pytest.raises(FlatnessError, match=r"weights of the model have changed .* Create a new"):
        curvature.trace(products=4)


OPTIONS = [
    (lambda c: c @ torch.ones(29).double(), r"v of shape \(30,\) or \(30, k\), got \(29,\)\. For"),
    (lambda c: c @ 3, r"\(30, k\), got int"),
    (lambda c: c.matvec(torch.ones(30).double()), r"weight's shape \(5, 6\), .*, got \(30,\)"),
    (lambda c: c.matvec(3), "or be a stack of such vectors, got int"),
    (lambda c: c.matvec(torch.ones(())), r"got \(\)"),
    (lambda c: c.matvec(torch.ones(1, 2, 5, 6).double()), r"got \(1, 2, 5, 6\)"),
    (lambda c: c.matvec(torch.ones(5, 6)), "float32 on cpu, the weight is torch.float64 on cpu"),
    (lambda c: c.trace("xtrace", products=3), "'xtrace' needs at least 4 products .*, got 3"),
    (
        lambda c: c.trace("hutchinson", products=1),
        "at least 2 products for a standard error, got 1",
    ),
    (lambda c: c.trace("cheap"), "method must be one of 'hutchinson', 'hutch"),
    (lambda c: c.trace(products=2.5), "products must be a whole number of at least 1, got 2.5"),
    (lambda c: c.eigenvalues(31), "k must be at most 30, the number of weights, got 31"),
    (lambda c: c.eigenvalues(0), "k must be a whole number"),
    (lambda c: c.eigenvalues(5, max_products=4), "max_products must be at least k = 5, got 4"),
    (lambda c: c.eigenvalues(tolerance=0.0), "tolerance must be above 0, got 0.0"),
    (lambda c: c.eigenvalues(which="top"), "which must be one of 'magnitude', 'largest'"),
    (lambda c: c.spectral_density(probes=1), "probes must be at least 2: a single probe"),
    (lambda c: c.spectral_density(steps=0), "steps must be a whole number"),
    (lambda c: c.spectral_density(width=0), "width must be a finite number above 0, got 0"),
]


@pytest.mark.parametrize(("call", "message"), OPTIONS, ids=range(len(OPTIONS)))
def test_faulty_arguments_are_refused(hidden, call, message):
    curvature = hidden.curvature()
    with pytest.raises(FlatnessError, match=message):
        call(curvature)


def test_faulty_networks_are_refused(hidden):
    model, data = hidden.model, hidden.data
    make = LayerCurvature
    with pytest.raises(LayerNotFoundError, match="no layer is called 'head'"):
        make(model, data, F.cross_entropy, layer="head")
    with pytest.raises(FlatnessError, match=r"quantity must be one of .*, got 'trace'"):
        make(model, data, F.cross_entropy, layer="2", quantity="trace")
    with pytest.raises(FlatnessError, match="the data contain no batch"):
        make(model, [], F.cross_entropy, layer="2")
    with pytest.raises(FlatnessError, match="must be one scalar"):
        make(model, data, lambda z, y: z, layer="2")
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(FlatnessError, match="the weight of layer '2' is not finite"):
        make(model, data, F.cross_entropy, layer="2")


def test_curvature_that_is_not_finite_is_refused(hidden):
    def overflowing(z, y):
        return F.cross_entropy(z, y) + torch.exp(1e3 * (z - z.detach() + 1)).sum()

    curvature = LayerCurvature(hidden.model, hidden.data, overflowing, layer="2")
    with pytest.raises(FlatnessError, match="second derivatives of layer '2' are not finite"):
        curvature.trace(products=8)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_weight_that_is_used_elsewhere_is_refused(hidden, frozen):
    def decayed(z, y):
        return F.cross_entropy(z, y) + hidden.weight.square().sum()

    hidden.weight.requires_grad_(not frozen)
    with pytest.raises(LayerError, match="also reaches the loss outside the layer's own call"):
        LayerCurvature(hidden.model, hidden.data, decayed, layer="2")
    assert hidden.weight.requires_grad != frozen


@pytest.fixture
def oracle():
    reason = "the oracle is not installed: see requirements/oracles.txt"
    return pytest.importorskip("curvlinops", reason=reason).HessianLinearOperator


ORACLE_LOSSES = {F.cross_entropy: nn.CrossEntropyLoss(), F.mse_loss: nn.MSELoss()}
ORACLE_CASES = {name: case for name, case in CASES.items() if case[2] in ORACLE_LOSSES}


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("params", ORACLE_CASES.values(), ids=ORACLE_CASES)
def test_agrees_with_curvlinops(oracle, params, batches):
    case = Case(*params)
    at = (slice(0, 5),) if batches == 1 else (slice(0, 2), slice(2, 5))
    data = [tuple(part[rows] for part in case.data) for rows in at]
    copied = copy.deepcopy(case.model).eval()
    weight = copied.get_submodule(case.layer).weight
    operator = oracle(copied, ORACLE_LOSSES[case.loss], [weight], data, check_deterministic=False)
    vectors = torch.randn(case.size, 3, dtype=DOUBLE)
    found = case.curvature(data, quantity="hessian")
    torch.testing.assert_close(found @ vectors, operator @ vectors, rtol=1e-9, atol=1e-12)
    # The relative form, around their product.
    root = root_of(case.gram())
    wanted = root @ (operator @ (root @ vectors))
    torch.testing.assert_close(case.curvature(data) @ vectors, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.cuda
def test_a_cuda_device_finds_what_the_cpu_does(hidden):
    here = hidden.curvature()
    hidden.model = copy.deepcopy(hidden.model).cuda()
    there = hidden.curvature(tuple(part.cuda() for part in hidden.data))
    assert there.device.type == "cuda"
    vectors = torch.randn(30, 2, dtype=DOUBLE)
    torch.testing.assert_close((there @ vectors.cuda()).cpu(), here @ vectors)
    for method in ("hutchinson", "hutch++", "xtrace"):
        values = (curvature.trace(method, products=9).value for curvature in (here, there))
        assert next(values) == pytest.approx(next(values), rel=1e-9)
    pairs = [curvature.eigenvalues(2, tolerance=1e-8).values for curvature in (here, there)]
    torch.testing.assert_close(*pairs)
    nodes = [curvature.spectral_density(probes=2, steps=4).nodes for curvature in (here, there)]
    torch.testing.assert_close(*nodes)
