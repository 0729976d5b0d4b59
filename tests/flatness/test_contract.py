"""The contract of estimators and measures: a new one adds a row to CASES and a dense reference."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.func import functional_call

from famseg.flatness import FAM, LayerError

DRAWS = 400


@dataclass(frozen=True)
class Case:
    """An estimator or measure.

    Attributes:
        options: What FAM is given for it.
        twin: The fixture that gives its dense value.
        on: The networks of SETUPS that it holds on.
        drawn: Whether its value is random: unbiased for the twin's, with a bounded variance.
        loss: The losses that it holds for.
        rel: How close value and gradient come to those of differences.
    """

    options: dict[str, object]
    twin: str = "kappa"
    on: tuple[str, ...] = ("first", "middle", "head", "convolution", "grouped", "transposed")
    drawn: bool = False
    losses: tuple[str, ...] = ("smooth", "cross entropy")
    rel: float = 1e-5


LINEAR = ("first", "middle", "head")
CASES = {
    "closed form": Case({"estimator": "closed_form"}, on=("head",), losses=("cross entropy",)),
    "columns": Case({"estimator": "columns"}, on=LINEAR),
    "exact": Case({"estimator": "exact"}),
    "hutchinson": Case({"estimator": "hutchinson"}, drawn=True),
    "hutchinson, gaussian": Case(
        {"estimator": "hutchinson", "distribution": "gaussian"}, drawn=True
    ),
    "hutchinson, batch": Case({"estimator": "hutchinson", "probe_per": "batch"}, drawn=True),
    "hutchinson, batch, gaussian": Case(
        {"estimator": "hutchinson", "probe_per": "batch", "distribution": "gaussian"}, drawn=True
    ),
    "gauss newton": Case({"estimator": "gauss_newton"}, twin="gauss_newton", drawn=True),
    "gauss newton, batch": Case(
        {"estimator": "gauss_newton", "probe_per": "batch"}, twin="gauss_newton", drawn=True
    ),
    "finite difference": Case({"estimator": "finite_difference"}, drawn=True, rel=1e-4),
    "simplified, closed form": Case(
        {"estimator": "closed_form", "quantity": "simplified"},
        twin="simplified",
        on=("head",),
        losses=("cross entropy",),
    ),
    "simplified, columns": Case(
        {"estimator": "columns", "quantity": "simplified"}, twin="simplified", on=LINEAR
    ),
    "simplified, exact": Case({"estimator": "exact", "quantity": "simplified"}, twin="simplified"),
    "simplified, hutchinson": Case(
        {"estimator": "hutchinson", "quantity": "simplified"}, twin="simplified", drawn=True
    ),
    "simplified, batch": Case(
        {"estimator": "hutchinson", "quantity": "simplified", "probe_per": "batch"},
        twin="simplified",
        drawn=True,
    ),
    "largest eigenvalues": Case(
        {"quantity": "max_eigenvalue"}, twin="max_eigenvalue", on=("first", "head", "convolution")
    ),
    "per feature": Case({"estimator": "exact", "normalize": "features"}, twin="per_feature"),
    "standardized, columns": Case(
        {"estimator": "columns", "standardize": True}, twin="standardized", on=LINEAR
    ),
    "standardized, exact": Case(
        {"estimator": "exact", "standardize": True},
        twin="standardized",
        on=("middle", "convolution", "grouped", "transposed"),
    ),
}


def smooth(z, y):
    return (z.sin() * (1.5 * y.reshape(-1, *[1] * (z.ndim - 1)) - 1)).mean()


LOSSES = {"smooth": smooth, "cross entropy": nn.CrossEntropyLoss()}


def linear():
    layers = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)
    return nn.Sequential(*layers), torch.randn(3, 4)


def volume(layer, size=3):
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Tanh(), layer, nn.Tanh(), nn.Flatten())
    return net, torch.randn(3, 2, size, size)


SETUPS: dict[str, tuple[Callable, str]] = {
    "first": (linear, "0"),
    "middle": (linear, "2"),
    "head": (linear, "4"),
    "convolution": (lambda: volume(nn.Conv2d(2, 2, 2, stride=2, padding=1)), "2"),
    "grouped": (lambda: volume(nn.Conv2d(2, 4, 2, groups=2, dilation=2)), "2"),
    "transposed": (lambda: volume(nn.ConvTranspose2d(2, 2, 2, stride=2), size=2), "2"),
}


@dataclass
class Bench:
    """One case on one network with one loss."""

    case: Case
    model: nn.Module
    layer: str
    loss: Callable
    batch: tuple[torch.Tensor, torch.Tensor]

    def fam(self, **options):
        fixed = {"weight": 1, "bound": "none", "every": 1, "samples": "all"}
        return FAM(
            self.model,
            layer=self.layer,
            loss=self.loss,
            **(fixed | self.case.options | options),
        )


def bench(case, setup, loss="smooth"):
    make, layer = SETUPS[setup]
    torch.manual_seed(0)
    model, inputs = make()
    targets = torch.tensor([0, 2, 1])
    return Bench(case, model.double(), layer, LOSSES[loss], (inputs.double(), targets))


def rows(*, drawn=None, losses=True):
    """All combinations to test: (case, setup, loss)."""
    return [
        pytest.param(case, setup, loss, id=f"{name}-{setup}-{loss}")
        for name, case in CASES.items()
        if drawn in (None, case.drawn)
        for setup in case.on
        for loss in (case.losses if losses else case.losses[:1])
    ]


@pytest.fixture
def twins(oracle, trace_oracle):
    """Dense reference values that share no code with the estimators."""

    def kappa(b):
        return oracle(b.model, b.layer, b.loss, *b.batch)

    def norm(b):
        return b.model.get_submodule(b.layer).weight.square().sum().item()

    def features(b):
        return b.model.get_submodule(b.layer).weight

    def per_feature(b):
        layer = b.model.get_submodule(b.layer)
        rows = (
            layer.out_channels if isinstance(layer, nn.modules.conv._ConvNd) else len(layer.weight)
        )
        return kappa(b) / (layer.weight.numel() / rows)

    return {
        "kappa": kappa,
        "simplified": lambda b: norm(b) * trace_oracle(b.model, b.layer, b.loss, *b.batch),
        "gauss_newton": lambda b: oracle(Linearised(b), "", b.loss, *b.batch),
        "max_eigenvalue": eigenvalues,
        "per_feature": per_feature,
        "standardized": lambda b: kappa(standardized(b)),
    }


class Linearised(nn.Module):
    """The network as a function of the layer's weight, replaced by its tangent at that weight."""

    def __init__(self, b):
        super().__init__()
        layer = b.model.get_submodule(b.layer)
        self.b, self.at = b, layer.weight.detach().clone()
        self.weight = nn.Parameter(self.at.clone())
        for name in ("groups", "out_channels"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))
        # The reference recognizes a transposed convolution by its name.
        if isinstance(layer, nn.ConvTranspose2d):
            self.__class__ = ConvTransposeLinearised

    def forward(self, inputs):
        change = self.weight - self.at

        def at(step):
            moved = {f"{self.b.layer}.weight": self.at + step * change}
            return functional_call(self.b.model, moved, (inputs,)).detach()

        def slope(step):
            return (at(step) - at(-step)) / (2 * step)

        return at(0) + (4 * slope(0.05) - slope(0.1)) / 3 if change.any() else at(0)


