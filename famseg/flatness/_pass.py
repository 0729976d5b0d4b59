"""The forward passes of a penalised step: model, loss, and the checks on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from famseg.flatness._arguments import Inputs, Loss, call_model, rows_of, scalar, select
from famseg.flatness._errors import LayerError
from famseg.flatness._estimators import Pass, Use
from famseg.flatness._operator import Layer, channels
from famseg.flatness._state import RandomState, random_state, set_random_state, untouched
from famseg.flatness._tail import check_operations, check_slopes, check_sole_use, norms_noted
from famseg.flatness._watch import Care, Edit, Site, add_shift, leave, watched, without_autocast


@dataclass(frozen=True)
class Task:
    """What is run: a model, its penalised layers, and a loss.

    Attributes:
        model: The network.
        layers: The penalised layers by name.
        loss: The loss.
        output: Key or attribute of the model's output that the loss takes; ``None`` for all of it.
        eager: Whether compiled modules run as they were written.
    """

    model: nn.Module
    layers: Mapping[str, Layer]
    loss: Loss
    output: str | None = None
    eager: bool = False

    @property
    def device(self) -> torch.device:
        """Where the layers lie."""
        return next(iter(self.layers.values())).weight.device

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """What may hold buffers and modes: the model, and the loss where it is a module."""
        return (self.model, self.loss) if isinstance(self.loss, nn.Module) else (self.model,)

    def predict(self, inputs: Inputs) -> object:
        """Return what the loss is given."""
        return select(call_model(self.model, inputs), self.output)

    def plain(self, inputs: Inputs, targets: object) -> Tensor:
        """Return the loss of a plain pass."""
        return scalar(self.loss(self.predict(inputs), targets))

    def run(
        self, inputs: Inputs, targets: object, edit: Edit, *, care: Care
    ) -> tuple[Tensor, object, dict[str, Site]]:
        """Run model and loss with the layers watched; return loss, prediction and sites."""
        with watched(self.layers, edit, care=care, as_written=self.eager) as sites:
            prediction = self.predict(inputs)
            for site in sites.values():
                site.check()
            if care != "none":
                # A network may have entered autocast anew by itself.
                with without_autocast(self.device.type):
                    loss = scalar(self.loss(prediction, targets))
            else:
                loss = scalar(self.loss(prediction, targets))
        return loss, prediction, sites


@dataclass(frozen=True, eq=False)
class Recorded:
    """A plain pass whose layers were observed, and what it takes to run its tail again.

    Attributes:
        loss: The loss, in the caller's precision.
        prediction: What the loss was given.
        sites: What the layers saw.
        inputs: The model's arguments.
        targets: Those of the loss.
        state: Global random state before the pass.
    """

    loss: Tensor
    prediction: object
    sites: dict[str, Site]
    inputs: Inputs
    targets: object
    state: RandomState

    @property
    def first(self) -> Site:
        """The layer that ran first."""
        return next(iter(self.sites.values()))


def differentiable(
    task: Task,
    inputs: Inputs,
    targets: object,
    *,
    standardize: bool = False,
    care: Care = "derivatives",
) -> Pass:
    """Run a pass that can be differentiated in the outputs of the layers."""
    loss, prediction, sites = task.run(inputs, targets, add_shift, care=care)
    return _pass(loss, prediction, sites, {}, standardize=standardize)


def record(task: Task, inputs: Inputs, targets: object, *, edit: Edit = leave) -> Recorded:
    """Run a pass of first order and keep what the layers saw, in the order in which they ran."""
    state = random_state(task.device)
    order: list[str] = []

    def noting(site: Site) -> Tensor:
        order.append(site.name)
        return edit(site)

    loss, prediction, sites = task.run(inputs, targets, noting, care="none")
    in_order = {name: sites[name] for name in order}
    return Recorded(loss, prediction, in_order, inputs, targets, state)


def replay(
    task: Task,
    recorded: Recorded,
    *,
    part: Tensor | None = None,
    edit: Edit = add_shift,
    whole: bool = False,
    standardize: bool = False,
) -> Pass:
    """Run the network behind the first layer again, from the features that were recorded.

    What lies before the layer runs without a graph, and its result is not used: the gradient
    reaches it through the recorded features. Buffers and random state stay as they are; dropout
    masks are those of the recorded pass unless there is a part.

    Args:
        task: What to run.
        recorded: The pass to run again.
        part: Numbers of the samples to run; all by default.
        edit: What becomes of the layers' outputs.
        whole: Whether to run everything with a graph, for networks in which something leads
            around the layer.
        standardize: Whether features count in units of their standard deviation.
    """
    first = recorded.first
    n = len(first.features)
    scales = {}
    if standardize:  # of all samples, whatever the part
        scales = {s.name: deviation(s.features, s.layer) for s in recorded.sites.values()}

    def again(site: Site) -> Tensor:
        if site.name == first.name and not whole:
            torch.set_grad_enabled(True)
            site.features = rows_of(first.features, part, n).to(site.layer.weight.dtype)
            site.own = site.operator.apply(site.features, site.layer.weight)
            if site.layer.bias is not None:
                bias = site.layer.bias.to(site.own.dtype)
                site.own = site.own + _along(bias, site.own, site.layer)
        return edit(site)

    with untouched(task.parts, task.device):
        if part is None:
            set_random_state(recorded.state, task.device)
        with torch.set_grad_enabled(whole):
            loss, prediction, sites = task.run(
                rows_of(recorded.inputs, part, n),
                rows_of(recorded.targets, part, n),
                again,
                care="derivatives",
            )
    return _pass(loss, prediction, sites, scales, standardize=standardize)


def uses_of(
    task: Task, recorded: Recorded, part: Tensor | None, *, standardize: bool
) -> tuple[Use, ...]:
    """Return the layers of a recorded pass, or of a part of it, in their own precision."""
    uses = []
    for name, site in recorded.sites.items():
        layer, n = site.layer, len(site.features)
        features = rows_of(site.features, part, n).to(layer.weight.dtype)
        output = rows_of(site.own, part, n).to(layer.weight.dtype)
        weight = layer.weight
        if standardize:
            features, weight = standardized(features, site, deviation(site.features, layer))
        shift = torch.zeros_like(output)
        uses.append(Use(name, features, output, weight, shift, site.operator, is_output=False))
    return tuple(uses)


def checked(task: Task, inputs: Inputs, targets: object, *, derivatives: bool = True) -> Pass:
    """Run a pass, without a trace, that finds out whether the layers can be penalised at all.

    Args:
        task: What to run.
        inputs: The model's arguments.
        targets: Those of the loss.
        derivatives: Whether operations must have derivatives up to the third.

    Raises:
        FlatnessError: If a layer, the loss or an operation after a layer cannot be penalised.
    """
    with untouched(task.parts, task.device), norms_noted(task.model, task.layers) as norms:
        loss, prediction, sites = task.run(inputs, targets, add_shift, care="derivatives")
    for site in sites.values():
        assert site.shift is not None  # noqa: S101 - add_shift set it
        check_operations(loss, site.shift, site.name, norms, derivatives=derivatives)
        _check_map(site)
        check_sole_use(loss, site.own.grad_fn, site.features, site.layer.weight, site.name)
    run = _pass(loss, prediction, sites, {}, standardize=False)
    if derivatives:
        check_slopes(run)
    return run


def deviation(features: Tensor, layer: Layer) -> Tensor:
    """Return each channel's standard deviation over samples and positions, 1 where it is 0."""
    flat = features.detach().movedim(channels(features, layer), -1).flatten(0, -2)
    spread = flat.to(layer.weight.dtype).std(0, correction=0)
    return spread.where(spread > 0, torch.ones_like(spread))


