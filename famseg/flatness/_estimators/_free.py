"""A step whose penalty has a closed form: the plain step and a few more operations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from famseg.flatness._errors import NotApplicableError
from famseg.flatness._estimators._bound import bounded
from famseg.flatness._estimators._estimate import Rule, closed
from famseg.flatness._options import Options
from famseg.flatness._tracing._arguments import Inputs
from famseg.flatness._tracing._loss_call import LossCall
from famseg.flatness._tracing._operator import Layer, Operator
from famseg.flatness._tracing._pass import Recorded, Task, check_map
from famseg.flatness._tracing._state import random_state
from famseg.flatness._tracing._tail import check_sole_use
from famseg.flatness._tracing._uses import Use
from famseg.flatness._tracing._watch import Site, check_used, leave


class FreeStep(NamedTuple):
    """A plain pass, with the values of its layer if these still have a closed form.

    Attributes:
        task: The model, loss and layer.
        loss: The loss.
        prediction: Argument of the loss.
        seen: Input and output of the layer.
        values: The samples' values, shape ``(n,)``; ``None`` if the closed form no longer applies.
    """

    task: Task
    loss: Tensor
    prediction: object
    seen: Seen
    values: Tensor | None

    def check(self) -> None:
        """Refuse a layer that does not depend on its weight only as a linear operator.

        Raises:
            LayerError: If the weight has another effect on the loss, or is used differently.
        """
        ((name, layer),) = self.task.layers.items()
        features, output = self.seen.features, self.seen.output
        check_sole_use(self.loss, output.grad_fn, features.grad_fn, layer.weight, name)
        check_map(self._site(name, layer))

    def recorded(self, inputs: Inputs, targets: object) -> Recorded:
        """Return the pass as a recorded pass, whose tail can be rerun for other plans.

        Args:
            inputs: The model's arguments.
            targets: The targets of the loss.

        Raises:
            LayerError: If the layer was not called exactly once, or its input was changed in place.
        """
        ((name, layer),) = self.task.layers.items()
        site = self._site(name, layer)
        check_used([site])
        site.check(self.task.model)
        state = random_state(self.task.device)  # the tail may draw new random numbers
        return Recorded(
            self.loss, self.prediction, {name: site}, inputs, targets, state, body=(), calls=[]
        )

    def _site(self, name: str, layer: Layer) -> Site:
        site = Site(layer, name)
        site.calls = self.seen.calls
        if self.seen.calls and len(self.seen.features):
            site.record(self.seen.features, self.seen.output, leave)
        else:
            site.empty = bool(self.seen.calls)
        return site


class Seen:
    """A forward hook that records the input and output of a layer.

    Attributes:
        calls: How often it was called.
        features: Its input.
        output: Its output.
        version: The version of its output.
    """

    features: Tensor
    output: Tensor
    version: int

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        """Record the tensors of a call."""
        self.calls += 1
        self.features = args[0] if args else kwargs["input"]
        self.output, self.version = output, output._version

    @property
    def unchanged(self) -> bool:
        """Whether the layer was called once and its output has not been changed in place since."""
        return self.calls == 1 and self.output._version == self.version


def free_step(task: Task, rule: Rule, inputs: Inputs, targets: object) -> FreeStep:
    """Run a plain pass and compute the closed form of its one layer.

    Nothing is differentiated, replaced or restored, so such a step can only fail where a plain step
    can.

    Args:
        task: The model and loss to run.
        rule: The quantity to compute.
        inputs: The model's arguments.
        targets: The targets of the loss.
    """
    ((name, layer),) = task.layers.items()
    seen = Seen()
    handle = layer.register_forward_hook(seen, with_kwargs=True)
    try:
        loss, prediction, call = task.noted(inputs, targets)
    finally:
        handle.remove()
    values = None
    if call is not None and seen.unchanged and len(seen.features):
        try:
            values = closed(rule, *_precise(task, name, seen, call))
        except NotApplicableError:  # because of shapes or the arguments of the loss
            values = None
    return FreeStep(task, loss, prediction, seen, values)


def _precise(task: Task, name: str, seen: Seen, call: LossCall) -> tuple[Use, LossCall]:
    """Return the layer and the call in the precision of the weight."""
    (layer,) = task.layers.values()
    features, output = seen.features, seen.output
    if output.dtype is not layer.weight.dtype and call.input is output:
        # The model itself enabled autocast.
        features = features.to(layer.weight.dtype)
        with torch.autocast(task.device.type, enabled=False):
            output = nn.functional.linear(features, layer.weight, layer.bias)
        call = replace(call, input=output)
    operator = Operator(layer, features, output)
    return Use(name, features, output, layer.weight, output, operator), call


def penalty_of(values: Tensor, options: Options) -> Tensor:
    """Return the penalty of a batch from the samples' values in closed form, shape ``(n,)``."""
    if options.ceiling is None:  # closed forms are never negative, so no bound changes them
        return values.mean()
    return bounded(values, options.bound, ceiling=options.ceiling)