class ConvTransposeLinearised(Linearised):
    pass


def hessian(b, select=slice(None)):
    """The Hessian of the loss with respect to the layer's weight, computed by torch."""
    name = f"{b.layer}.weight"
    weight = b.model.get_submodule(b.layer).weight.detach()
    inputs, targets = b.batch[0][select], b.batch[1][select]

    def loss(w):
        return b.loss(functional_call(b.model, {name: w}, (inputs,)), targets)

    size = weight.numel()
    return torch.func.hessian(loss)(weight).detach().reshape(size, size)


def eigenvalues(b):
    weight = b.model.get_submodule(b.layer).weight.detach().flatten(1)
    blocks = hessian(b).reshape(*weight.shape, *weight.shape)
    return sum(
        (row.square().sum() * torch.linalg.eigvalsh(blocks[s, :, s])[-1]).item()
        for s, row in enumerate(weight)
    )


def standardized(b):
    """The same function with a layer that divides its input and carries the scale in its weight."""
    layer, seen = b.model.get_submodule(b.layer), []
    hook = layer.register_forward_hook(lambda m, a, out: seen.append(a[0].detach()))
    b.model(b.batch[0])
    hook.remove()
    scale = seen[0].transpose(0, 1).flatten(1).std(1, correction=0)
    scale = scale.where(scale > 0, torch.ones_like(scale))  # constants count as they are
    shape = (-1, *[1] * (seen[0].ndim - 2))
    model = copy.deepcopy(b.model)
    new = model.get_submodule(b.layer)
    with torch.no_grad():
        if isinstance(new, nn.ConvTranspose2d):
            new.weight *= scale.reshape(-1, 1, 1, 1)
        elif isinstance(new, nn.Conv2d):
            for part, own in zip(
                new.weight.chunk(new.groups), scale.chunk(new.groups), strict=True
            ):
                part *= own.reshape(1, -1, 1, 1)
        else:
            new.weight *= scale
    new.register_forward_pre_hook(lambda m, a: (a[0] / scale.reshape(shape),))
    return dataclasses.replace(b, model=model)


