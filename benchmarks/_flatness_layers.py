"""One layer at a time: how cost grows with its size, and what other libraries make of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from _flatness_steps import balls, bottleneck_network
from _measure import Memory, Step, missing, peak
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.func import functional_call

from famseg.flatness import FAM

CURVLINOPS_PACKAGE = "curvlinops-for-pytorch==3.0.1"
ESTIMATORS: dict[str, dict[str, object]] = {
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
        """Its weight."""
        weight = self.model.get_submodule(self.name).weight
        assert isinstance(weight, Tensor)  # noqa: S101
        return weight

    def of_weight(self, weight: Tensor) -> Tensor:
        """Return the loss as a function of the weight alone."""
        moved = {f"{self.name}.weight": weight}
        return self.loss(functional_call(self.model, moved, (self.inputs,)), self.targets)


def head(d: int, m: int, n: int = 128, *, device: str = "cpu") -> Layer:
    """Return a last layer of ``d`` classes on ``m`` features, behind a layer that makes them."""
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


def penalised(d: int, m: int, options: dict[str, object], device: str) -> Step:
    """Return a penalised step, backward included, on a head of a size."""
    layer = head(d, m, 32, device=device)
    objective = _objective(layer, options)

    def run() -> None:
        layer.model.zero_grad()
        objective(layer.inputs, layer.targets).total.backward()

    return Step(run)


def full_hessian(d: int, m: int, device: str) -> Step:
    """Return kappa by the whole Hessian of ``torch.func`` on a head of a size, with backward."""
    layer = head(d, m, 32, device=device)

    def run() -> None:
        layer.model.zero_grad()
        contracted(layer).backward()

    return Step(run)


def contracted(layer: Layer) -> Tensor:
    """Return kappa from ``torch.func.hessian``, the definition read off the whole matrix."""
    weight = layer.weight
    hessian = torch.func.hessian(layer.of_weight)(weight)
    return torch.einsum("si,ti,sktk->", weight, weight, hessian)


class Growth(NamedTuple):
    """Cost of one step on a layer of one size; ``None`` where it does not fit into memory."""

    estimator: str
    d: int
    m: int
    seconds: float | None
    memory: Memory | None


def growth(
    sizes: list[tuple[int, int]], device: str, threads: int, limit: int, say: Callable[[str], None]
) -> list[Growth]:
    """Return the costs of all estimators at all sizes, and of the whole Hessian while it fits."""
    found, fits = [], True
    for d, m in sizes:
        say(f"  {d} x {m}")
        for name, options in ESTIMATORS.items():
            build = partial(penalised, d, m, options, device)
            memory = peak(build, device, threads, before=partial(penalised, 4, 4, options, device))
            found.append(Growth(name, d, m, _fastest(build()), memory))
        if fits:
            build = partial(full_hessian, d, m, device)
            before = partial(full_hessian, 4, 4, device)
            memory = peak(build, device, threads, before=before, limit=limit)
            fits = memory is not None
            found.append(
                Growth("torch.func.hessian", d, m, _fastest(build(), 3) if fits else None, memory)
            )
    return found


def exponent(pairs: list[tuple[float, float]]) -> float:
    """Return the slope of a line through the upper half of points on logarithmic axes."""
    upper = sorted(pairs)[len(pairs) // 2 :]
    x, y = torch.tensor(upper, dtype=torch.float64).log().T
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())


class Peer(NamedTuple):
    """One way to a number on one layer.

    Attributes:
        layer: The layer, in words.
        way: How.
        quantity: What comes out.
        differentiable: Whether it can be trained on.
        value: The number; ``None`` if it was not computed.
        error: How far it is from the exact one, relative to that.
        seconds: Fastest of some runs, value alone.
        missing: Why it was not computed.
    """

    layer: str
    way: str
    quantity: str
    differentiable: bool
    value: float | None = None
    error: float | None = None
    seconds: float | None = None
    missing: str | None = None


def peers(words: str, layer: Layer, estimators: list[str], *, hessian: bool) -> list[Peer]:
    """Return what we and others find on a layer.

    Args:
        words: Its name in the table.
        layer: The layer.
        estimators: Those of ours that hold there.
        hessian: Whether the whole Hessian fits.
    """
    exact_way = "closed_form" if "closed_form" in estimators else "columns"
    exact = _kappa(layer, exact_way)
    trace = _objective(layer, {"estimator": exact_way, "quantity": "simplified"})
    exact_trace = trace.measure(layer.inputs, layer.targets).kappa.item()
    exact_trace /= layer.weight.square().sum().item()
    found = []
    for name in estimators:
        run = partial(_kappa, layer, name)
        found.append(_peer(words, f"famseg {name}", "kappa", True, run, exact))
    if hessian:
        way = "torch.func.hessian, contracted"
        found.append(_peer(words, way, "kappa", True, lambda: contracted(layer).item(), exact))
    else:
        found.append(Peer(words, "torch.func.hessian", "kappa", True, missing="does not fit"))
    reason = missing("curvlinops", CURVLINOPS_PACKAGE)
    way, quantity = "curvlinops, Hutchinson, 20 products", "Tr(H), not kappa"
    if reason is not None:
        return [*found, Peer(words, way, quantity, False, missing=f"not installed: {reason}")]
    return [*found, _peer(words, way, quantity, False, lambda: _trace(layer, 20), exact_trace)]


def _objective(layer: Layer, options: dict[str, object]) -> FAM:
    fixed: dict[str, object] = {"weight": 0.1, "every": 1, "samples": "all", "bound": "none"}
    return FAM(layer.model, layer=layer.name, loss=layer.loss, **(fixed | options))  # type: ignore[arg-type]


def _kappa(layer: Layer, estimator: str) -> float:
    # A new one each time would look at the network anew.
    key = (id(layer.model), estimator)
    if key not in _OBJECTIVES:
        _OBJECTIVES[key] = _objective(layer, {"estimator": estimator})
    return _OBJECTIVES[key].measure(layer.inputs, layer.targets).kappa.item()


_OBJECTIVES: dict[tuple[int, str], FAM] = {}


def _trace(layer: Layer, products: int) -> float:
    from curvlinops import HessianLinearOperator, hutchinson_trace

    operator = HessianLinearOperator(
        layer.model,
        layer.loss,
        [layer.weight],
        [(layer.inputs, layer.targets)],
        check_deterministic=False,
    )
    return float(hutchinson_trace(operator, products))


def _peer(
    words: str,
    way: str,
    quantity: str,
    differentiable: bool,
    run: Callable[[], float],
    exact: float,
) -> Peer:
    try:
        value = run()
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        why = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
        return Peer(words, way, quantity, differentiable, missing=why)
    error = abs(value - exact) / abs(exact)
    return Peer(words, way, quantity, differentiable, value, error, _fastest(Step(run), 5))


def _fastest(step: Step, count: int = 20) -> float:
    """Seconds of the fastest of some runs: what others do to the machine only adds."""
    step.run()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        step.run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)
