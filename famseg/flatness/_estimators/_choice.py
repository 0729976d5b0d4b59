"""Choice of the estimator for a pass, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from famseg.flatness._errors import LayerError, NotApplicableError, SampleInteractionError
from famseg.flatness._options import EstimatorName, Options
from famseg.flatness._tracing._body import Finished
from famseg.flatness._tracing._parts import Found
from famseg.flatness._tracing._pass import Noting, Task
from famseg.flatness._tracing._samples import Cut

Method = Literal["exact", "closed_form", "columns", "sample_probes", "batch_probes", "eigenvalues"]
Curvature = Literal["hessian", "gauss_newton", "finite_difference", "noise"]

_EXACT_LIMIT = 4096  # entries of a weight; each needs a Hessian-vector product whose graph is kept
_SAMPLE_LIMIT = 2**24  # numbers, which are 64 MB of probes in float32
_SAMPLEWISE = ("closed_form", "columns", "sample_probes")
_EVERY, _EVERY_WHOLE = 4, 10  # measured: see benchmarks/flatness.py


_SHARES = {1.0: "", 0.5: ", on half of the batch", 0.25: ", on a quarter of the batch"}


class Level(NamedTuple):
    """A degree of thinning.

    Attributes:
        every: Interval between penalized steps.
        share: The share of the batch used for the penalty.
    """

    every: int
    share: float


class LayerFacts(NamedTuple):
    """What a pass revealed about a layer.

    Attributes:
        rows: Shape of the rows of its weight, ``(g, d, m)``.
        single: Whether a sample is one feature vector.
        obstacle: Reason why it has no closed form; ``None`` if it has one.
        features: Shape of its input.
    """

    rows: tuple[int, int, int]
    single: bool
    obstacle: str | None
    features: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What a pass revealed about the network after the layers.

    Attributes:
        layers: The layers, by name.
        interact: Whether the samples of a batch interact there; ``None`` if this is unknown.
        parts: Which tensors hold samples, and whether a part can replace the batch.
        twice: Whether it has second derivatives.
        noting: How the call of the loss function was found.
    """

    layers: Mapping[str, LayerFacts]
    interact: bool | None
    parts: Found
    twice: bool = True
    noting: Noting = "nowhere"


class LayerPlan(NamedTuple):
    """The method for a layer, and the reason for choosing it."""

    name: str
    method: Method
    reason: str