class Units:
    """Replaces random probes by unit vectors, one after the other, the same for all samples.

    An estimate is quadratic in its probe, so those of all unit vectors add up to the exact value.
    """

    def __init__(self):
        self.calls, self.count = 0, 1

    def __call__(self, shape, like):
        per_sample = len(shape) in (2, 4)  # (n, r) or (n, g, r, m); of the batch (g, r, m)
        inner = shape[1:] if per_sample else shape
        self.count = math.prod(inner)
        unit = like.new_zeros(self.count)
        unit[self.calls % self.count] = 1
        self.calls += 1
        return unit.reshape(inner).expand(shape)


def complete(b):
    """The objective with all unit probes, and the factor from their mean to their sum."""
    units = Units()
    single = b.fam()
    single._draw = lambda purpose, step: units
    single.measure(*b.batch)
    units.calls = 0
    fam = b.fam(probes=units.count)
    fam._draw = lambda purpose, step: units
    return fam, units.count


@pytest.mark.parametrize(("case", "setup", "loss"), rows(drawn=False))
def test_an_exact_value_is_its_twins(case, setup, loss, twins):
    b = bench(case, setup, loss)
    wanted = twins[case.twin](b)
    assert b.fam().measure(*b.batch).kappa.item() == pytest.approx(wanted, rel=case.rel, abs=1e-7)


@pytest.mark.parametrize(("case", "setup", "loss"), rows(drawn=True))
def test_all_unit_probes_together_give_the_exact_value(case, setup, loss, twins):
    b = bench(case, setup, loss)
    fam, count = complete(b)
    found = count * fam.measure(*b.batch).kappa.item()
    assert found == pytest.approx(twins[case.twin](b), rel=case.rel, abs=1e-7)


def spread(b):
    """2 |A|^2 in the Frobenius norm, A the curvature between the probes: Gaussian variance."""
    layer = b.model.get_submodule(b.layer)
    transposed = isinstance(layer, nn.ConvTranspose2d)
    groups = getattr(layer, "groups", 1)
    simplified = b.case.options.get("quantity") == "simplified"
    n = len(b.batch[0])
    parts = [slice(i, i + 1) for i in range(n)]
    if b.case.options.get("probe_per") == "batch":
        parts, n = [slice(None)], 1
    weight = layer.weight.detach()
    total = 0.0
    for part in parts:
        h = hessian(b, part).reshape(*weight.shape, *weight.shape)
        if transposed:
            h = h.transpose(0, 1).transpose(weight.ndim, weight.ndim + 1)
        w = (weight.transpose(0, 1) if transposed else weight).flatten(1)
        d, m = w.shape
        h = h.reshape(d, m, d, m)
        blocks = torch.block_diag(*w.chunk(groups))  # (d, groups * m)
        a = torch.einsum("si,sktl,tj->ikjl", blocks, h, blocks)
        if simplified:
            a = w.square().sum() * h
        total += 2 * a.square().sum().item() / n**2
    return total


# One loss: that a value is quadratic in its probe, and right for each loss, is tested above.
@pytest.mark.parametrize(("case", "setup", "loss"), rows(drawn=True, losses=False))
def test_a_drawn_value_is_unbiased_with_the_variance_of_hutchinson(case, setup, loss, twins):
    b = bench(case, setup, loss)
    found = b.fam(probes=DRAWS).measure(*b.batch).per_probe
    assert len(found) == DRAWS
    error, variance = found.mean().item() - twins[case.twin](b), found.var().item()
    assert abs(error) < 3.7 * math.sqrt(variance / DRAWS) + 1e-7
    if case.twin == "gauss_newton":
        return
    bound = spread(b)
    assert variance < 1.5 * bound  # the variance of 400 draws is itself uncertain by 10 to 20 %
    if case.options.get("distribution") == "gaussian":
        assert variance > 0.6 * bound


VALUED = [p for p in rows(losses=False) if not p.values[0].options.get("standardize")]


