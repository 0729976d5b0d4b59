"""Check whether jets are valid for a network: by its plan, and by comparison with reverse mode."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from famseg.flatness._estimators._choice import Plan
from famseg.flatness._estimators._estimate import Rule, estimate
from famseg.flatness._estimators._probes import signs
from famseg.flatness._estimators._products import Draw
from famseg.flatness._jets._penalty import along, carried
from famseg.flatness._options import Options
from famseg.flatness._tracing._arguments import Inputs
from famseg.flatness._tracing._pass import Task, differentiable, replay
from famseg.flatness._tracing._samples import INPUTS, TARGETS, leaves
from famseg.flatness._tracing._state import untouched
from famseg.flatness._tracing._uses import Pass, Product, Use, hessian
from famseg.flatness._tracing._watch import autocast_on, without_autocast

_CLOSE = {torch.float64: 1e-7, torch.float32: 1e-2}
_APART = 4  # interval between the samples that are compared


def may_carry(options: Options, plan: Plan) -> bool:
    """Return whether jets can carry out a plan.

    They propagate one direction, in all layers together, with its full gradient.
    """
    probed = all(one.method in ("sample_probes", "batch_probes") for one in plan.layers)
    together = len(plan.layers) == 1 or options.quantity == "relative_flatness"
    one_direction = probed and together and options.probes == 1
    return one_direction and plan.curvature == "hessian" and not options.weights_only


def jets_hold(task: Task, rule: Rule, plan: Plan, inputs: Inputs, targets: object) -> bool:
    """Return whether a pass with jets gives the same result as reverse mode with the same probe.

    The value and the gradient in every parameter are compared, on a part of the batch if the plan
    uses one. The gradients are needed because an operation that the jets do not see, such as one in
    a compiled function, may affect only a gradient.

    Args:
        task: The model and loss to run, which are not modified.
        rule: The quantity to compute.
        plan: The plan for reverse mode.
        inputs: The model's arguments.
        targets: The targets of the loss.
    """
    device = task.device
    dtype = next(iter(task.layers.values())).weight.dtype
    trained = [p for p in task.model.parameters() if p.requires_grad]
    if autocast_on(device.type) or dtype not in _CLOSE or not trained:
        return False
    inputs, targets, apart = _fewer(plan, inputs, targets)
    standardize = rule.options.standardize
    with untouched(task.parts, device):
        given = task.fresh(inputs), task.fresh(targets)
        carry = carried(task, rule, plan, *given, draw=_drawing(), choose=_every(apart))
        found = along(task, rule, plan, carry)
        if found is None:
            return False
        by_jets = _with_gradient(found.values, trained)
        recorded, part = carry.recorded.to_replay(), carry.jets.part
        del carry, found  # frees memory for the next steps
        if part is not None:  # with the state that the pass left in the model, as in a step
            run = replay(task, recorded, part=part, cut=plan.cut, standardize=standardize).run
            return _close(by_jets, _by_reverse(task, rule, plan, run, trained), _CLOSE[dtype])
        del recorded
    with untouched(task.parts, device):
        given = task.fresh(inputs), task.fresh(targets)
        run = differentiable(task, *given, standardize=standardize)
        return _close(by_jets, _by_reverse(task, rule, plan, run, trained), _CLOSE[dtype])


def _fewer(plan: Plan, inputs: Inputs, targets: object) -> tuple[Inputs, object, int]:
    """Return half of a batch that can be divided, and the interval between samples of a part."""
    if plan.part == "all" or plan.cut is None:
        return inputs, targets, 1
    held = plan.cut.held
    lengths = [len(tensor) for path, tensor in leaves(inputs, INPUTS) if path in held]
    if not lengths or lengths[0] < _APART:
        return inputs, targets, _APART
    half = torch.arange(0, lengths[0], 2)
    rows = plan.cut.rows
    return rows(inputs, half, INPUTS), rows(targets, half, TARGETS), _APART // 2


def _drawing() -> Draw:
    return functools.partial(signs, generator=torch.Generator().manual_seed(0))


def _every(apart: int) -> Callable[[int], Tensor]:
    return lambda n: torch.arange(0, n, apart)


def _by_reverse(
    task: Task, rule: Rule, plan: Plan, run: Pass, parameters: Sequence[Tensor]
) -> list[Tensor]:
    """Return the values and their gradient by reverse mode."""

    def product_of(uses: Sequence[Use]) -> Product:
        return hessian(run, uses, create_graph=True)

    with without_autocast(task.device.type):
        wanted = estimate(rule, plan, run, _drawing(), product_of, create_graph=True)
    return _with_gradient(wanted.values, parameters)


def _with_gradient(values: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the values, and the gradient of their mean in each parameter."""
    # The second computation reuses the graph recorded by the first.
    slopes = torch.autograd.grad(
        values.mean(), parameters, retain_graph=True, materialize_grads=True
    )
    return [values.detach(), *slopes]


def _close(found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float) -> bool:
    # If a parameter's gradient is only rounding error, it is compared on the scale of the others.
    floor = 1e-3 * tolerance * max(float(right.abs().max()) for right in wanted[1:])
    for index, (one, right) in enumerate(zip(found, wanted, strict=True)):
        scale = tolerance * right.abs().max() + (floor if index else 0)
        if not (one - right).abs().max() <= scale:  # True for NaN
            return False
    return True
