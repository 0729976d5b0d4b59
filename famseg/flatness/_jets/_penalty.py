r"""A penalty from second derivatives along one direction, propagated in the forward pass.

The estimate of one probe is :math:`q = v^\top H v`, the second derivative of the loss along ``v``.
Reverse mode computes it by differentiating the network after the layer twice, and a third time for
its gradient. Here the direction is propagated in the forward pass: while the network runs, each
tensor after the layer gets its jet :math:`(x', x'')` (see `famseg.flatness._jets._rules`), for the
samples of the part only, and at the prediction ``p``

.. math:: q = p'^\top \nabla^2 L(p)\, p' + \nabla L(p)^\top p''

requires second derivatives only of the loss. This is the chain rule along a curve, Taylor-mode
differentiation of second order (Griewank and Walther, *Evaluating Derivatives*, 2008, chapter 13).
The value is the same as by reverse mode with the same probe, so it is unbiased for the same reason
and has the same variance. The backward pass of the step gives the full gradient through the jets.
The network runs once and is differentiated once. In ``benchmarks/flatness.py`` a penalized step of
the autoencoder on a quarter of the batch takes about 1.5 times the time of a plain step and 1.2
times the memory for tensors. Only the jets are kept for the backward pass: see
`famseg.flatness._jets._graph`.

If an operation has no rule, or a checkpoint would recompute tensors without their jets, propagation
ends, the pass continues as a plain one, and reverse mode computes the penalty. When a plan is made,
the two methods are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from famseg.flatness._estimators._choice import Plan
from famseg.flatness._estimators._estimate import Rule, directions
from famseg.flatness._estimators._products import Draw, quadratic
from famseg.flatness._jets._rules import RULES, Jet, NoRuleError, Rows
from famseg.flatness._terms import Estimate
from famseg.flatness._tracing._arguments import Inputs, mapped, scalar
from famseg.flatness._tracing._body import kept
from famseg.flatness._tracing._checkpoint import computed_again
from famseg.flatness._tracing._composite import composites
from famseg.flatness._tracing._derivatives import pullback
from famseg.flatness._tracing._pass import (
    Recorded,
    Task,
    check_rows,
    deviation,
    rows_of,
    standardized,
)
from famseg.flatness._tracing._samples import PREDICTION, TARGETS, leaves
from famseg.flatness._tracing._state import random_state, untouched
from famseg.flatness._tracing._uses import Use
from famseg.flatness._tracing._watch import Site, check_used, watched


class Jets(TorchFunctionMode):
    """Propagates the jets of some samples while a network runs.

    Attributes:
        part: Indices of the samples, to be set before the first direction; ``None`` for all.
        ended: The function that ended the propagation; ``None`` while it is active.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part: Tensor | None = None
        self.ended: str | None = None
        self._rows = Rows(0, None)
        # Holds the tensors, so that their ids are not reused.
        self._jets: dict[int, tuple[Tensor, Jet, int]] = {}

    def begin(self, output: Tensor, direction: Tensor) -> None:
        """Shift the outputs of a layer along a direction, in addition to their existing jet."""
        if self.ended is not None:
            return
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            self.end("checkpoint")
            return
        self._rows = Rows(len(output), self.part)
        jet = self.of(output)
        first = direction if jet is None else jet.first + direction
        self._put(output, Jet.of(first, None if jet is None else jet.second))

    def of(self, value: object) -> Jet | None:
        """Return the jet of a tensor, if it has one."""
        found = self._jets.get(id(value))
        return None if found is None else found[1]

    def check(self) -> None:
        """End the propagation if the last operations changed a tensor in place without a rule."""
        if any(tensor._version != version for tensor, _, version in self._jets.values()):
            self.end("an operation in place")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        touched = self._touched((*args, *kwargs.values())) if self._jets else []
        if any(tensor._version != version for tensor, _, version in touched):
            self.end(_name(func))  # changed in place by an operation without a rule
        result = func(*args, **kwargs)
        if self.ended is not None or not touched:
            return result
        if isinstance(result, Tensor):
            if torch.is_grad_enabled():  # otherwise it is a constant, as for autograd
                self._carry(func, result, args, kwargs)
        elif isinstance(result, tuple | list) and any(isinstance(r, Tensor) for r in result):
            self.end(_name(func))
        return result

    def _touched(self, values: Iterable[object]) -> list[tuple[Tensor, Jet, int]]:
        found = []
        for value in values:
            if id(value) in self._jets:
                found.append(self._jets[id(value)])
            elif isinstance(value, tuple | list):
                found += self._touched(value)
        return found

    def _carry(
        self,
        func: Callable[..., Any],
        result: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if not result.is_floating_point():
            return  # such as a comparison, which has no derivative
        rule = RULES.get(func)
        try:
            if rule is None:
                raise NoRuleError
            jet = rule(self._rows, self.of, func, result, *args, **kwargs)
        except (NoRuleError, TypeError, ValueError, IndexError, RuntimeError, AttributeError):
            # No rule, or a call that the rule does not support.
            self.end(_name(func))
            return
        wanted = (len(self._rows.of(result)), *result.shape[1:]) if result.ndim else None
        if jet.first.shape != wanted or len(result) != self._rows.n:
            self.end(_name(func))
        else:
            self._put(result, jet)

    def _put(self, tensor: Tensor, jet: Jet) -> None:
        self._jets[id(tensor)] = tensor, jet, tensor._version

    def end(self, what: str) -> None:
        """End the propagation."""
        self.ended = what
        self._jets.clear()

    def checkpoint(self) -> Callable[[], AbstractContextManager[None]]:
        """End the propagation at a checkpoint, which would recompute tensors without their jets."""
        if self._jets:
            self.end("checkpoint")
        return nullcontext


class Carried(NamedTuple):
    """A pass with jets.

    Attributes:
        recorded: The pass as a plain one.
        jets: The propagated jets.
        uses: The layers.
    """

    recorded: Recorded
    jets: Jets
    uses: tuple[Use, ...]


def carried(
    task: Task,
    rule: Rule,
    plan: Plan,
    inputs: Inputs,
    targets: object,
    *,
    draw: Draw,
    choose: Callable[[int], Tensor] | None,
) -> Carried:
    """Run a training pass that propagates the direction of one probe.

    Args:
        task: What to run.
        rule: The quantity to compute.
        plan: The plan of the step.
        inputs: The model's arguments.
        targets: The targets of the loss.
        draw: Draws the probe.
        choose: Chooses a part; ``None`` for the whole batch.
    """
    plans = {one.name: one for one in plan.layers}
    state, jets, uses, n = random_state(task.device), Jets(), list[Use](), 0
    before = task.fresh(inputs), task.fresh(targets)

    def move(site: Site) -> Tensor:
        nonlocal n
        with torch._C.DisableTorchFunction():  # computing a direction is not part of the network
            if choose is not None and not uses:
                n = len(site.features)
                part = choose(n).to(task.device)
                jets.part = part if len(part) < n else None
            if jets.part is not None:
                check_rows([site], n)
            use = _use(site, rule, jets.part)
            (direction,) = directions([(plans[site.name], use)], [rule.factor(use)], draw)
            uses.append(use)
            jets.begin(site.own, direction)
        return site.own

    with (
        computed_again(jets.checkpoint),
        kept(task.model, plan.body, draws_on=None) as calls,
        watched(task.layers, move, care="none", as_written=task.eager) as sites,
    ):
        with jets:
            prediction = task.predict(inputs)
        jets.check()
        check_used(sites.values())
        for site in sites.values():
            site.check(task.model)
        with composites(lambda: True):
            loss = scalar(task.loss(prediction, targets))
    in_order = {use.name: sites[use.name] for use in uses}
    recorded = Recorded(loss, prediction, in_order, *before, state, plan.body, calls)
    return Carried(recorded, jets, tuple(uses))


def along(task: Task, rule: Rule, plan: Plan, found: Carried) -> Estimate | None:
    """Return the flatness from a pass with jets; ``None`` if the propagation has ended.

    The loss is called again for a part, on its rows of the prediction.

    Args:
        task: The model and loss that were run.
        rule: The quantity to compute.
        plan: The plan of the step.
        found: The pass.
    """
    jets, recorded = found.jets, found.recorded
    of_path = {path: jets.of(t) for path, t in leaves(recorded.prediction, PREDICTION)}
    carried_to = {path: jet for path, jet in of_path.items() if jet is not None}
    leads = recorded.loss.requires_grad
    if jets.ended is not None or not carried_to or not leads:
        return None
    rows: dict[str, Tensor] = {}

    def row(path: str, tensor: Tensor) -> Tensor:
        if path in carried_to:
            rows[path] = rows_of(tensor, jets.part)
            return rows[path]
        held = plan.cut is not None and path in plan.cut.held
        return rows_of(tensor, jets.part) if held else tensor

    prediction = mapped(recorded.prediction, row, PREDICTION)
    loss = recorded.loss
    if jets.part is not None:
        assert plan.cut is not None  # noqa: S101 - a part requires it
        targets = plan.cut.rows(task.fresh(recorded.targets), jets.part, TARGETS)
        with composites(lambda: True), untouched((task.loss,), task.device):
            loss = scalar(task.loss(prediction, targets))
    moving = [rows[path] for path in carried_to]
    if not all(tensor.requires_grad for tensor in moving):
        return None
    slopes = pullback([loss], moving, [torch.ones_like(loss)], create_graph=True)

    def product(directions: Sequence[Tensor]) -> Sequence[Tensor]:
        return pullback(slopes, moving, directions, create_graph=True)

    per_sample = all(one.method == "sample_probes" for one in plan.layers)
    first = [jet.first for jet in carried_to.values()]
    values = quadratic(product, first, per_sample=per_sample)
    for slope, jet in zip(slopes, carried_to.values(), strict=True):
        if jet.second is not None:
            bent = (slope * jet.second).flatten(1).sum(1)
            values = values + (len(bent) * bent if per_sample else bent.sum())
    values = rule.factor(found.uses[0]).scaled(values)
    return Estimate(values, values.detach().mean().reshape(1))


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", repr(function))


def _use(site: Site, rule: Rule, part: Tensor | None) -> Use:
    features, own, weight = rows_of(site.features, part), rows_of(site.own, part), site.layer.weight
    if rule.options.standardize:
        scale = deviation(site.features, site.layer)
        features, weight = standardized(features, site, scale)
    return Use(site.name, features, own, weight, own, site.operator)