@pytest.mark.parametrize(("case", "setup", "loss"), VALUED)
def test_the_gradient_is_that_of_the_value(case, setup, loss, check_gradient):
    b = bench(case, setup, loss)
    # For one random probe it holds on average alone: the basis that probes are drawn in turns with
    # the weight.
    fam = complete(b)[0] if case.drawn else b.fam()

    def value():
        return fam(*b.batch).penalty

    check_gradient(value, b.model, rel=max(2e-6, case.rel))


STANDARDIZED = [p for p in rows(losses=False) if p.values[0].options.get("standardize")]


@pytest.mark.parametrize(("case", "setup", "loss"), STANDARDIZED)
def test_deviations_of_features_are_constants_of_the_gradient(case, setup, loss):
    b = bench(case, setup, loss)
    twin = standardized(b)
    penalty = b.fam()(*b.batch).penalty
    other = twin.fam(standardize=False)(*twin.batch).penalty
    found = torch.autograd.grad(penalty, list(b.model.parameters()), materialize_grads=True)
    wanted = torch.autograd.grad(other, list(twin.model.parameters()), materialize_grads=True)
    for (name, p), q, g, w in zip(
        b.model.named_parameters(), twin.model.parameters(), found, wanted, strict=True
    ):
        scale = q / p if name == f"{b.layer}.weight" else 1
        torch.testing.assert_close(g, w * scale)


def term_one(b, twin):
    """Term I by hand: the curvature is constant, the norms of the weight are not."""
    weight = b.model.get_submodule(b.layer).weight.detach().flatten(1).requires_grad_()
    h = hessian(b).reshape(*weight.shape, *weight.shape)
    traces = torch.einsum("sktk->st", h)
    if twin == "kappa":
        value = ((weight @ weight.T) * traces).sum()
    else:
        value = weight.square().sum() * traces.trace()
    return torch.autograd.grad(value, weight)[0].reshape_as(b.model.get_submodule(b.layer).weight)


TERM_ONE = [
    p
    for p in rows(drawn=False)
    if p.values[0].twin in ("kappa", "simplified") and p.values[1] not in ("grouped", "transposed")
]


@pytest.mark.parametrize(("case", "setup", "loss"), TERM_ONE)
def test_weights_only_is_the_first_term_in_the_layer_alone(case, setup, loss):
    b = bench(case, setup, loss)
    layer = b.model.get_submodule(b.layer)
    penalty = b.fam(gradient="weights_only")(*b.batch).penalty
    assert penalty.item() == pytest.approx(b.fam()(*b.batch).penalty.item())
    parameters = dict(b.model.named_parameters())
    found = torch.autograd.grad(penalty, list(parameters.values()), allow_unused=True)
    for (name, parameter), gradient in zip(parameters.items(), found, strict=True):
        if parameter is layer.weight:
            torch.testing.assert_close(gradient, term_one(b, case.twin))
        else:
            assert gradient is None or not gradient.any(), name


@pytest.mark.parametrize(("case", "setup", "loss"), rows(losses=False))
def test_rescaling_neighboring_layers_changes_nothing(case, setup, loss):
    """The layer multiplied by c, its input divided by c."""
    b = bench(case, setup, loss)
    before = b.fam().measure(*b.batch).kappa.item()
    layer = b.model.get_submodule(b.layer)
    with torch.no_grad():
        layer.weight *= 4
    layer.register_forward_pre_hook(lambda m, a: (a[0] / 4,))
    after = b.fam().measure(*b.batch).kappa.item()
    assert after == pytest.approx(before, rel=max(1e-9, case.rel / 10))


@pytest.mark.parametrize(("case", "setup", "loss"), rows(losses=False))
def test_a_zero_weight_has_zero_flatness_and_a_finite_gradient(case, setup, loss):
    b = bench(case, setup, loss)
    with torch.no_grad():
        b.model.get_submodule(b.layer).weight.zero_()
    terms = b.fam()(*b.batch)
    assert terms.penalty.item() == 0
    terms.total.backward()
    assert all(p.grad.isfinite().all() for p in b.model.parameters())


@pytest.mark.parametrize(("case", "setup", "loss"), rows(losses=False))
def test_float32_gives_the_value_of_float64(case, setup, loss):
    b = bench(case, setup, loss)
    wanted = b.fam().measure(*b.batch).kappa.item()
    b.model.float()
    found = b.fam().measure(b.batch[0].float(), b.batch[1]).kappa
    assert found.dtype == torch.float32
    tolerance = 2e-2 if case.options.get("estimator") == "finite_difference" else 1e-3
    assert found.item() == pytest.approx(wanted, rel=tolerance, abs=1e-5)


