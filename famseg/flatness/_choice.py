"""Which estimator holds for a pass, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from famseg.flatness._errors import LayerError, NotApplicableError, SampleInteractionError
from famseg.flatness._factor import Quantity

EstimatorName = Literal[
    "auto",
    "exact",
    "closed_form",
    "columns",
    "hutchinson",
    "gauss_newton",
    "finite_difference",
    "noise",
]
ProbePer = Literal["sample", "batch"]
Method = Literal["exact", "closed_form", "columns", "sample_probes", "batch_probes", "eigenvalues"]
Curvature = Literal["hessian", "gauss_newton", "finite_difference", "noise"]

_EXACT_LIMIT = 4096  # entries of a weight: one Hessian-vector product each, with its graph kept
_SAMPLE_LIMIT = 2**24  # numbers: 64 MB of probes in float32
_PART = 4  # a quarter of the batch pays a quarter of the second derivatives
_SAMPLEWISE = ("closed_form", "columns", "sample_probes")
_EVERY, _EVERY_WHOLE = 4, 10  # measured: see benchmarks/flatness.py


class LayerFacts(NamedTuple):
    """What a pass showed of a layer.

    Attributes:
        rows: Its rows, ``(g, d, m)``.
        single: Whether a sample is one feature vector.
        is_output: Whether its output is what the loss was given.
        features: Shape of its input.
    """

    rows: tuple[int, int, int]
    single: bool
    is_output: bool
    features: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What a pass showed of the network behind the layers.

    Attributes:
        layers: The layers, by name.
        interact: Whether the samples of a batch interact there; ``None`` if it cannot tell.
        cut: Whether all that the loss gets from the body goes through the first layer.
        additive: Whether the loss is the mean of its samples' losses.
        twice: Whether it has second derivatives at all.
    """

    layers: Mapping[str, LayerFacts]
    interact: bool | None
    cut: bool
    additive: bool
    twice: bool = True


@dataclass(frozen=True)
class Request:
    """What was asked for; see `famseg.flatness.FAM`."""

    estimator: EstimatorName
    quantity: Quantity
    closed_form: bool
    probes: int
    probe_per: ProbePer
    every: int | Literal["auto"]
    samples: int | Literal["auto", "all"]


class LayerPlan(NamedTuple):
    """The method for a layer and the reason for it, in words."""

    name: str
    method: Method
    reason: str


@dataclass(frozen=True)
class Plan:
    """How a penalised step is computed.

    Attributes:
        layers: The methods.
        curvature: What is multiplied by directions.
        every: Each how manieth step is penalised.
        part: How many samples the penalty looks at: a number, ``"quarter"`` or ``"all"``.
        cut: Whether the tail can be run without the body.
        interact: Whether samples may interact.
        eager: Whether compiled modules must run as they were written.
        twice: Whether the loss has second derivatives in the layers' outputs.
    """

    layers: tuple[LayerPlan, ...]
    curvature: Curvature
    every: int
    part: int | Literal["quarter", "all"]
    cut: bool
    interact: bool
    eager: bool
    twice: bool

    @property
    def is_free(self) -> bool:
        """Whether nothing is differentiated for the penalty."""
        return _is_free(self.layers)

    def describe(self, index: int) -> str:
        """Say in words how a layer is penalised, by its number."""
        _, method, reason = self.layers[index]
        often = f"; each {self.every} steps" if self.every > 1 else ""
        part = f"{self.part} samples" if isinstance(self.part, int) else "a quarter of the batch"
        return f"{method}, {reason}{often}" + (f", on {part}" if self.part != "all" else "")

    def size(self, n: int) -> int:
        """Return how many of ``n`` samples the penalty looks at."""
        if self.part == "all":
            return n
        return math.ceil(n / _PART) if self.part == "quarter" else min(self.part, n)


def plan(request: Request, facts: Facts, *, eager: bool = False) -> Plan:
    """Choose how to penalise, or refuse what was asked for.

    Raises:
        NotApplicableError: If the estimator does not hold for what the pass showed.
        SampleInteractionError: If it needs samples that do not interact.
        LayerError: If a layer is too large for ``"exact"``.
    """
    layers = tuple(_layer_plan(request, facts, name) for name in facts.layers)
    curvature: Curvature = "hessian"
    if request.estimator in ("gauss_newton", "finite_difference", "noise"):
        curvature = request.estimator
    part = _part(request, facts, layers, curvature)
    every = request.every
    if every == "auto":
        free = curvature == "noise" or _is_free(layers)
        every = 1 if free else _EVERY_WHOLE if part == "all" else _EVERY
    return Plan(layers, curvature, every, part, facts.cut, bool(facts.interact), eager, facts.twice)


def _is_free(layers: Sequence[LayerPlan]) -> bool:
    return all(one.method == "closed_form" for one in layers)


