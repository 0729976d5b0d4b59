"""One row of a flatness report."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import torch
from torch import nn

from famseg.flatness._errors import FlatnessError, LossError
from famseg.flatness._estimators._factor import Quantity
from famseg.flatness._fam import FAM
from famseg.flatness._measurement._batches import samples_of
from famseg.flatness._measurement._mean_hessian import Batch, mean_largest_eigenvalue
from famseg.flatness._measurement._rescaling import rescaled_layer
from famseg.flatness._measurement._rows import LayerRow, RescalingRow
from famseg.flatness._measurement._spread import Value, combined
from famseg.flatness._tracing._arguments import Loss
from famseg.flatness._tracing._layer import find_layer, penalizable_layers
from famseg.flatness._tracing._operator import Layer, groups_of, is_linear, matrix_shape
from famseg.flatness._tracing._pass import Task, differentiable

ReportQuantity = Literal["simplified", "largest_eigenvalue", "max_eigenvalue"]

# With one feature vector per sample, each neuron's eigenvalue needs one Hessian-vector product.
_FEW_NEURONS = 64
_TOLERANCE, _ITERATIONS = 3e-2, 100
_FAULTS = (FlatnessError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Work:
    """Settings of a report; the model is in evaluation mode, with gradients enabled.

    Attributes:
        model: The network.
        batches: Inputs and targets.
        loss: The loss.
        output: Part of the model's output that the loss takes.
        quantities: Quantities to measure in addition to kappa; ``None``: those that are cheap.
        probes: Number of random probes per value.
        seed: Their seed.
        rescale: Factor of the rescaling check; ``None`` for none.
    """

    model: nn.Module
    batches: Sequence[Batch]
    loss: Loss
    output: str | None
    quantities: Sequence[ReportQuantity] | None
    probes: int
    seed: int
    rescale: float | None

    @property
    def sizes(self) -> list[int]:
        """Numbers of samples of the batches."""
        return [samples_of(inputs) for inputs, _ in self.batches]

    @property
    def shares(self) -> list[float]:
        """Shares of the batches in a mean over samples."""
        return [size / sum(self.sizes) for size in self.sizes]

    @property
    def steps(self) -> int:
        """Number of steps per layer: kappa, other quantities, the check."""
        return 1 + sum(map(self.wants, get_args(ReportQuantity))) + (self.rescale is not None)

    def wants(self, quantity: ReportQuantity) -> bool:
        """Return whether a quantity is requested, or may be measured if it is cheap."""
        return self.quantities is None or quantity in self.quantities

    def task(self, layers: dict[str, Layer], *, eager: bool = False) -> Task:
        """Return the task that observes the given layers."""
        return Task(self.model, layers, self.loss, self.output, eager)


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """Return the linear and convolution layers of a model by name, in the order of the model."""
    modules = {key.replace("_orig_mod.", ""): module for key, module in model.named_modules()}
    return {name: cast("Layer", modules[name]) for name in penalizable_layers(model)}


def plain_passes(work: Work, layers: Mapping[str, Layer]) -> tuple[float, dict[str, Layer]]:
    """Return the mean loss, and the layers in the order of their calls, uncalled ones last.

    Errors in model or loss are raised here once instead of for each layer.

    Raises:
        LossError: If the loss is not finite.
    """
    task, losses, called = work.task({}), [], dict[str, Layer]()
    for number, batch in enumerate(work.batches):
        with torch.no_grad(), ExitStack() as stack:
            for name, layer in layers.items() if number == 0 else ():
                hook = functools.partial(_note, called, name, layer)
                stack.callback(layer.register_forward_pre_hook(hook).remove)
            value = task.plain(*batch).item()
        if not math.isfinite(value):
            raise LossError(
                f"the loss of batch {number} is {value}: flatness cannot be measured. Did the "
                "training diverge?"
            )
        losses.append(value)
    mean = sum(share * value for share, value in zip(work.shares, losses, strict=True))
    return mean, called | {name: layer for name, layer in layers.items() if name not in called}


def _note(called: dict[str, Layer], name: str, layer: Layer, *_: object) -> None:
    called.setdefault(name, layer)


def measured_layer(
    work: Work, name: str, layer: Layer, stepped: Callable[[], None]
) -> tuple[LayerRow, RescalingRow | None]:
    """Return the rows of a layer; the row of one that cannot be measured states the reason.

    Args:
        work: Settings of the report.
        name: Name of the layer.
        layer: The layer.
        stepped: Called after each step.
    """
    row = LayerRow(name, type(layer).__name__, *matrix_shape(layer), groups_of(layer))
    with _thawed(layer):
        try:
            find_layer(work.model, name)
            return _Layer(work, name, layer, stepped).rows(row)
        except _FAULTS as error:
            return replace(row, failure=_reason(error)), None


class _Layer:
    """The measurements of one layer."""

    def __init__(self, work: Work, name: str, layer: Layer, stepped: Callable[[], None]) -> None:
        self._work, self._name, self._layer, self._stepped = work, name, layer, stepped
        self._eager = False

    def rows(self, row: LayerRow) -> tuple[LayerRow, RescalingRow | None]:
        """Return the completed row, and the rescaling check if requested.

        An error after kappa only loses its own number and leaves a note.
        """
        row = self._kappa(row)
        steps: dict[ReportQuantity, Callable[[LayerRow], LayerRow]] = {
            "simplified": self._simplified,
            "largest_eigenvalue": self._largest,
            "max_eigenvalue": self._neurons,
        }
        for quantity, step in steps.items():
            if not self._work.wants(quantity):
                continue
            try:
                row = step(row)
            except _FAULTS as error:
                row = _noted(row, f"{quantity} was not measured: {_reason(error)}")
            self._stepped()
        if self._work.rescale is None:
            return row, None
        check = None
        try:
            check = self._check(row, self._work.rescale)
        except _FAULTS as error:
            row = _noted(row, f"the rescaling was not checked: {_reason(error)}")
        self._stepped()
        return row, check

    def _kappa(self, row: LayerRow) -> LayerRow:
        kappa, fam = self._value("relative_flatness")
        if not math.isfinite(kappa.mean):
            raise FlatnessError(
                f"the second derivatives of layer {self._name!r} are not finite (kappa is "
                f"{kappa.mean}). Measure in float64."
            )
        plan = fam._planner.plan
        assert plan is not None  # noqa: S101 - set by the measurement
        self._eager = plan.eager
        self._stepped()
        return replace(
            row,
            samples=sum(self._work.sizes),
            kappa=kappa.mean,
            kappa_error=kappa.error,
            kappa_per_feature=kappa.mean / row.m,
            spread=kappa.spread,
            replicates=kappa.replicates,
            probes=kappa.probes,
            estimator=plan.layers[0].method,
            reason=plan.layers[0].reason,
            norm_squared=self._layer.weight.detach().double().square().sum().item(),
        )

    def _simplified(self, row: LayerRow) -> LayerRow:
        value, _ = self._value("simplified")
        norm = row.norm_squared
        trace = value.mean / norm if norm else None
        return replace(row, simplified=value.mean, simplified_error=value.error, trace=trace)

    def _value(self, quantity: Quantity, *, briefly: bool = False) -> tuple[Value, FAM]:
        """Measure all batches, each with its own probes, or only the first one with one probe."""
        work = self._work
        batches = work.batches[:1] if briefly else work.batches
        fam = FAM(
            work.model,
            layer=self._name,
            loss=work.loss,
            weight=1.0,
            output=work.output,
            quantity=quantity,
            probes=1 if briefly else work.probes,
            every=1,
            samples="all",
            seed=work.seed,
        )
        found = []
        for number, batch in enumerate(batches):
            fam.seek(number)
            found.append(fam.measure(*batch))
        return combined(found, work.sizes[: len(batches)]), fam

    def _largest(self, row: LayerRow) -> LayerRow:
        pair = mean_largest_eigenvalue(
            self._work.task({self._name: self._layer}, eager=self._eager),
            self._work.batches,
            self._work.shares,
            tolerance=_TOLERANCE,
            max_iterations=_ITERATIONS,
        )
        if not math.isfinite(pair.value):
            return _noted(row, "the largest eigenvalue is not finite")
        if not pair.converged:
            off = pair.residual / abs(pair.value) if pair.value else math.inf
            note = (
                f"the largest eigenvalue is a lower bound: off by up to {off:.1g} of its value "
                f"after {pair.iterations} iterations"
            )
            row = _noted(row, note)
        return replace(row, largest_eigenvalue=pair.value)

    def _neurons(self, row: LayerRow) -> LayerRow:
        if self._work.quantities is None and not self._few_neurons():
            return row
        return replace(row, max_eigenvalue=self._value("max_eigenvalue")[0].mean)

    def _few_neurons(self) -> bool:
        if not is_linear(self._layer) or matrix_shape(self._layer)[0] > _FEW_NEURONS:
            return False
        task = self._work.task({self._name: self._layer}, eager=self._eager)
        with torch.no_grad():
            return differentiable(task, *self._work.batches[0]).uses[0].operator.single

    def _check(self, row: LayerRow, factor: float) -> RescalingRow:
        kappa, trace = self._kappa_and_trace()
        with rescaled_layer(self._work.model, self._name, factor):
            kappa_after, trace_after = self._kappa_and_trace()
        return RescalingRow(row.name, factor, kappa, kappa_after, trace, trace_after)

    def _kappa_and_trace(self) -> tuple[float, float | None]:
        # The current layer, whose weight is replaced during a rescaling.
        weight = find_layer(self._work.model, self._name).weight.detach()
        norm = weight.double().square().sum().item()
        kappa, _ = self._value("relative_flatness", briefly=True)
        simplified, _ = self._value("simplified", briefly=True)
        return kappa.mean, simplified.mean / norm if norm else None


def _reason(error: BaseException) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory on the device: use smaller batches"
    return str(error)


def _noted(row: LayerRow, note: str) -> LayerRow:
    return replace(row, notes=(*row.notes, note))


@contextmanager
def _thawed(layer: Layer) -> Iterator[None]:
    """Unfreeze a frozen weight for the measurement, and freeze it again afterwards."""
    weight = layer._parameters.get("weight")
    if weight is None or weight.requires_grad or not weight.is_floating_point():
        yield
        return
    weight.requires_grad_(True)
    try:
        yield
    finally:
        weight.requires_grad_(False)