@pytest.mark.cuda
@pytest.mark.parametrize(("case", "setup", "loss"), rows(losses=False))
def test_a_cuda_device_gives_the_value_and_gradient_of_the_cpu(case, setup, loss):
    b, found = bench(case, setup, loss), []
    for device in ("cpu", "cuda"):
        b.model.to(device)
        terms = b.fam()(*(tensor.to(device) for tensor in b.batch))
        assert terms.penalty.device.type == device
        slopes = torch.autograd.grad(
            terms.penalty, list(b.model.parameters()), materialize_grads=True
        )
        found.append([value.cpu() for value in (terms.penalty.detach(), *slopes)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=max(1e-6, case.rel), atol=1e-8)


@pytest.mark.parametrize(("case", "setup", "loss"), rows(losses=False))
def test_a_batch_of_one(case, setup, loss, twins):
    b = bench(case, setup, loss)
    b.batch = b.batch[0][:1], b.batch[1][:1]
    fam, count = complete(b) if case.drawn else (b.fam(), 1)
    found = count * fam.measure(*b.batch).kappa.item()
    assert found == pytest.approx(twins[case.twin](b), rel=case.rel, abs=1e-7)


@pytest.mark.parametrize(("case", "setup", "loss"), rows(losses=False))
def test_an_empty_batch_is_refused(case, setup, loss):
    b = bench(case, setup, loss)
    with pytest.raises(LayerError, match="got an empty batch"):
        b.fam()(b.batch[0][:0], b.batch[1][:0])


@pytest.mark.parametrize(("case", "setup", "loss"), rows(losses=False))
def test_a_generator_decides_on_everything(case, setup, loss):
    b = bench(case, setup, loss)

    def steps(seed):
        fam = b.fam(generator=torch.Generator().manual_seed(seed))
        return torch.stack([fam(*b.batch).penalty for _ in range(3)])

    torch.manual_seed(1)
    first = steps(3)
    torch.manual_seed(2)
    assert torch.equal(first, steps(3))
    # Signs are exact where the curvature between the probes is diagonal.
    if case.drawn and first.std() > 1e-12:
        assert len(first.unique()) == 3
        assert not torch.equal(first, steps(4))
    else:
        assert torch.equal(first, steps(4))


@pytest.mark.parametrize(("case", "setup", "loss"), rows(losses=False))
def test_no_trace_is_left(case, setup, loss):
    b = bench(case, setup, loss)
    fam = b.fam()
    fam(*b.batch).total.backward()
    before = {k: v.clone() for k, v in b.model.state_dict().items()}
    gradients = [p.grad.clone() for p in b.model.parameters()]
    rng = torch.get_rng_state()
    fam.measure(*b.batch)
    assert all(torch.equal(v, before[k]) for k, v in b.model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(b.model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), rng)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in b.model.modules())


def long_rows():
    """One network for each computation: probes on a convolution, exact values on a head."""
    found = {}
    for p in rows(losses=False):
        case, setup, _ = p.values
        way = tuple(case.options.get(k) for k in ("estimator", "probe_per", "standardize"))
        if setup == ("head" if "head" in case.on and not case.drawn else "convolution"):
            found.setdefault(way, p)
    return found.values()


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize(("case", "setup", "loss"), long_rows())
def test_memory_does_not_grow_over_200_steps(case, setup, loss):
    b = bench(case, setup, loss)
    fam = b.fam()

    def tensors(steps):
        for _ in range(steps):
            b.model.zero_grad()
            fam(*b.batch).total.backward()
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    tensors(3)  # leftovers of other tests are collected first
    before = tensors(3)
    assert tensors(200) <= before


SAMPLEWISE = [
    p
    for p in rows(drawn=False, losses=False)
    if p.values[0].twin != "max_eigenvalue" and not p.values[0].options.get("standardize")
]


@pytest.mark.parametrize(("case", "setup", "loss"), SAMPLEWISE)
def test_accumulated_samples_are_the_batch(case, setup, loss):
    b = bench(case, setup, loss)
    fam = b.fam()
    fam(*b.batch).total.backward()
    wanted = [p.grad.clone() for p in b.model.parameters()]
    b.model.zero_grad()
    for x, y in zip(*b.batch, strict=True):
        (fam(x[None], y[None]).total / len(b.batch[1])).backward()
    for p, g in zip(b.model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, g)
