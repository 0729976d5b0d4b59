"""Execution of one penalized step according to its plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from famseg.flatness._estimators._choice import Plan
from famseg.flatness._estimators._differences import difference, noisy
from famseg.flatness._estimators._estimate import Rule, directions, estimate
from famseg.flatness._estimators._products import Draw, gauss_newton
from famseg.flatness._jets._penalty import along, carried
from famseg.flatness._terms import Estimate, Terms
from famseg.flatness._tracing._arguments import Inputs
from famseg.flatness._tracing._parts import is_mean, stands_for_batch
from famseg.flatness._tracing._pass import (
    Recorded,
    Task,
    check_rows,
    deviation,
    differentiable,
    record,
    replay,
    standardized,
    uses_of,
)
from famseg.flatness._tracing._uses import Pass, Product, Use, hessian
from famseg.flatness._tracing._watch import (
    Care,
    Edit,
    Site,
    add_shift,
    autocast_on,
    without_autocast,
)

Choose = Callable[[int], Tensor]
"""Returns some or all of the numbers below the given one."""


class Penalized(NamedTuple):
    """The result of a penalized step.

    Attributes:
        loss: The loss of the whole batch.
        found: The flatness of the whole batch, or of a part.
        run: The pass from which the flatness was computed.
        recorded: The plain pass before it, if there was one.
        doubtful: Whether the part did not satisfy the plan, so that the whole batch was used.
    """

    loss: Tensor
    found: Estimate
    run: Pass
    recorded: Recorded | None = None
    doubtful: bool = False


# Many arguments: the state of a step, which FAM holds in separate attributes.
def penalized_step(
    task: Task,
    rule: Rule,
    plan: Plan,
    inputs: Inputs,
    targets: object,
    *,
    draws: Callable[[], Draw],
    choose: Choose | None,
    create_graph: bool,
    recorded: Recorded | None = None,
) -> Penalized:
    """Return the loss of a batch and the flatness of the whole batch or of a part.

    Args:
        task: The model and loss to run.
        rule: The quantity to compute.
        plan: The plan of the step.
        inputs: The model's arguments.
        targets: The targets of the loss.
        draws: Returns a function that draws the probes of this step, the same at each call.
        choose: Chooses a part; ``None`` for the whole batch. The whole batch is also used if its
            loss is not the mean of the losses of the part and the rest.
        create_graph: Whether the flatness can be differentiated.
        recorded: An existing pass on the batch.
    """
    options, device = rule.options, task.device.type
    if plan.jets and create_graph and recorded is None and not autocast_on(device):
        carry = carried(task, rule, plan, inputs, targets, draw=draws(), choose=choose)
        recorded, part = carry.recorded, carry.jets.part
        if part is None or is_mean(task, recorded, part, plan.cut):
            along_it = along(task, rule, plan, carry)
            if along_it is not None:
                run = Pass(recorded.loss, None, carry.uses)
                return Penalized(recorded.loss, along_it, run, recorded)
        else:
            choose = None
    graph = create_graph and rule.gradient == "full"
    stepped = plan.curvature == "finite_difference"
    in_part = choose is not None and plan.part != "all"
    part, doubtful = None, False
    if recorded is None and not stepped and not in_part:
        care: Care = "precision" if plan.is_free else "derivatives"
        run = differentiable(task, inputs, targets, standardize=options.standardize, care=care)
    else:
        recorded = recorded or record(task, inputs, targets, body=plan.body, draws=stepped)
        tried = _part_of(task, rule, plan, recorded, choose if in_part else None)
        part, doubtful = tried.part, tried.doubtful
        if stepped:
            uses = uses_of(task, recorded, part, standardize=options.standardize)
            run = Pass(recorded.loss, None, uses)
        else:
            run = tried.run or replay(task, recorded, standardize=options.standardize).run

    def product_of(uses: Sequence[Use]) -> Product:
        if recorded is not None and stepped:
            names = [use.name for use in uses]
            return difference(task, recorded, names, part=part, cut=plan.cut, create_graph=graph)
        curvature = gauss_newton if plan.curvature == "gauss_newton" else hessian
        return curvature(run, uses, create_graph=graph)

    with without_autocast(device):
        found = estimate(rule, plan, run, draws(), product_of, create_graph=graph)
    loss = run.loss if recorded is None else recorded.loss
    return Penalized(loss, found, run, recorded, doubtful)


class _Tried(NamedTuple):
    """A part of a batch that was rerun; empty if the whole batch is used."""

    part: Tensor | None = None
    run: Pass | None = None
    doubtful: bool = False


def _part_of(
    task: Task, rule: Rule, plan: Plan, recorded: Recorded, choose: Choose | None
) -> _Tried:
    """Return a part that can replace a recorded batch, if requested and possible."""
    n = len(recorded.first.features)
    if choose is None or plan.cut is None:
        return _Tried()
    part = choose(n).to(task.device)
    if len(part) == n:
        return _Tried()
    check_rows(recorded.sites.values(), n)
    with torch.set_grad_enabled(plan.curvature != "finite_difference"):
        run, prediction = replay(
            task, recorded, part=part, cut=plan.cut, standardize=rule.options.standardize
        )
    stands = stands_for_batch(task, recorded, prediction, part, plan.cut)
    return _Tried(part, run) if stands else _Tried(doubtful=stands is None)


def noise_step(
    task: Task,
    rule: Rule,
    plan: Plan,
    inputs: Inputs,
    targets: object,
    *,
    draw: Draw,
    size: float,
    antithetic: bool,
) -> Terms:
    r"""Return the loss of a network with relative noise on the outputs of its layers.

    .. math:: E\, L(z + s v) = L + \frac{s^2}{2} \kappa
        + \frac{s^4}{24} E\, D^4 L[v, v, v, v] + O(s^6)

    for the directions ``v`` of the probes, whose odd moments are 0. With :math:`s^2 = 2\lambda` the
    expected loss is the objective up to the last term, a bias of the order of lambda relative to
    the penalty (Camuto et al., *Explicit Regularization in Gaussian Noise Injections*, NeurIPS
    2020). The gradient of one step has noise of first order in ``s``, which ``antithetic``, the
    mean of both signs, cancels. The cost is a plain step and the direction; ``antithetic`` adds
    another run of the network after the layers.

    Args:
        task: The model and loss to run.
        rule: The quantity to compute.
        plan: The plan of the step.
        inputs: The model's arguments.
        targets: The targets of the loss.
        draw: Draws the noise.
        size: ``s``.
        antithetic: Whether to average over both signs of the noise.
    """
    noise = _Noise(rule, plan, draw)
    body = plan.body if antithetic else ()
    recorded = record(task, inputs, targets, edit=noisy(noise, size), body=body, draws=antithetic)
    total = recorded.loss
    if antithetic:
        other = replay(task, recorded, edit=_both(noisy(noise, -size))).run
        total = (total + other.loss) / 2
    return Terms(total, total, None)


def noise_measured(
    task: Task,
    rule: Rule,
    plan: Plan,
    inputs: Inputs,
    targets: object,
    *,
    draw: Draw,
    size: float,
) -> tuple[Tensor, Estimate]:
    r"""Return loss and flatness estimated by noise of a given size, from forward passes only.

    .. math:: \frac{L(z + s v) + L(z - s v) - 2 L(z)}{s^2}
        = v^\top H v + \frac{s^2}{12} D^4 L[v, v, v, v] + O(s^4)

    so that the mean over probes is the flatness with a bias of the order of :math:`s^2`. The cost
    is two runs of the network after the layers per probe, without derivatives.

    Args:
        task: The model and loss to run.
        rule: The quantity to compute.
        plan: The plan of the step.
        inputs: The model's arguments.
        targets: The targets of the loss.
        draw: Draws the noise.
        size: ``s``.

    Returns:
        The loss without noise, and the estimate with the value of each probe.
    """
    with torch.no_grad():
        recorded = record(task, inputs, targets, body=plan.body, draws=True)
        values = []
        for _ in range(rule.options.probes):
            noise = _Noise(rule, plan, draw)
            ahead, behind = (
                replay(task, recorded, edit=_both(noisy(noise, sign * size))).run
                for sign in (1, -1)
            )
            values.append((ahead.loss + behind.loss - 2 * recorded.loss) / size**2)
    probes = torch.stack(values)
    return recorded.loss, Estimate(probes.mean(), probes)


class _Noise:
    """Directions of the layers, drawn at the first call and reused at the next."""

    def __init__(self, rule: Rule, plan: Plan, draw: Draw) -> None:
        self._rule, self._draw = rule, draw
        self._plans = {one.name: one for one in plan.layers}
        self._drawn: dict[str, Tensor] = {}

    def __call__(self, site: Site) -> Tensor:
        features, weight = site.features, site.layer.weight
        if self._rule.options.standardize:
            features, weight = standardized(features, site, deviation(features, site.layer))
        use = Use(site.name, features, site.own, weight, site.own, site.operator)
        factor = self._rule.factor(use)
        one = self._plans[site.name]

        def draw(shape: tuple[int, ...], like: Tensor) -> Tensor:
            if site.name not in self._drawn:
                self._drawn[site.name] = self._draw(shape, like)
            return self._drawn[site.name]

        (direction,) = directions([(one, use)], [factor], draw)
        return (
            direction if factor.scale is None else factor.scale.clamp(min=1e-38).sqrt() * direction
        )


def _both(edit: Edit) -> Edit:
    """Return an edit for a replay, whose passes contain a shift."""

    def shifted(site: Site) -> Tensor:
        add_shift(site)
        return edit(site)

    return shifted
