"""A step whose penalty has a closed form: the plain step, and a handful of operations."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from famseg.flatness._arguments import Inputs, scalar
from famseg.flatness._estimate import Rule
from famseg.flatness._operator import Layer
from famseg.flatness._pass import Recorded, Task, check_map
from famseg.flatness._state import random_state
from famseg.flatness._tail import check_sole_use
from famseg.flatness._watch import Site, check_used, leave


class FreeStep(NamedTuple):
    """A plain pass, with the values of its layer where they still have a closed form.

    Attributes:
        task: What was run, with one layer.
        loss: The loss.
        prediction: What the loss was given.
        seen: What the layer saw.
        values: The samples' values, shape ``(n,)``; ``None`` if the layer's output is not what the
            loss was given, or the loss has no closed form any more.
    """

    task: Task
    loss: Tensor
    prediction: object
    seen: Seen
    values: Tensor | None

    def check(self) -> None:
        """Refuse a layer that is not, or not only, what its weight says.

        Raises:
            LayerError: If the weight reaches the loss by another way, or does something else.
        """
        ((name, layer),) = self.task.layers.items()
        features, output = self.seen.features, self.seen.output
        check_sole_use(self.loss, output.grad_fn, features, layer.weight, name)
        check_map(self._site(name, layer))

    def recorded(self, inputs: Inputs, targets: object) -> Recorded:
        """Return the pass as one whose tail can be run again, for a plan of another kind.

        Args:
            inputs: The model's arguments.
            targets: Those of the loss.

        Raises:
            LayerError: If the layer was not called once, or its input was spoilt.
        """
        ((name, layer),) = self.task.layers.items()
        site = self._site(name, layer)
        check_used([site])
        site.check()
        state = random_state(self.task.device)  # the tail may draw anew, as any step may
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
    """A forward hook that keeps what a layer saw.

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
        """Keep the tensors of a call."""
        self.calls += 1
        self.features = args[0] if args else kwargs["input"]
        self.output, self.version = output, output._version

    def is_output(self, prediction: object) -> bool:
        """Return whether the model returned the layer's output itself, unchanged."""
        once = self.calls == 1 and prediction is self.output
        return once and self.output._version == self.version


def free_step(task: Task, rule: Rule, inputs: Inputs, targets: object) -> FreeStep:
    """Run a plain pass and compute the closed form of its one layer.

    Nothing is differentiated, replaced or put back: such a step cannot fail half-way but where a
    plain step does.

    Args:
        task: What to run.
        rule: What to compute.
        inputs: The model's arguments.
        targets: Those of the loss.
    """
    (layer,) = task.layers.values()
    seen = Seen()
    handle = layer.register_forward_hook(seen, with_kwargs=True)
    try:
        prediction = task.predict(inputs)
    finally:
        handle.remove()
    loss = scalar(task.loss(prediction, targets))
    values = None
    if rule.closed_form is not None and seen.is_output(prediction) and seen.features.ndim == 2:
        features, output = seen.features, seen.output
        if output.dtype is not layer.weight.dtype:  # the model entered autocast by itself
            features = features.to(layer.weight.dtype)
            with torch.autocast(task.device.type, enabled=False):
                output = nn.functional.linear(features, layer.weight, layer.bias)
        if len(features):
            values = rule.closed_form(
                features,
                output,
                targets,
                layer.weight,
                quantity=rule.options.quantity,
                gradient=rule.gradient,
            )
            if rule.options.per_feature:
                values = values / features.shape[1]
    return FreeStep(task, loss, prediction, seen, values)
