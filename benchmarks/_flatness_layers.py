"""Single layers: growth of cost with size, and comparison with other libraries."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from _flatness_steps import balls, bottleneck_network
from _measure import Step, missing, say
from _memory import Memory, peak
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.func import functional_call

from famseg.flatness import FAM, FlatnessError

HESSIAN_LIMIT = 4 * 2**30  # bytes that the whole Hessian may take in addition to the libraries
_ENOUGH = 4.0  # seconds of timing per method
# Without --no-deps it brings torchvision and another torch.
CURVLINOPS_PACKAGES = (
    "--no-deps curvlinops-for-pytorch==3.0.1 backpack-for-pytorch==1.7.1 linear_operator==0.6.1 "
    "einconv==0.1.0 unfoldNd==0.2.3 einops==0.8.2 opt_einsum==3.4.0"
)
ESTIMATORS: dict[str, dict[str, object]] = {
    "plain step": {"weight": 0},
    "closed form": {"estimator": "closed_form"},
    "hutchinson, per sample": {"estimator": "hutchinson"},
    "hutchinson, per batch": {"estimator": "hutchinson", "probe_per": "batch"},
    "noise": {"estimator": "noise"},
}


class Layer(NamedTuple):
    """A layer to measure: a network, the layer's name, a loss, and a batch."""

    model: nn.Module
    name: str
    loss: Callable[..., Tensor]
    inputs: Tensor
    targets: Tensor

    @property
    def weight(self) -> Tensor:
        """The layer's weight."""
        weight = self.model.get_submodule(self.name).weight
        assert isinstance(weight, Tensor)  # noqa: S101
        return weight

    def of_weight(self, weight: Tensor) -> Tensor:
        """Return the loss as a function of the weight alone."""
        moved = {f"{self.name}.weight": weight}
        return self.loss(functional_call(self.model, moved, (self.inputs,)), self.targets)