@dataclass(frozen=True)
class Plan:
    """The way a penalized step is computed.

    Attributes:
        layers: The methods.
        curvature: The curvature matrix that is multiplied by directions.
        every: Interval between penalized steps.
        part: Number of samples used for the penalty: a number, ``"quarter"`` or ``"all"``.
        cut: Which tensors hold samples, used to select a part; ``None`` if no part can replace the
            batch.
        body: Modules that finished before the first layer began and need not run again.
        interact: Whether samples may interact.
        eager: Whether compiled modules must run uncompiled.
        twice: Whether the loss has second derivatives in the layers' outputs.
        jets: Whether the direction of a probe is propagated through the forward pass of training.
        noting: How the call of the loss function is found, for closed forms.
        copies: Whether model or loss change their arguments in place.
    """

    layers: tuple[LayerPlan, ...]
    curvature: Curvature
    every: int
    part: int | Literal["quarter", "all"]
    cut: Cut | None
    body: tuple[Finished, ...]
    interact: bool
    eager: bool
    twice: bool
    jets: bool = False
    noting: Noting = "nowhere"
    copies: bool = False

    @property
    def is_free(self) -> bool:
        """Whether the penalty needs no extra differentiation."""
        return _is_free(self.layers)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers."""
        return tuple(one.name for one in self.layers)

    def describe(self, name: str, level: Level) -> str:
        """Describe how and how often a layer is penalized."""
        _, method, reason = self.layers[self.names.index(name)]
        often = f"; every {level.every} steps" if level.every > 1 else ""
        if isinstance(self.part, int):
            return f"{method}, {reason}{often}, on {self.part} samples"
        return f"{method}, {reason}{often}{_SHARES[level.share]}"

    def applied_to(self, task: Task) -> Task:
        """Return the task, set up to run as planned."""
        return replace(task, eager=self.eager, noting=self.noting, copies=self.copies)

    def unless_thinner_than(self, before: Plan) -> Plan:
        """Return this plan, or an earlier one that differs only by using a part of the batch.

        Whether a part can replace the batch is checked for every batch, so a batch for which it
        cannot does not affect the others.
        """
        part = replace(self, every=before.every, part=before.part, cut=before.cut, body=before.body)
        whole = self.part == "all" and before.part != "all"
        return before if whole and part == before else self


def plan(options: Options, facts: Facts, *, eager: bool = False, copies: bool = False) -> Plan:
    """Choose the method, or refuse the requested one.

    Raises:
        NotApplicableError: If the estimator is not valid for the observed pass.
        SampleInteractionError: If the estimator needs samples that do not interact.
        LayerError: If a layer is too large for ``"exact"``.
    """
    layers = tuple(_layer_plan(options, facts, name) for name in facts.layers)
    curvature: Curvature = "hessian"
    if options.estimator in ("gauss_newton", "finite_difference", "noise"):
        curvature = options.estimator
    part = _part(options, facts, layers, curvature)
    every = options.every
    if every == "auto":
        thin = options.estimator == "auto" and not _is_free(layers)
        every = 1 if not thin else _EVERY_WHOLE if part == "all" else _EVERY
    return Plan(
        layers,
        curvature,
        every,
        part,
        facts.parts.cut,
        facts.parts.body,
        bool(facts.interact),
        eager,
        facts.twice,
        copies=copies,
        noting=facts.noting if any(one.method == "closed_form" for one in layers) else "nowhere",
    )


def _is_free(layers: Sequence[LayerPlan]) -> bool:
    return all(one.method == "closed_form" for one in layers)


def _layer_plan(options: Options, facts: Facts, name: str) -> LayerPlan:
    if options.quantity == "max_eigenvalue":
        return LayerPlan(name, "eigenvalues", "largest eigenvalues of the neurons' blocks")
    layer, estimator = facts.layers[name], options.estimator
    if estimator == "auto":
        return _cheapest(options, facts, name)
    if estimator == "exact":
        _check_size(layer, name)
        return LayerPlan(name, "exact", "as asked: the definition, d * m Hessian-vector products")
    if estimator == "closed_form":
        _check_closed_form(layer, name)
        return LayerPlan(name, "closed_form", "as asked: exact, without second derivatives")
    if estimator == "noise":
        return _noise(layer, facts, name)
    kind = {
        "gauss_newton": "biased where the tail is not piecewise linear: Gauss-Newton curvature",
        "finite_difference": "differences of the first derivative",
    }.get(estimator, "unbiased")
    if not facts.twice:  # it is unknown whether samples interact
        reason = f"{kind}, probes for the whole batch: the loss is differentiated only once"
        return LayerPlan(name, "batch_probes", reason)
    if estimator != "columns" and options.probe_per == "batch":
        return LayerPlan(name, "batch_probes", f"as asked: {kind}, probes for the whole batch")
    _check_samples(layer, facts, name, estimator)
    if estimator == "columns":
        return LayerPlan(name, "columns", "as asked: exact, min(d, m) Hessian-vector products")
    return LayerPlan(name, "sample_probes", f"as asked: {kind}, probes for each sample")


def _cheapest(options: Options, facts: Facts, name: str) -> LayerPlan:
    layer = facts.layers[name]
    _, d, m = layer.rows
    if layer.obstacle is None:
        reason = "exact and free: the loss has a closed form there"
        return LayerPlan(name, "closed_form", reason)
    if facts.interact is not False:
        reason = "unbiased: the samples of a batch interact after the layer"
        if facts.interact is None:
            reason = "unbiased: it is not yet known whether the samples of a batch interact"
        return LayerPlan(name, "batch_probes", reason)
    products = d if options.quantity == "simplified" else min(d, m)
    if layer.single and products <= options.probes:
        reason = "exact, and as cheap as probes on a layer this narrow"
        return LayerPlan(name, "columns", reason)
    if not layer.single and layer.features[0] * math.prod(layer.rows) > _SAMPLE_LIMIT:
        reason = "unbiased: probes for each sample would not fit into memory"
        return LayerPlan(name, "batch_probes", reason)
    return LayerPlan(name, "sample_probes", "unbiased: one Hessian-vector product per probe")


def _noise(layer: LayerFacts, facts: Facts, name: str) -> LayerPlan:
    if layer.single and facts.interact is False:
        return LayerPlan(
            name, "sample_probes", "as asked: relative noise of each sample's features"
        )
    return LayerPlan(name, "batch_probes", "as asked: relative noise of the weight")


def _part(
    options: Options, facts: Facts, layers: Sequence[LayerPlan], curvature: Curvature
) -> int | Literal["quarter", "all"]:
    """Return the number of samples used for the penalty."""
    asked = options.samples
    if asked == "all" or (asked == "auto" and options.estimator != "auto"):
        return "all"
    reason = None
    if curvature == "noise" or _is_free(layers):
        reason = "the penalty is so cheap that a part of the batch would save nothing"
    elif whole := [one for one in layers if one.method not in _SAMPLEWISE]:
        reason = (
            f"the value is defined only for the whole batch ({whole[0].method}, {whole[0].reason})"
        )
    elif facts.parts.cut is None:
        reason = facts.parts.reason
    if reason is None:
        return "quarter" if asked == "auto" else asked
    if asked == "auto":
        return "all"
    raise NotApplicableError(f'samples={asked} cannot be used: {reason}. Use samples="all".')


def _check_size(layer: LayerFacts, name: str) -> None:
    groups, d, m = layer.rows
    size = groups * d * m
    if size > _EXACT_LIMIT:
        raise LayerError(
            f'layer {name!r} has {groups * d} x {m} = {size} weights, and estimator "exact" takes '
            f'one Hessian-vector product for each (at most {_EXACT_LIMIT}). Use "columns", which '
            'is exact where samples do not interact, or "hutchinson".'
        )


def _check_closed_form(layer: LayerFacts, name: str) -> None:
    if layer.obstacle is not None:
        raise NotApplicableError(
            f'estimator "closed_form" cannot be used at layer {name!r}: {layer.obstacle}. It needs '
            "torch's cross-entropy, squared error or binary cross-entropy, with reduction mean or "
            "sum, applied to the layer's own output. Name the last layer, or name with output= the "
            'part of the model\'s output that the loss uses; or use estimator="columns" (exact) or '
            '"hutchinson" (cheap).'
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