def _pass(
    loss: Tensor,
    prediction: object,
    sites: Mapping[str, Site],
    scales: Mapping[str, Tensor],
    *,
    standardize: bool,
) -> Pass:
    uses = []
    for name, site in sites.items():
        assert site.shift is not None  # noqa: S101 - the edits of such passes add one
        features, weight = site.features, site.layer.weight
        if standardize:
            scale = scales[name] if name in scales else deviation(features, site.layer)
            features, weight = standardized(features, site, scale)
        uses.append(
            Use(
                name,
                features,
                site.output,
                weight,
                site.shift,
                site.operator,
                site.is_output(prediction),
            )
        )
    tensor = prediction if isinstance(prediction, Tensor) else None
    return Pass(loss, tensor, tuple(uses))


def standardized(features: Tensor, site: Site, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same map of features in units of their deviation: W D of D^-1 phi."""
    layer, operator = site.layer, site.operator
    rows = operator.rows(layer.weight)  # (g, d, m)
    inputs = scale.reshape(operator.groups, 1, -1)
    kernel = rows.shape[2] // inputs.shape[2]
    weight = operator.kernel(rows * inputs.repeat_interleave(kernel, -1))
    return features / _along(scale, features, layer), weight


def _along(values: Tensor, like: Tensor, layer: Layer) -> Tensor:
    """Values of channels, shaped so that they broadcast over features or outputs."""
    dimension = channels(like, layer)
    return values.reshape(-1, *[1] * (like.ndim - 1 - dimension))


def _check_map(site: Site) -> None:
    """Refuse a layer that is more than its weight and bias, such as one with an adapter in it."""
    layer = site.layer
    with torch.no_grad(), without_autocast(layer.weight.device.type):
        expected = site.operator.apply(site.features, layer.weight)
        if layer.bias is not None:
            expected = expected + _along(layer.bias, expected, layer)
        error = (expected - site.own).abs().max()
        tolerance = 1e-3 * site.own.abs().max()
    if error > tolerance:  # False for NaN: that is reported where it can be named
        raise LayerError(
            f"layer {site.name!r}, a {type(layer).__name__}, computes something else than "
            "its weight and bias say: its flatness would not be that of its weight. Penalise a "
            "plain layer."
        )