def head(d: int, m: int, n: int = 128, *, device: str = "cpu") -> Layer:
    """Return a head with ``d`` classes on the ``m`` features of a preceding layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, m), nn.ReLU(), nn.Linear(m, d)).to(device)
    inputs, targets = torch.randn(n, 16), torch.randint(0, d, (n,))
    return Layer(model, "2", nn.CrossEntropyLoss(), inputs.to(device), targets.to(device))


def bottleneck(size: int = 16, *, device: str = "cpu") -> Layer:
    """Return the layer of 64 x 8 in a small autoencoder under a Dice loss."""
    torch.manual_seed(0)
    inputs, targets = (tensor.to(device) for tensor in balls(4, size))
    model = bottleneck_network(size).to(device)
    return Layer(model, "expand", DiceLoss(sigmoid=True), inputs, targets)


def penalized(d: int, m: int, options: dict[str, object], device: str) -> Step:
    """Return a step, including the backward pass, on a head of a given size."""
    layer = head(d, m, 32, device=device)
    objective = _objective(layer, options)

    def run() -> None:
        layer.model.zero_grad()
        objective(layer.inputs, layer.targets).total.backward()

    return Step(run)


def full_hessian(d: int, m: int, device: str) -> Step:
    """Return a step with kappa from the whole Hessian by ``torch.func`` on a head of given size."""
    layer = head(d, m, 32, device=device)

    def run() -> None:
        layer.model.zero_grad()
        contracted(layer).backward()

    return Step(run)


def contracted(layer: Layer) -> Tensor:
    """Return kappa by its definition from the whole matrix of ``torch.func.hessian``."""
    weight = layer.weight
    hessian = torch.func.hessian(layer.of_weight)(weight)
    return torch.einsum("si,ti,sktk->", weight, weight, hessian)


class Growth(NamedTuple):
    """Cost of one step on a layer of one size; ``None`` where it does not fit into memory.

    Attributes:
        varied: Which of the two sizes is varied: ``"d"`` or ``"m"``.
        estimator: Name of the estimator.
        d: Outputs of the layer.
        m: Features.
        seconds: Fastest of some runs.
        memory: Peak.
    """

    varied: str
    estimator: str
    d: int
    m: int
    seconds: float | None
    memory: Memory | None


def growth(varied: str, sizes: list[tuple[int, int]], device: str, threads: int) -> list[Growth]:
    """Return the costs of all estimators at sizes, and of the whole Hessian while it fits.

    Args:
        varied: Which of the two is varied: ``"d"`` or ``"m"``.
        sizes: Outputs and features, ascending.
        device: Device of the layer.
        threads: Threads that a process may use.
    """
    found, fits = [], True
    for d, m in sizes:
        say(f"  {d} x {m}")
        for name, options in ESTIMATORS.items():
            build = partial(penalized, d, m, options, device)
            memory = peak(build, device, threads, before=partial(penalized, 4, 4, options, device))
            found.append(Growth(varied, name, d, m, _fastest(build()), memory))
        if fits:
            build = partial(full_hessian, d, m, device)
            before = partial(full_hessian, 4, 4, device)
            memory = peak(build, device, threads, before=before, limit=HESSIAN_LIMIT)
            fits = memory is not None
            seconds = _fastest(build(), 3) if fits else None
            found.append(Growth(varied, "torch.func.hessian", d, m, seconds, memory))
    return found


def exponent(pairs: list[tuple[float, float]]) -> float:
    """Return the slope of a line through the three largest points on logarithmic axes."""
    upper = sorted(pairs)[-3:]
    x, y = torch.tensor(upper, dtype=torch.float64).log().T
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())


class Peer(NamedTuple):
    """A method that computes a quantity on a layer.

    Attributes:
        layer: The layer, in words.
        way: How.
        quantity: The computed quantity.
        differentiable: Whether it can be trained on.
        value: The number, the mean over draws; ``None`` if it was not computed.
        error: Its relative error.
        noise: Standard deviation of one draw, relative to the exact value; ``None`` without draws.
        standard_error: Standard error of the mean over draws, relative to the exact value.
        seconds: Fastest of some runs, value alone.
        memory: Peak memory for the value alone, in a separate process.
        missing: Why it was not computed.
    """

    layer: str
    way: str
    quantity: str
    differentiable: bool
    value: float | None = None
    error: float | None = None
    noise: float | None = None
    standard_error: float | None = None
    seconds: float | None = None
    memory: Memory | None = None
    missing: str | None = None


def peers(
    words: str,
    make: Callable[[], Layer],
    estimators: list[str],
    device: str,
    threads: int,
    draws: int,
) -> list[Peer]:
    """Return the results of famseg and other libraries on a layer.

    Args:
        words: Its name in the table.
        make: Makes the layer; can be sent to another process.
        estimators: Applicable estimators of famseg; the first one is exact.
        device: Device of the layer.
        threads: Threads that a process may use.
        draws: Number of draws of a random method, at least 2.
    """
    layer = make()
    exact = _kappa(estimators[0], layer)
    trace = _objective(layer, {"estimator": estimators[0], "quantity": "simplified"})
    exact_trace = trace.measure(layer.inputs, layer.targets).kappa.item()
    exact_trace /= layer.weight.square().sum().item()
    ways: list[tuple[Peer, Callable[..., float], float]] = [
        (Peer(words, f"famseg {name}", "kappa", True), partial(_kappa, name), exact)
        for name in estimators
    ]
    way = "torch.func.hessian, contracted"
    ways.append((Peer(words, way, "kappa", True), _whole, exact))
    reason = missing("curvlinops", CURVLINOPS_PACKAGES)
    trace_peer = Peer(words, "curvlinops, Hutchinson, 20 products", "Tr(H), not kappa", False)
    if reason is None:
        ways.append((trace_peer, _trace, exact_trace))
    found = [
        _measured(*way, layer, draws, partial(_weighed, make, device, threads)) for way in ways
    ]
    if reason is not None:
        found.append(trace_peer._replace(missing=f"not installed: {reason}"))
    return found


def _objective(layer: Layer, options: dict[str, object]) -> FAM:
    fixed: dict[str, object] = {"weight": 0.1, "every": 1, "samples": "all", "bound": "none"}
    return FAM(layer.model, layer=layer.name, loss=layer.loss, **(fixed | options))  # type: ignore[arg-type]


def _kappa(estimator: str, layer: Layer, draw: int = 0) -> float:
    # A new one each time would analyze the network again.
    key = (id(layer.model), estimator)
    if key not in _OBJECTIVES:
        _OBJECTIVES[key] = _objective(layer, {"estimator": estimator})
    # Probes depend on the position: without this all draws would be identical.
    _OBJECTIVES[key].seek(draw)
    return _OBJECTIVES[key].measure(layer.inputs, layer.targets).kappa.item()


_OBJECTIVES: dict[tuple[int, str], FAM] = {}


def _whole(layer: Layer, draw: int = 0) -> float:
    return contracted(layer).item()


def _trace(layer: Layer, draw: int = 0) -> float:
    from curvlinops import HessianLinearOperator, hutchinson_trace

    torch.manual_seed(draw)
    operator = HessianLinearOperator(
        layer.model,
        layer.loss,
        [layer.weight],
        [(layer.inputs, layer.targets)],
        check_deterministic=False,
    )
    return float(hutchinson_trace(operator, 20))


def _measured(
    peer: Peer,
    value: Callable[..., float],
    exact: float,
    layer: Layer,
    count: int,
    weigh: Callable[[Callable[..., float]], Memory | None],
) -> Peer:
    try:
        draws = [value(layer, k) for k in range(2)]
        if draws[0] != draws[1]:
            draws += [value(layer, k) for k in range(2, count)]
    except FlatnessError as error:
        return peer._replace(missing=f"refused: {str(error).partition('. ')[0]}.")
    except RuntimeError as error:  # raised by torch under functional transforms
        return peer._replace(missing=f"failed: {str(error).splitlines()[0][:120]}")
    mean, noise = statistics.fmean(draws), statistics.stdev(draws) / abs(exact)
    random = draws[0] != draws[1]
    return peer._replace(
        value=mean,
        error=abs(mean - exact) / abs(exact),
        noise=noise if random else None,
        standard_error=noise / len(draws) ** 0.5 if random else None,
        seconds=_fastest(Step(lambda: value(layer)), 5),
        memory=weigh(value),
    )


def _weighed(
    make: Callable[[], Layer], device: str, threads: int, value: Callable[..., float]
) -> Memory | None:
    small = partial(_valued, value, partial(head, 8, 8, device=device))
    return peak(partial(_valued, value, make), device, threads, before=small)


def _valued(value: Callable[..., float], make: Callable[[], Layer]) -> Step:
    return Step(partial(value, make()))


def _fastest(step: Step, count: int = 20) -> float:
    """Seconds of the fastest of some runs, since load by other processes can only add time."""
    step.run()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        step.run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        if sum(times) > _ENOUGH:
            break
    return min(times)
