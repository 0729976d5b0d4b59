"""Whether jets hold for a network: told from its plan, and tried against reverse mode."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from famseg.flatness._arguments import Inputs
from famseg.flatness._choice import Plan
from famseg.flatness._estimate import Rule, estimate
from famseg.flatness._estimators import Draw, Product, Use, hessian
from famseg.flatness._jets import along, carried
from famseg.flatness._options import Options
from famseg.flatness._pass import Task, differentiable
from famseg.flatness._probes import signs
from famseg.flatness._state import untouched
from famseg.flatness._watch import autocast_on, without_autocast

_CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3}


def may_carry(options: Options, plan: Plan) -> bool:
    """Return whether a plan is one that jets can serve.

    They carry one direction, in all layers together, with its full gradient.
    """
    probed = all(one.method in ("sample_probes", "batch_probes") for one in plan.layers)
    together = len(plan.layers) == 1 or options.quantity == "relative_flatness"
    one_direction = probed and together and options.probes == 1
    return one_direction and plan.curvature == "hessian" and not options.weights_only


def jets_hold(task: Task, rule: Rule, plan: Plan, inputs: Inputs, targets: object) -> bool:
    """Return whether a pass with jets gives what reverse mode gives with the same probe.

    Args:
        task: What to run; nothing of it is changed.
        rule: What to compute.
        plan: How, by reverse mode.
        inputs: The model's arguments.
        targets: Those of the loss.
    """
    device = task.device
    dtype = next(iter(task.layers.values())).weight.dtype
    if autocast_on(device.type) or dtype not in _CLOSE:
        return False

    def draw() -> Draw:
        generator = torch.Generator().manual_seed(0)
        return functools.partial(signs, generator=generator)

    def given() -> tuple[Inputs, object]:
        return task.fresh(inputs), task.fresh(targets)

    with untouched(task.parts, device):
        carry = carried(task, rule, plan, *given(), draw=draw(), choose=None)
        found = along(task, rule, plan, carry)
    if found is None:
        return False
    with untouched(task.parts, device), without_autocast(device.type):
        run = differentiable(task, *given(), standardize=rule.options.standardize)

        def product_of(uses: Sequence[Use]) -> Product:
            return hessian(run, uses, create_graph=False)

        wanted = estimate(rule, plan, run, draw(), product_of, create_graph=False)
    return _close(found.values.detach(), wanted.values.detach(), _CLOSE[dtype])


def _close(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    off = (found - wanted).abs().max()
    return bool(off <= tolerance * wanted.abs().max())  # False for NaN
