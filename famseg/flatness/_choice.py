"""Which estimator holds for a pass, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from famseg.flatness._errors import LayerError, NotApplicableError, SampleInteractionError
from famseg.flatness._estimators import Pass

EstimatorName = Literal["auto", "exact", "closed_form", "columns", "hutchinson"]
ProbePer = Literal["sample", "batch"]
Method = Literal["exact", "closed_form", "columns", "sample_probes", "batch_probes"]

_EXACT_LIMIT = 4096  # entries of a weight: one Hessian-vector product each, with its graph kept


class Plan(NamedTuple):
    """The method of a pass and the reason for it, in words."""

    method: Method
    reason: str


def plan(
    estimator: EstimatorName,
    run: Pass,
    *,
    layer: str,
    closed_form: bool,
    probes: int,
    probe_per: ProbePer,
    interact: Callable[[], bool],
) -> Plan:
    """Choose the method for a pass, or refuse the estimator that was asked for.

    Args:
        estimator: What was asked for.
        run: The pass.
        layer: Name of the layer, for messages.
        closed_form: Whether the loss is a cross-entropy that has a closed form.
        probes: Number of probes.
        probe_per: Whether probes belong to a sample or to the batch.
        interact: Tells whether samples interact; called only where it matters.

    Raises:
        NotApplicableError: If the estimator does not hold for this pass.
        SampleInteractionError: If it needs samples that do not interact.
        LayerError: If the layer is too large for ``"exact"``.
    """
    if estimator == "auto":
        return _cheapest(run, closed_form=closed_form, probes=probes, interact=interact)
    if estimator == "exact":
        _check_size(run, layer)
        return Plan("exact", "as asked: the definition, d * m Hessian-vector products")
    if estimator == "closed_form":
        _check_closed_form(run, layer, closed_form)
        return Plan("closed_form", "as asked: exact, without second derivatives")
    if estimator == "hutchinson" and probe_per == "batch":
        return Plan("batch_probes", "as asked: unbiased, probes for the whole batch")
    _check_samples(run, layer, estimator, interact)
    if estimator == "columns":
        return Plan("columns", "as asked: exact, min(d, m) Hessian-vector products")
    return Plan("sample_probes", "as asked: unbiased, probes for each sample")


def _cheapest(run: Pass, *, closed_form: bool, probes: int, interact: Callable[[], bool]) -> Plan:
    if closed_form and run.is_output and run.features.ndim == 2:
        return Plan("closed_form", "exact and free: cross-entropy on the outputs of the layer")
    if run.features.ndim > 2:
        return Plan("batch_probes", "unbiased: the layer runs at several positions of a sample")
    if interact():
        return Plan("batch_probes", "unbiased: the samples of a batch interact after the layer")
    if min(run.weight.shape) <= probes:
        return Plan("columns", "exact, and no dearer than probes on a layer this narrow")
    return Plan("sample_probes", "unbiased: one Hessian-vector product a probe")


def _check_size(run: Pass, layer: str) -> None:
    d, m = run.weight.shape
    if d * m > _EXACT_LIMIT:
        raise LayerError(
            f'layer {layer!r} has {d} x {m} = {d * m} weights, and estimator "exact" takes one '
            f'Hessian-vector product for each (at most {_EXACT_LIMIT}). Use "columns", which is '
            'exact where samples do not interact, or "hutchinson".'
        )


def _check_closed_form(run: Pass, layer: str, closed_form: bool) -> None:
    instead = 'Use estimator="columns" (exact) or "hutchinson" (cheap).'
    if not closed_form:
        raise NotApplicableError(
            'estimator "closed_form" holds for nn.CrossEntropyLoss with reduction "mean" or "sum" '
            f"(the class itself) and F.cross_entropy. {instead}"
        )
    if not run.is_output:
        raise NotApplicableError(
            f'estimator "closed_form" needs the output of layer {layer!r} to be what the loss '
            f"gets, and the model returns something else. Name its last layer. {instead}"
        )
    if run.features.ndim != 2:
        raise NotApplicableError(
            f'estimator "closed_form" needs features of shape (n, m), layer {layer!r} got '
            f'{tuple(run.features.shape)}. Use estimator="hutchinson" with probe_per="batch".'
        )


def _check_samples(
    run: Pass, layer: str, estimator: EstimatorName, interact: Callable[[], bool]
) -> None:
    instead = 'Use estimator="hutchinson" with probe_per="batch", or "exact" for a small layer.'
    if run.features.ndim != 2:
        raise NotApplicableError(
            f'estimator "{estimator}" needs features of shape (n, m), layer {layer!r} got '
            f"{tuple(run.features.shape)}: the positions of a sample interact. {instead}"
        )
    if interact():
        raise SampleInteractionError(
            f"the samples of a batch influence each other's loss after layer {layer!r} (batch "
            "statistics, or a loss over the whole batch such as DiceLoss(batch=True)): estimator "
            f'"{estimator}" does not hold. {instead}'
        )
