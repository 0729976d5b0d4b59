"""The defaults on random networks: `exact` on average, for every parameter, no side effects."""

from __future__ import annotations

import collections
import copy
import importlib.util
import itertools
import math
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from famseg.flatness import FAM, FlatnessError, NotApplicableError
from famseg.flatness._estimators import _probes


def networks_module():
    """The generator module next to this file, which is not on the path."""
    path = Path(__file__).with_name("random_networks.py")
    spec = importlib.util.spec_from_file_location("famseg_random_networks", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


random_networks = networks_module()
Network, Built, build = random_networks.Network, random_networks.Built, random_networks.build

WEIGHT = 1e-5  # so small that no step is thinned less for being too strong
STRONG = 10.0  # so large that a penalized step standing for four would dominate the training
WARNING = 128  # steps within which a change of model or loss must have been noticed
SHARED = ("quantity", "gradient", "normalize", "standardize")  # options that define the exact value
EXACT = ("exact", "columns", "closed_form")  # estimators that are not random when named


def objective(built: Built, **options: Any) -> FAM:
    network = built.network
    fixed = {"weight": WEIGHT, "output": built.output, "bound": "none"}
    return FAM(built.model, layer=network.layers, loss=built.loss, **(fixed | options))


# --- the mean over draws ---

MOST = 256, 2048  # balanced draws: over parts that partition the batch, and over all parts
ROUNDS = 64, 128, 512, 2048
"""Draws; a statistic fails whose mean is more than 5 standard errors off in all of these rounds.

The statistics are the value, the projections of the gradient on the true one, one a parameter, and
all entries of the gradient: 300 a network or so, 30,000 in the suite. Rounds have draws of their
own, so that a true one fails with the product of the probabilities: for normal means 6e-7 to the
fourth power, 1e-25 each. The means of a few hundred skewed draws have heavier tails, but were each
probability 1e-4, a hundred and more times as large, the suite would fail with 3e-8. The draws are
the same in each run anyway: what passes goes on to do so until the code changes.

So few draws find no error below half a standard deviation of a draw; smaller ones are found by the
balanced draws, see `balanced`."""


@dataclass(frozen=True)
class Sample:
    """Value and gradient of the penalty in one draw, or as they should be.

    Attributes:
        value: The penalty.
        gradient: Its gradient in each trained parameter; zeros where there is none.
    """

    value: float
    gradient: Mapping[str, Tensor]

    @classmethod
    def mean(cls, samples: Sequence[Sample]) -> Sample:
        values = [one.value for one in samples]
        gradients = {
            name: torch.stack([one.gradient[name] for one in samples]).mean(0)
            for name in samples[0].gradient
        }
        return cls(sum(values) / len(values), gradients)

    def statistics(self, true: Sample) -> Tensor:
        """Return the value, the projections onto the exact gradient, and all entries."""
        projections = [
            (self.gradient[name] * wanted).sum() / wanted.square().sum()
            for name, wanted in true.gradient.items()
            if wanted.norm() > true.least
        ]
        entries = [gradient.flatten() for gradient in self.gradient.values()]
        value = next(iter(self.gradient.values())).new_tensor([self.value])
        return torch.cat([value, torch.stack([*projections, value[0]])[:-1], *entries])

    @property
    def least(self) -> float:
        """Smallest gradient norm that is not a rounding error."""
        return 1e-6 * max(float(g.norm()) for g in self.gradient.values()) + 1e-12

    def names(self) -> list[str]:
        """Names of the statistics if this is the exact sample."""
        large = [f"gradient in {n}" for n, g in self.gradient.items() if g.norm() > self.least]
        entries = [f"entry {i} of {n}" for n, g in self.gradient.items() for i in range(g.numel())]
        return ["value", *large, *entries]


def sample(fam: FAM, built: Built) -> Sample:
    penalty = fam(built.batch.inputs, built.batch.targets).penalty
    assert penalty is not None, "a step carries no penalty"
    names, parameters = zip(*built.trained().items(), strict=True)
    found = (
        torch.autograd.grad(penalty, parameters, materialize_grads=True)
        if penalty.requires_grad
        else [torch.zeros_like(p) for p in parameters]
    )
    return Sample(penalty.item(), dict(zip(names, found, strict=True)))


def remembered(built: Built) -> Callable[[], None]:
    """Return a function that restores model and loss, so that all draws are of the same step."""
    holders = [*built.model.modules()]
    if hasattr(built.loss, "__dict__"):
        holders.append(built.loss)
    buffers = [
        (holder, name, buffer, buffer.clone())
        for holder in holders
        for name, buffer in getattr(holder, "_buffers", {}).items()
        if buffer is not None
    ]
    plain = [(h, k, copy.copy(v)) for h in holders for k, v in vars(h).items() if _is_state(k, v)]

    def put_back() -> None:
        for holder, name, value in plain:
            setattr(holder, name, copy.copy(value))
        for holder, name, buffer, value in buffers:
            holder._buffers[name] = buffer
            buffer.data.copy_(value)

    return put_back


def _is_state(name: str, value: object) -> bool:
    return not name.startswith("_") and isinstance(value, bool | int | list)


def check_means(network: Network) -> None:
    """Compare the mean penalty and gradient of the defaults with `exact` on the whole batch."""
    built = build(network)
    fam = objective(built, **({"every": 1} | network.options))
    begin(fam, built)
    plan = fam._planner.plan
    draws = Draws(fam, built, remembered(built), exact(built))
    check_balanced(draws)
    late = network.late != "nothing"
    assert not late or fam._planner.plan == plan, f"planned anew too late: {fam.explain()}"
    check_part(fam, built)
    suspects, tolerance = None, draws.tolerance
    for count in ROUNDS:
        found = torch.stack([draws.next().statistics(draws.true) for _ in range(count)])
        draws.check_none_lost()
        wanted = draws.true.statistics(draws.true)
        if network.options.get("estimator") in EXACT:
            off = float((found - wanted).abs().max())
            assert off < tolerance, "an estimator that is named and exact is not"
        error = found.std(0) / count**0.5
        z = (found.mean(0) - wanted) / (error + 1e-2 * tolerance)
        suspects = (z.abs() > 5) if suspects is None else suspects & (z.abs() > 5)
        if not suspects.any():
            return
    worst = int((z.abs() * suspects).argmax())
    raise AssertionError(
        f"{draws.true.names()[worst]}: {found.mean(0)[worst]:.5g} +- {error[worst]:.2g} in the "
        f"mean over draws, {wanted[worst]:.5g} by exact (z = {z[worst]:.1f})"
    )


def check_part(fam: FAM, built: Built) -> None:
    """Tensors of samples are cut once batches of other lengths have identified them."""
    network, plan = built.network, fam._planner.plan
    shared = network.other in ("context", "memory", "positions", "mask")
    counted = network.order == "x, other"  # the first tensor counts the samples
    if plan is None or network.first == "same" or not (shared and counted):
        return
    named = random_networks.holding_samples(network)
    told = objective(built, **({"every": 1} | network.options), samples_in=named)
    told(built.batch.inputs, built.batch.targets)
    wanted = told._planner.plan.part
    assert plan.part == wanted, (
        f"takes {plan.part} of a batch, and {wanted} if it is told what holds samples"
    )


@dataclass
class Draws:
    """Draws of one step, and their expected mean.

    Attributes:
        fam: The objective.
        built: What it penalizes.
        restore: Puts the state of model and loss back.
        true: The expected mean.
    """

    fam: FAM
    built: Built
    restore: Callable[[], None]
    true: Sample

    def __post_init__(self) -> None:
        self._step = 10**6  # far from the first steps
        self._moved = dict.fromkeys(self.true.gradient, False)
        largest = max(float(g.abs().max()) for g in self.true.gradient.values())
        self.tolerance = 1e-7 * max(largest, abs(self.true.value), 1e-3)

    def next(self) -> Sample:
        self.restore()
        self.fam.seek(self._step)
        self._step += 1
        one = sample(self.fam, self.built)
        for name, gradient in one.gradient.items():
            self._moved[name] |= bool(gradient.any())
        return one

    def check_none_lost(self) -> None:
        for name, gradient in self.true.gradient.items():
            lost = gradient.norm() > 1e2 * self.true.least and not self._moved[name]
            assert not lost, f"{name} loses its gradient, whose norm is {gradient.norm():.3g}"


def check_balanced(draws: Draws) -> None:
    """Compare means over balanced draws, which are exact, with those of `exact`."""
    found, plan = None, None
    with balanced() as design:
        draws.next()
        for _ in range(4):  # checking the plan may lead to another one, which is also correct
            if plan == draws.fam._planner.plan:
                break
            plan = draws.fam._planner.plan
            found = _mean(draws, design, design.parts, MOST[0])
            if found is None and 0 < len(design.all_parts) <= 28:
                # Only some parts represent the batch: take the mean of all of them.
                found = _mean(draws, design, design.all_parts, MOST[1], mixed=True)
    draws.check_none_lost()
    if found is None:
        return
    tolerance = draws.tolerance
    for name, wanted in draws.true.gradient.items():
        off = (found.gradient[name] - wanted).abs().max()
        assert off < tolerance, (
            f"the mean gradient in {name} is off by {off:.2g}, at most {wanted.abs().max():.2g} "
            "by exact"
        )
    assert abs(found.value - draws.true.value) < tolerance, (
        f"the mean value is {found.value:.5g}, and {draws.true.value:.5g} by exact"
    )


def _mean(
    draws: Draws, design: Design, parts: Sequence[Tensor | None], most: int, *, mixed: bool = False
) -> Sample | None:
    """The mean over some parts; ``None`` for too many draws or unequal numbers of signs."""
    found, sizes = [], set()
    for design.part in parts:
        design.row = design.signs_drawn = 0  # a step may draw no signs
        rows = [draws.next()]
        sizes.add(design.signs_drawn)
        count = 2 ** design.signs_drawn.bit_length()
        if (len(sizes) > 1 and not mixed) or count * len(parts) > most:
            return None
        for row in range(1, count):
            design.row = row
            rows.append(draws.next())
        found.append(Sample.mean(rows))
    return Sample.mean(found)


class Design:
    """A design of signs and parts in which every two signs are orthogonal.

    The penalty is quadratic in its signs and linear in the samples of its part. So its mean over
    the rows of a Hadamard matrix, a column for each sign, and over parts that make up the batch, is
    its expectation, to rounding: as exact as `exact`, from few draws.

    Attributes:
        row: Row of the matrix from which signs are taken.
        signs_drawn: How many signs the last step drew.
        part: The part that is drawn; the first one if ``None``.
        parts: Parts that make up the batch.
        all_parts: All parts that can be drawn, if they are few.
    """

    def __init__(self) -> None:
        self.row = self.signs_drawn = 0
        self._generator: object = None
        self.part: Tensor | None = None
        self.parts: list[Tensor | None] = [None]
        self.all_parts: list[Tensor | None] = []

    def signs(self, shape: tuple[int, ...], like: Tensor, generator: object) -> Tensor:
        if generator is not self._generator:  # another step, or the same one repeated
            self._generator, self.signs_drawn = generator, 0
        first, count = self.signs_drawn + 1, math.prod(shape)
        self.signs_drawn += count
        parity = torch.arange(first, first + count) & self.row  # of the common bits
        for shift in (8, 4, 2, 1):
            parity ^= parity >> shift
        return (1 - 2 * (parity & 1)).to(like).reshape(shape)

    def part_of(self, n: int, size: int, generator: object) -> Tensor:
        if self.part is None:
            order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
            self.parts = [part.sort().values for part in order.split(size)]
            self.all_parts = [*map(torch.tensor, itertools.combinations(range(n), size))]
            self.part = self.parts[0]
        return self.part


@contextmanager
def balanced() -> Iterator[Design]:
    """Make all objectives draw from a design."""
    design = Design()
    replaced = {
        _probes.signs: design.signs,
        _probes.normals: design.signs,  # with the same mean and variance
        _probes.part_of: design.part_of,
    }
    with pytest.MonkeyPatch.context() as patch:
        for module in [m for name, m in sys.modules.items() if name.startswith("famseg.flatness.")]:
            for name, function in list(vars(module).items()):
                if isinstance(function, types.FunctionType) and function in replaced:
                    patch.setattr(module, name, replaced[function])
        yield design


def begin(fam: FAM, built: Built) -> None:
    """The first steps, possibly on other batches, before the late change."""
    network = built.network
    for kind in network.first.split(", "):
        first = random_networks.batch(network, kind)
        fam(first.inputs, first.targets)
    if network.late != "nothing":
        for _ in range(random_networks.SWITCH_AFTER - 1):
            fam(first.inputs, first.targets)
        built.switch(counters=False)
        for _ in range(1 if network.late in random_networks.SHOWN else WARNING):
            fam(built.batch.inputs, built.batch.targets)


def exact(built: Built) -> Sample:
    """Value and gradient of the definition, compared with the Hessian of the plain loss."""
    network = built.network
    twin = build(network)
    twin.switch(counters=True)
    twin.model.load_state_dict(built.model.state_dict())
    shared = {name: value for name, value in network.options.items() if name in SHARED}
    fam = objective(twin, estimator="exact", samples="all", every=1, **shared)
    restore = remembered(twin)
    true = sample(fam, twin)
    restore()
    if not shared:
        plain = plain_value(twin)
        assert true.value == pytest.approx(plain, rel=1e-8, abs=1e-10), (
            f"exact gives {true.value}, the Hessian of the plain loss {plain}"
        )
        slope, wanted = slopes(true, twin)
        # Finite differences ignore that a network detaches features.
        assert "detached gate" in network.stages or slope == pytest.approx(
            wanted, rel=1e-4, abs=1e-6 * (1 + abs(plain))
        ), f"the gradient of exact gives a slope of {slope}, differences {wanted}"
    return true


def slopes(true: Sample, built: Built, step: float = 1e-6) -> tuple[float, float]:
    """The slope along a random direction in all parameters, and by finite differences of the value.

    The step is so short that an activation hardly ever changes sides within it.
    """
    generator = torch.Generator().manual_seed(built.network.seed)
    trained = built.trained()
    direction = {k: torch.randn(p.shape, generator=generator).to(p) for k, p in trained.items()}

    def value(by: float) -> float:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.add_(direction[name], alpha=by)
        return plain_value(built)

    ahead, behind = value(step), value(-2 * step)
    value(step)
    slope = sum((true.gradient[name] * v).sum().item() for name, v in direction.items())
    return slope, (ahead - behind) / (2 * step)


def plain_value(built: Built) -> float:
    """Kappa from torch's Hessian of the plain loss with respect to the layer's weight."""
    total = 0.0
    restore = remembered(built)
    for name in built.network.layers:
        restore()
        layer = built.model.get_submodule(name)
        trains = layer.weight.requires_grad
        layer.weight.requires_grad_(True)  # even if it is frozen
        (slope,) = torch.autograd.grad(built.plain(), layer.weight, create_graph=True)
        if not slope.requires_grad:  # linear in the weight
            layer.weight.requires_grad_(trains)
            continue
        rows = [
            torch.autograd.grad(s, layer.weight, retain_graph=True, materialize_grads=True)[0]
            for s in slope.flatten()
        ]
        layer.weight.requires_grad_(trains)
        transposed = isinstance(layer, nn.ConvTranspose1d)
        hessian = torch.stack(rows).reshape(*slope.shape, *slope.shape)
        weight = layer.weight.detach()
        if transposed:  # a neuron is a column
            weight, hessian = weight.transpose(0, 1), hessian.transpose(0, 1).transpose(3, 4)
        d, m = weight.flatten(1).shape
        hessian, weight = hessian.reshape(d, m, d, m), weight.reshape(d, m)
        total += torch.einsum("si,ti,sktk->", weight, weight, hessian).item()
    restore()
    return total


# --- what a step leaves behind ---


def check_leftovers(network: Network) -> None:
    """Compare results and side effects of penalized steps with those of plain steps."""
    one, other = build(network), build(network)
    fam = objective(one, **({"every": 1} | network.options))
    earlier: list[tuple[Tensor, tuple[Tensor, ...]]] = []
    for step in range(2):  # the first one creates the plan
        given, plain = one.batch.inputs, other.batch.inputs
        torch.manual_seed(step)
        terms = fam(given, one.batch.targets)
        random_one = torch.get_rng_state()
        torch.manual_seed(step)
        wanted = other.step(plain)
        same = Same(one, other, step)
        same("random state", random_one, torch.get_rng_state())
        same("loss", terms.loss, wanted)
        same("inputs", given, plain)
        for (name, left), (_, right) in zip(state(one), state(other), strict=True):
            same(name, left, right)
        earlier.append((terms.total, gradients(terms.total, one)))
    for step, (total, then) in enumerate(earlier):  # parts of a batch may be added up
        for now, before in zip(gradients(total, one), then, strict=True):
            assert torch.equal(now, before), f"a later step changed the gradient of step {step}"


def state(built: Built) -> Iterator[tuple[str, object]]:
    """Return the state of a model, a loss and a user's hook that a step may change."""
    for name, module in built.model.named_modules():
        yield from _attributes(f"model.{name}", module)
    yield from _attributes("loss", built.loss)
    yield "records of a hook", built.records


def _attributes(name: str, holder: object) -> Iterator[tuple[str, object]]:
    if not hasattr(holder, "__dict__"):
        return
    values = {k: v for k, v in vars(holder).items() if not k.startswith("_") and k != "network"}
    for key, value in sorted((values | getattr(holder, "_buffers", {})).items()):
        yield f"{name}.{key}", value


@dataclass
class Same:
    """Compares values of two networks, including gradients of tensors."""

    one: Built
    other: Built
    step: int

    def __call__(self, name: str, left: object, right: object) -> None:
        what = f"{name} after step {self.step}"
        if isinstance(right, Tensor):
            assert isinstance(left, Tensor), f"{what}: a {type(left).__name__}"
            self._tensors(what, left, right)
        elif isinstance(right, Mapping):
            for key in right:
                self(f"{name}.{key}", left[key], right[key])
        elif isinstance(right, tuple | list):
            assert len(left) == len(right), f"{what}: {len(left)} items for {len(right)}: {left}"
            for index, (x, y) in enumerate(zip(left, right, strict=True)):
                self(f"{name}[{index}]", x, y)
        elif isinstance(right, bool | int | float | str | None):
            assert left == right, f"{what}: {left} for {right}"

    def _tensors(self, what: str, left: Tensor, right: Tensor) -> None:
        assert left.shape == right.shape, f"{what}: {tuple(left.shape)} for {tuple(right.shape)}"
        close = torch.allclose(left.double(), right.double(), rtol=1e-11, atol=1e-13)
        assert close, f"{what}: {left} for {right}"
        assert left.requires_grad == right.requires_grad, (
            f"{what}: graph {left.requires_grad} for {right.requires_grad}"
        )
        if right.requires_grad and not isinstance(right, nn.Parameter):
            for name, found, wanted in zip(
                self.one.trained(),
                gradients(left, self.one),
                gradients(right, self.other),
                strict=True,
            ):
                close = torch.allclose(found, wanted, rtol=1e-9, atol=1e-12)
                assert close, f"{what}: gradient in {name} {found} for {wanted}"


def gradients(value: Tensor, built: Built) -> tuple[Tensor, ...]:
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    return torch.autograd.grad(
        (value * weights).sum(),
        list(built.trained().values()),
        retain_graph=True,
        materialize_grads=True,
    )


# --- how strong a thinned penalty is ---


def check_strength(network: Network) -> None:
    """By default penalized steps have the weight lambda times the period, and other steps none."""
    one, other = build(network), build(network)
    fam, each = objective(one, **network.options), objective(other, every=1, **network.options)
    terms = fam(one.batch.inputs, one.batch.targets)
    single = each(other.batch.inputs, other.batch.targets)
    period = fam.period
    assert period == 1 or network.options.get("estimator") not in EXACT, (
        f"exact each {period} steps"
    )
    Same(one, other, 0)("penalty", terms.penalty.detach(), single.penalty.detach())
    wanted = single.loss + period * WEIGHT * single.penalty
    Same(one, other, 0)("total", terms.total, wanted)
    off = abs((terms.total - terms.loss - period * WEIGHT * terms.penalty).item())
    assert off <= 1e-15 * max(1, abs(terms.loss.item())), "the penalty has another weight"
    for step in range(1, period + 1):
        penalty = fam(one.batch.inputs, one.batch.targets).penalty
        assert (penalty is None) == (step < period), f"penalty at step {step} of {period}"


def check_pace(network: Network) -> None:
    """In the penalized layers, a thinned penalty's gradient norm is at most that of the loss."""
    built = build(network)
    weights = [built.model.get_submodule(name).weight for name in network.layers]
    if not all(weight.requires_grad for weight in weights):
        return
    fam = objective(built, **({"weight": STRONG} | network.options))
    terms = fam(built.batch.inputs, built.batch.targets)
    if fam.period == 1:
        return

    def push(value: Tensor) -> float:
        slopes = torch.autograd.grad(value, weights, retain_graph=True, materialize_grads=True)
        return math.hypot(*(float(slope.norm()) for slope in slopes))

    of_penalty, of_loss = push(terms.total - terms.loss), push(terms.loss)
    assert of_penalty <= (1 + 1e-6) * of_loss, (
        f"the penalty, taken every {fam.period} steps, pushes {of_penalty / of_loss:.2g} times as "
        "hard as the loss"
    )


# --- the suite ---


def allowed(error: FlatnessError, network: Network) -> bool:
    """Whether a refusal is allowed: a requested estimator may not apply to a network."""
    named = {"estimator", "samples"} & set(network.options)
    return bool(named) and isinstance(error, NotApplicableError)


def check(network: Network) -> str:
    """Check everything; return ``"refused"`` for an allowed refusal."""
    try:
        check_means(network)
        if network.late == "nothing":
            check_leftovers(network)
            check_strength(network)
            check_pace(network)
    except FlatnessError as error:
        if not allowed(error, network):
            raise
        return "refused"
    return "right"


@st.composite
def networks(draw: st.DrawFn, topic: str, about: object) -> Network:
    return random_networks.draw(lambda options: draw(st.sampled_from(options)), topic, about)


def check_examples(topic: str, about: object, count: int) -> None:
    answers: collections.Counter[str] = collections.Counter()

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        # Descriptions are already short, and each shrinking attempt would take seconds.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(network=networks(topic, about))
    def run(network: Network) -> None:
        answers[check(network)] += 1

    run()
    assert answers["refused"] <= count / 2, f"{answers['refused']} of {count} are refused"


EXAMPLES = int(os.environ.get("FAMSEG_EXAMPLES", "1"))
"""Networks for each subject of a topic: the simplest one; 20 every night."""
TOPICS = [
    pytest.param(topic, about, id=f"{topic}-{about if isinstance(about, str) else index}")
    for index, (topic, about) in enumerate(random_networks.topics())
]


@pytest.mark.slow
@pytest.mark.parametrize(("topic", "about"), TOPICS)
def test_random_networks(topic: str, about: object) -> None:
    check_examples(topic, about, EXAMPLES)
