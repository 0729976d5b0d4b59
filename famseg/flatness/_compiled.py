"""A step of an objective inside ``torch.compile``: model, loss and penalty in one graph.

The position, the plan and whether a check is due are Python state that changes at every step, so
tracing it would recompile every time. That code runs uncompiled, before and after the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from famseg.flatness._check import check_ddp
from famseg.flatness._errors import NotApplicableError
from famseg.flatness._estimators._estimate import Rule, closed
from famseg.flatness._estimators._free import FreeStep, Seen, penalty_of
from famseg.flatness._terms import Terms
from famseg.flatness._tracing._arguments import Inputs, scalar
from famseg.flatness._tracing._loss_call import plain_call
from famseg.flatness._tracing._operator import Operator
from famseg.flatness._tracing._pass import Noting, Task
from famseg.flatness._tracing._uses import Pass, Use
from famseg.flatness._tracing._watch import eagerly

if TYPE_CHECKING:
    from famseg.flatness._fam import FAM, _Free


@dataclass(frozen=True)
class _Step:
    """A step that can be traced.

    Attributes:
        task: The model and loss to run.
        rule: The quantity to compute.
        head: Records the layer on a step with a penalty.
        strength: Factor of the penalty.
    """

    task: Task
    rule: Rule
    head: _Head | None = None
    strength: float = 0.0


class _Head(TorchFunctionMode):
    """Records the calls of a linear layer, since hooks cannot be registered in traced code."""

    def __init__(self, weight: Tensor, operator: Operator) -> None:
        super().__init__()
        self.weight, self.operator = weight, operator
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        if func is F.linear and len(args) > 1 and args[1] is self.weight:
            self.calls.append((args[0], result))
        return result


def traceable(run: Pass, noting: Noting) -> Operator | None:
    """Return the operator of a head whose closed form can be traced; ``None`` for other layers.

    It must be a plain linear layer whose output, one vector per sample, is itself the argument of
    one of torch's losses, because traced code cannot tell whether a tensor is a view of the output.

    Args:
        run: A pass with a closed form.
        noting: How the call of its loss function was found.
    """
    (use,) = run.uses
    simple = noting == "plain" and run.call is not None and run.call.input is use.output
    return use.operator if simple and use.operator.single else None


def compiled_step(fam: FAM, inputs: Inputs, targets: object) -> Terms:
    """Return the terms of a step in code that ``torch.compile`` traces.

    Plain steps, and steps whose penalty is the closed form of a head, are one graph. All other
    steps run uncompiled, and so do the analysis and the checks on which such a step depends.

    Args:
        fam: The objective.
        inputs: The model's arguments.
        targets: The targets of the loss.
    """
    step = cast("_Step | None", eagerly(_begun, fam))
    if step is None:
        return cast("Terms", eagerly(fam.forward, inputs, targets))
    if step.head is None:
        loss = step.task.plain(inputs, targets)
        eagerly(_ended, fam)
        return Terms(loss, loss, None)
    terms, prediction = _penalized(step, inputs, targets)
    if terms.penalty is None:
        return cast("Terms", eagerly(_otherwise, fam, step, terms, prediction, inputs, targets))
    eagerly(_ended, fam)
    return terms


def _begun(fam: FAM) -> _Step | None:
    """Return the next step if it can be traced."""
    task, options = fam._task(), fam.options
    rare = options.every != "auto" and fam._position % options.every
    if not _training(fam) or fam.weight == 0 or rare:
        return _Step(task, fam._rule)
    check_ddp()
    fam._check_wrapping()
    free = fam._free
    if (
        free is None
        or free.head is None
        or free.loss is not fam.loss
        or free.generation != fam._cache.generation
        or torch.is_autocast_enabled(task.device.type)
        or free.upkeep.counted()
    ):
        return None
    (layer,) = task.layers.values()
    if type(layer) is not nn.Linear or "forward" in vars(layer):  # may run any code
        return None
    return _Step(task, fam._rule, _Head(layer.weight, free.head), fam.weight * fam.period)


def _penalized(step: _Step, inputs: Inputs, targets: object) -> tuple[Terms, object]:
    """Return terms and prediction; the terms have no penalty if there is no closed form."""
    head, rule = step.head, step.rule
    assert head is not None  # noqa: S101 - asked before
    ((name, layer),) = step.task.layers.items()
    with head:
        prediction = step.task.predict(inputs)
    call = plain_call(step.task.loss, prediction, targets)
    loss = scalar(step.task.loss(prediction, targets))
    if call is None or len(head.calls) != 1:
        return Terms(loss, loss, None), prediction
    ((features, output),) = head.calls
    if (
        call.input is not output
        or features.ndim != 2
        or len(features) == 0
        or output.dtype is not layer.weight.dtype
    ):
        return Terms(loss, loss, None), prediction
    use = Use(name, features, output, layer.weight, output, head.operator)
    try:
        penalty = penalty_of(closed(rule, use, call), rule.options)
    except NotApplicableError:  # on this batch: its targets are broadcast
        return Terms(loss, loss, None), prediction
    head.calls.clear()  # otherwise the graph would have to return them
    return Terms(loss + step.strength * penalty, loss, penalty), prediction


def _ended(fam: FAM) -> None:
    if _training(fam):
        fam._position += 1


def _otherwise(
    fam: FAM, step: _Step, terms: Terms, prediction: object, inputs: Inputs, targets: object
) -> Terms:
    """Continue like an eager step for which the closed form no longer holds."""
    seen = Seen()
    assert step.head is not None  # noqa: S101 - asked before
    for features, output in step.head.calls:
        seen(step.task.model, (features,), {}, output)
    fam._free = None
    if not seen.calls:  # it was not called, or its call was not recorded
        return fam.forward(inputs, targets)
    found = FreeStep(step.task, terms.loss, prediction, seen, None)
    terms = fam._otherwise(found, inputs, targets, fam._position)
    found_again = cast("_Free | None", fam._free)
    if found_again is not None:  # the closed form exists, but cannot be traced
        fam._free = found_again._replace(head=None)
    fam._position += 1
    return terms


def _training(fam: FAM) -> bool:
    return fam.training and torch.is_grad_enabled()
