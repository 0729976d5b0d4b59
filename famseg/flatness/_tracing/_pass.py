"""The forward passes of a penalized step: model, loss, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from famseg.flatness._errors import LayerError, NotApplicableError
from famseg.flatness._tracing._arguments import (
    Inputs,
    Loss,
    call_model,
    copied,
    plain,
    precise,
    scalar,
    select,
)
from famseg.flatness._tracing._body import Call, Finished, given_back, kept
from famseg.flatness._tracing._loss_call import LossCall, LossCalls, plain_call
from famseg.flatness._tracing._operator import Layer, channels
from famseg.flatness._tracing._samples import INPUTS, TARGETS, Cut
from famseg.flatness._tracing._state import RandomState, random_state, set_random_state, untouched
from famseg.flatness._tracing._tail import (
    check_operations,
    check_slopes,
    check_sole_use,
    norms_noted,
)
from famseg.flatness._tracing._uses import Pass, Use
from famseg.flatness._tracing._watch import (
    Care,
    Edit,
    Feed,
    Site,
    add_shift,
    check_used,
    ended_at,
    leave,
    own_input,
    watched,
    without_autocast,
)

Noting = Literal["nowhere", "plain", "loss", "model"]
"""How the loss function call is found: from the loss itself, or while the loss or model runs."""


@dataclass(frozen=True)
class Task:
    """The computation to run: a model, its penalized layers, and a loss.

    Attributes:
        model: The network.
        layers: The penalized layers by name.
        loss: The loss.
        output: Key or attribute of the model's output that the loss takes; ``None`` for all of it.
        eager: Whether compiled modules run uncompiled.
        noting: How to find the loss function call that computes the loss.
        copies: Whether model or loss change their arguments in place, so that each run needs its
            own.
    """

    model: nn.Module
    layers: Mapping[str, Layer]
    loss: Loss
    output: str | None = None
    eager: bool = False
    noting: Noting = "nowhere"
    copies: bool = False

    @property
    def device(self) -> torch.device:
        """Device of the layers."""
        return next(iter(self.layers.values())).weight.device

    @property
    def parts(self) -> tuple[object, ...]:
        """Objects whose state a pass may change."""
        return (self.model, self.loss)

    def fresh(self, value: Any) -> Any:  # noqa: ANN401
        """Return arguments that a run may change in place without affecting the originals."""
        return copied(value) if self.copies else value

    def predict(self, inputs: Inputs) -> object:
        """Return the argument of the loss."""
        return select(call_model(self.model, inputs), self.output)

    def plain(self, inputs: Inputs, targets: object) -> Tensor:
        """Return the loss of a plain pass."""
        return scalar(self.loss(self.predict(inputs), targets))

    def noted(self, inputs: Inputs, targets: object) -> tuple[Tensor, object, LossCall | None]:
        """Run model and loss; return loss, prediction and the call that computed the loss.

        Args:
            inputs: The model's arguments.
            targets: The targets of the loss.
        """
        with _noting(self.noting == "model") as in_model:
            prediction = self.predict(inputs)
        loss, call = self._lost(prediction, targets)
        return loss, prediction, call or in_model.behind(loss, in_model=True)

    def _lost(self, prediction: object, targets: object) -> tuple[Tensor, LossCall | None]:
        """Return the loss, and the call that computed it."""
        call = plain_call(self.loss, prediction, targets) if self.noting != "nowhere" else None
        with _noting(call is None and self.noting in ("loss", "model")) as in_loss:
            loss = scalar(self.loss(prediction, targets))
        return loss, call or in_loss.behind(loss)

    def run(
        self,
        inputs: Inputs,
        targets: object,
        edit: Edit,
        *,
        care: Care,
        feed: Feed = own_input,
    ) -> Ran:
        """Run model and loss while observing the layers; return these in order of execution."""
        order: list[str] = []

        def noting(site: Site) -> Tensor:
            order.append(site.name)
            return edit(site)

        with watched(self.layers, noting, care=care, as_written=self.eager, feed=feed) as sites:
            with _noting(self.noting == "model") as in_model:
                prediction = self.predict(inputs)
            check_used(sites.values())
            for site in sites.values():
                site.check(self.model)
            # A network may itself have enabled autocast again.
            island = nullcontext() if care == "none" else without_autocast(self.device.type)
            with island:
                loss, call = self._lost(prediction, targets)
        sites = {name: sites[name] for name in order}
        return Ran(loss, prediction, sites, call or in_model.behind(loss, in_model=True))


class Ran(NamedTuple):
    """A run of model and loss.

    Attributes:
        loss: The loss.
        prediction: Argument of the loss.
        sites: The observed layers with inputs and outputs.
        call: The loss function call that computed the loss, if it was recorded.
    """

    loss: Tensor
    prediction: object
    sites: dict[str, Site]
    call: LossCall | None


def _noting(active: bool) -> AbstractContextManager[LossCalls]:
    """Record calls of loss functions, or none."""
    return LossCalls() if active else nullcontext(LossCalls())


@dataclass(frozen=True, eq=False)
class Recorded:
    """A plain pass whose layers were observed, with the data needed to rerun its tail.

    Attributes:
        loss: The loss, in the caller's precision.
        prediction: Argument of the loss.
        sites: The observed layers with inputs and outputs, in order of execution.
        inputs: The model's arguments before the pass.
        targets: The targets of the loss before the pass.
        state: Global random state before the pass.
        body: Calls of modules that finished before the first layer began.
        calls: The outputs of these calls.
    """

    loss: Tensor
    prediction: object
    sites: dict[str, Site]
    inputs: Inputs
    targets: object
    state: RandomState
    body: tuple[Finished, ...]
    calls: list[Call]

    @property
    def first(self) -> Site:
        """The layer that ran first."""
        return next(iter(self.sites.values()))

    @property
    def kept(self) -> bool:
        """Whether the outputs of earlier modules are unchanged and can be reused."""
        as_planned = [one.name for one in self.body] == [call.name for call in self.calls]
        return as_planned and all(call.intact for call in self.calls)

    def to_replay(self) -> Recorded:
        """Return the pass without the graph of its loss, which reruns do not need."""
        return replace(self, loss=self.loss.detach(), prediction=precise(self.prediction))


def differentiable(
    task: Task,
    inputs: Inputs,
    targets: object,
    *,
    standardize: bool = False,
    care: Care = "derivatives",
) -> Pass:
    """Run a pass that can be differentiated in the outputs of the layers."""
    ran = task.run(inputs, targets, add_shift, care=care)
    return _pass(ran, {}, standardize=standardize)


def record(
    task: Task,
    inputs: Inputs,
    targets: object,
    *,
    edit: Edit = leave,
    body: tuple[Finished, ...] = (),
    draws: bool = False,
) -> Recorded:
    """Run a plain pass, and record the layers and the outputs of the modules before them.

    Args:
        task: The model and loss to run.
        inputs: The model's arguments.
        targets: The targets of the loss.
        edit: Function that edits the layers' outputs.
        body: Calls of modules that finish before the first layer begins.
        draws: Whether the whole batch will be rerun with the same random numbers.
    """
    state = random_state(task.device)
    before = task.fresh(inputs), task.fresh(targets)
    with kept(task.model, body, draws_on=task.device if draws else None) as calls:
        loss, prediction, sites, _ = task.run(inputs, targets, edit, care="none")
    return Recorded(loss, prediction, sites, *before, state, body, calls)


class Replayed(NamedTuple):
    """A rerun of the network after the layers.

    Attributes:
        run: The pass.
        prediction: Argument of the loss.
    """

    run: Pass
    prediction: object


def replay(
    task: Task,
    recorded: Recorded,
    *,
    part: Tensor | None = None,
    cut: Cut | None = None,
    edit: Edit = add_shift,
    standardize: bool = False,
) -> Replayed:
    """Rerun the network after the first layer, using a recorded pass.

    The model is called as before, on all samples or a part, but modules that finished before the
    first layer began return their recorded outputs, and the layer gets its recorded features. These
    keep the graph of the recorded pass, so that the result has a gradient in every parameter,
    including those that affect the loss around the layer. Functions called between such modules run
    again. The model, the loss and the random state are not changed.

    Args:
        task: The model and loss to run.
        recorded: The pass to rerun.
        part: Indices of the samples to run; all by default, with the random numbers of the recorded
            pass.
        cut: Which tensors hold samples, for a part.
        edit: Function that edits the layers' outputs.
        standardize: Whether features are measured in units of their standard deviation.
    """
    first = recorded.first
    scales = {}
    if standardize:  # over all samples, even for a part
        scales = {s.name: deviation(s.features, s.layer) for s in recorded.sites.values()}

    def feed(site: Site) -> Tensor | None:
        if site.name != first.name:
            return None
        return rows_of(first.features, part).to(site.layer.weight.dtype)

    inputs, targets = task.fresh(recorded.inputs), task.fresh(recorded.targets)
    if cut is not None:
        inputs, targets = cut.rows(inputs, part, INPUTS), cut.rows(targets, part, TARGETS)
    with ExitStack() as stack:
        stack.enter_context(untouched(task.parts, task.device))
        if part is None:
            set_random_state(recorded.state)
        if recorded.kept:
            stack.enter_context(given_back(task.model, recorded.body, recorded.calls, part))
        ran = task.run(inputs, targets, edit, care="derivatives", feed=feed)
    return Replayed(_pass(ran, scales, standardize=standardize), ran.prediction)


def check_rows(sites: Iterable[Site], n: int) -> None:
    """Refuse layers whose input rows are not samples, for methods that treat samples separately.

    Raises:
        NotApplicableError: If there is such a layer.
    """
    for site in sites:
        if len(site.features) != n:
            raise NotApplicableError(
                f"layer {site.name!r} sees {len(site.features)} rows for {n} samples, as an expert "
                "does, so values of single samples or of a part of the batch do not exist. Use "
                'estimator="hutchinson" with probe_per="batch".'
            )


def rows_of(tensor: Tensor, part: Tensor | None) -> Tensor:
    """Return the rows of a part, or all."""
    rows = plain(tensor)
    return rows if part is None else rows[part.to(rows.device)]


def uses_of(
    task: Task, recorded: Recorded, part: Tensor | None, *, standardize: bool
) -> tuple[Use, ...]:
    """Return the layers of a recorded pass, or of a part of it, in their own precision."""
    uses = []
    for name, site in recorded.sites.items():
        layer = site.layer
        features = rows_of(site.features, part).to(layer.weight.dtype)
        output = rows_of(site.own, part).to(layer.weight.dtype)
        weight = layer.weight
        if standardize:
            features, weight = standardized(features, site, deviation(site.features, layer))
        shift = torch.zeros_like(output)
        uses.append(Use(name, features, output, weight, shift, site.operator))
    return tuple(uses)


def checked(task: Task, inputs: Inputs, targets: object, *, derivatives: bool = True) -> Pass:
    """Run a pass without side effects to check whether the layers can be penalized.

    Args:
        task: The model and loss to run.
        inputs: The model's arguments.
        targets: The targets of the loss.
        derivatives: Whether operations must have derivatives up to the third.

    Raises:
        FlatnessError: If a layer, the loss or an operation after a layer cannot be penalized.
    """
    try:
        run = _looked_at(task, inputs, targets, derivatives=derivatives, apart=True)
    except RuntimeError:
        # A gradient computed inside the model or the loss may bypass the layers.
        run = _looked_at(task, inputs, targets, derivatives=derivatives, apart=False)
    if derivatives:
        check_slopes(run)
    return run


def _looked_at(
    task: Task, inputs: Inputs, targets: object, *, derivatives: bool, apart: bool
) -> Pass:
    """Return a pass whose graph was checked, reduced to the graph of the tail if ``apart``.

    The part before the layers uses about half of the memory of a pass, and products with the
    Hessian of the tail need as much again.
    """
    with (
        untouched(task.parts, task.device),
        norms_noted(task.model, task.layers) as norms,
        ended_at(task.layers if apart else {}) as bodies,
    ):
        ran = task.run(inputs, targets, add_shift, care="derivatives")
    for site in ran.sites.values():
        assert site.shift is not None  # noqa: S101 - add_shift set it
        check_operations(ran.loss, site.shift, site.name, norms, derivatives=derivatives)
        check_map(site)
        before = bodies.get(site.name, site.features.grad_fn)
        check_sole_use(ran.loss, site.own.grad_fn, before, site.layer.weight, site.name)
    return _pass(ran, {}, standardize=False)


def deviation(features: Tensor, layer: Layer) -> Tensor:
    """Return each channel's standard deviation over samples and positions, 1 where it is 0."""
    flat = features.detach().movedim(channels(features, layer), -1).flatten(0, -2)
    spread = flat.to(layer.weight.dtype).std(0, correction=0)
    return spread.where(spread > 0, torch.ones_like(spread))