def _layer_plan(request: Request, facts: Facts, name: str) -> LayerPlan:
    if request.quantity == "max_eigenvalue":
        return LayerPlan(name, "eigenvalues", "largest eigenvalues of the neurons' blocks")
    layer, estimator = facts.layers[name], request.estimator
    if estimator == "auto":
        return _cheapest(request, facts, name)
    if estimator == "exact":
        _check_size(layer, name)
        return LayerPlan(name, "exact", "as asked: the definition, d * m Hessian-vector products")
    if estimator == "closed_form":
        _check_closed_form(layer, name, request.closed_form)
        return LayerPlan(name, "closed_form", "as asked: exact, without second derivatives")
    if estimator == "noise":
        return _noise(layer, facts, name)
    kind = {
        "gauss_newton": "biased where the tail is not piecewise linear: Gauss-Newton curvature",
        "finite_difference": "differences of the first derivative",
    }.get(estimator, "unbiased")
    if not facts.twice:  # whether samples interact cannot be told
        reason = f"{kind}, probes for the whole batch: the loss is differentiated once alone"
        return LayerPlan(name, "batch_probes", reason)
    if estimator != "columns" and request.probe_per == "batch":
        return LayerPlan(name, "batch_probes", f"as asked: {kind}, probes for the whole batch")
    _check_samples(layer, facts, name, estimator)
    if estimator == "columns":
        return LayerPlan(name, "columns", "as asked: exact, min(d, m) Hessian-vector products")
    return LayerPlan(name, "sample_probes", f"as asked: {kind}, probes for each sample")


def _cheapest(request: Request, facts: Facts, name: str) -> LayerPlan:
    layer = facts.layers[name]
    _, d, m = layer.rows
    if request.closed_form and layer.is_output and layer.single:
        reason = "exact and free: the loss has a closed form there"
        return LayerPlan(name, "closed_form", reason)
    if facts.interact:
        reason = "unbiased: the samples of a batch interact after the layer"
        return LayerPlan(name, "batch_probes", reason)
    products = d if request.quantity == "simplified" else min(d, m)
    if layer.single and products <= request.probes:
        reason = "exact, and no dearer than probes on a layer this narrow"
        return LayerPlan(name, "columns", reason)
    if not layer.single and layer.features[0] * math.prod(layer.rows) > _SAMPLE_LIMIT:
        reason = "unbiased: probes for each sample would not fit into memory"
        return LayerPlan(name, "batch_probes", reason)
    return LayerPlan(name, "sample_probes", "unbiased: one Hessian-vector product a probe")


def _noise(layer: LayerFacts, facts: Facts, name: str) -> LayerPlan:
    if layer.single and facts.interact is False:
        return LayerPlan(
            name, "sample_probes", "as asked: relative noise of each sample's features"
        )
    return LayerPlan(name, "batch_probes", "as asked: relative noise of the weight")


def _part(
    request: Request, facts: Facts, layers: Sequence[LayerPlan], curvature: Curvature
) -> int | Literal["quarter", "all"]:
    """How many samples the penalty looks at."""
    asked = request.samples
    if asked == "all":
        return "all"
    reason = None
    if curvature == "noise" or _is_free(layers):
        reason = "the penalty costs nothing that a part would save"
    elif whole := [one for one in layers if one.method not in _SAMPLEWISE]:
        reason = f"the value belongs to the whole batch ({whole[0].method}, {whole[0].reason})"
    elif not facts.cut:
        reason = (
            f"something leads around layer {layers[0].name!r} to the loss (a skip connection), so "
            "the network behind it cannot be run alone"
        )
    elif not facts.additive:
        reason = (
            "the loss of the batch is not the mean of its samples' losses (dropout after the "
            "layer, or weights that are normalised over the batch)"
        )
    if reason is None:
        return "quarter" if asked == "auto" else asked
    if asked == "auto":
        return "all"
    raise NotApplicableError(f'samples={asked} does not hold: {reason}. Use samples="all".')


def _check_size(layer: LayerFacts, name: str) -> None:
    groups, d, m = layer.rows
    size = groups * d * m
    if size > _EXACT_LIMIT:
        raise LayerError(
            f'layer {name!r} has {groups * d} x {m} = {size} weights, and estimator "exact" takes '
            f'one Hessian-vector product for each (at most {_EXACT_LIMIT}). Use "columns", which '
            'is exact where samples do not interact, or "hutchinson".'
        )


def _check_closed_form(layer: LayerFacts, name: str, closed_form: bool) -> None:
    instead = 'Use estimator="columns" (exact) or "hutchinson" (cheap).'
    if not closed_form:
        raise NotApplicableError(
            'estimator "closed_form" holds for nn.CrossEntropyLoss, nn.MSELoss and '
            'nn.BCEWithLogitsLoss with reduction "mean" or "sum" (the classes themselves) and '
            f"for F.cross_entropy, F.mse_loss and F.binary_cross_entropy_with_logits. {instead}"
        )
    if not layer.is_output:
        raise NotApplicableError(
            f'estimator "closed_form" needs the output of layer {name!r} to be what the loss gets, '
            f"and the model returns something else. Name its last layer, or by output= the part "
            f"of the model's output that the loss takes. {instead}"
        )
    if not layer.single:
        raise NotApplicableError(
            f'estimator "closed_form" needs features of shape (n, m), layer {name!r} got '
            f'{layer.features}. Use estimator="hutchinson" with probe_per="batch".'
        )


def _check_samples(layer: LayerFacts, facts: Facts, name: str, estimator: EstimatorName) -> None:
    instead = 'Use estimator="hutchinson" with probe_per="batch", or "exact" for a small layer.'
    if estimator == "columns" and not layer.single:
        raise NotApplicableError(
            f'estimator "columns" needs features of shape (n, m), layer {name!r} got '
            f"{layer.features}: the positions of a sample interact. {instead}"
        )
    if facts.interact:
        raise SampleInteractionError(
            f"the samples of a batch influence each other's loss after layer {name!r} (batch "
            "statistics, or a loss over the whole batch such as DiceLoss(batch=True)): estimator "
            f'"{estimator}" does not hold. {instead}'
        )