def _pass(ran: Ran, scales: Mapping[str, Tensor], *, standardize: bool) -> Pass:
    uses = []
    for name, site in ran.sites.items():
        assert site.shift is not None  # noqa: S101 - the edits of such passes add a shift
        features, weight = site.features, site.layer.weight
        if standardize:
            scale = scales[name] if name in scales else deviation(features, site.layer)
            features, weight = standardized(features, site, scale)
        uses.append(
            Use(
                name,
                features,
                plain(site.output),
                weight,
                site.shift,
                site.operator,
            )
        )
    tensor = ran.prediction if isinstance(ran.prediction, Tensor) else None
    unchanged = all(site.unchanged for site in ran.sites.values())
    return Pass(ran.loss, tensor, tuple(uses), ran.call if unchanged else None)


def standardized(features: Tensor, site: Site, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same map for features in units of their deviation: W D applied to D^-1 phi."""
    layer, operator = site.layer, site.operator
    rows = operator.rows(layer.weight)  # (g, d, m)
    inputs = scale.reshape(operator.groups, 1, -1)
    kernel = rows.shape[2] // inputs.shape[2]
    weight = operator.kernel(rows * inputs.repeat_interleave(kernel, -1))
    return features / _along(scale, features, layer), weight


def _along(values: Tensor, like: Tensor, layer: Layer) -> Tensor:
    """Return channel values reshaped to broadcast over features or outputs."""
    dimension = channels(like, layer)
    return values.reshape(-1, *[1] * (like.ndim - 1 - dimension))


def check_map(site: Site) -> None:
    """Refuse a layer that is more than its weight and bias, such as one with an adapter."""
    layer = site.layer
    with torch.no_grad(), without_autocast(layer.weight.device.type):
        expected = site.operator.apply(site.features, layer.weight)
        if layer.bias is not None:
            expected = expected + _along(layer.bias, expected, layer)
        error = (expected - site.own).abs().max()
        tolerance = 1e-3 * site.own.abs().max()
    if error > tolerance:  # False for NaN, which is reported elsewhere
        raise LayerError(
            f"layer {site.name!r}, a {type(layer).__name__}, does not compute what its "
            "weight and bias define, so its flatness would not be that of its weight. Penalize a "
            "plain layer."
        )
