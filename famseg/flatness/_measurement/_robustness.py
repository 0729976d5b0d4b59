"""Feature robustness: the increase of the loss when a layer's features are perturbed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from famseg.flatness._check import check_choice, check_count, check_model
from famseg.flatness._errors import FlatnessError
from famseg.flatness._fam import FAM
from famseg.flatness._measurement._batches import batches_of
from famseg.flatness._measurement._mean_hessian import Batch
from famseg.flatness._measurement._quantile import t_quantile
from famseg.flatness._measurement._relative_noise import Kind, RelativeNoise
from famseg.flatness._tracing._arguments import Loss, differentiable_in
from famseg.flatness._tracing._layer import find_layer
from famseg.flatness._tracing._pass import Task
from famseg.flatness._tracing._state import evaluating, untouched


@dataclass(frozen=True)
class FeatureRobustness:
    r"""Rise of the mean loss under random perturbations of a layer's features.

    Values are in the unit of the loss. `low` and `high` bound the mean over all matrices ``A``, for
    the very samples measured: the interval is Student's, over the draws of ``A``.

    Attributes:
        mean: Mean rise of the loss over draws and samples.
        low: Lower end of the confidence interval.
        high: Upper end.
        confidence: Its level.
        standard_error: Standard error of `mean` over the draws.
        per_draw: The rise for each draw, averaged over the samples.
        draws: Number of draws.
        samples: Number of samples.
        loss: Mean loss without perturbation.
        delta: Size of the perturbations.
        kind: Their distribution.
        features: The number ``m`` of features that a neuron sees.
        kappa: Relative flatness on the same samples; ``None`` where it was not found.
        kappa_error: Its standard error over random probes; 0 where it is exact.
        note: Why there is no `kappa`.
    """

    mean: float
    low: float
    high: float
    confidence: float
    standard_error: float
    per_draw: tuple[float, ...]
    draws: int
    samples: int
    loss: float
    delta: float
    kind: Kind
    features: int
    kappa: float | None = None
    kappa_error: float | None = None
    note: str | None = None

    @property
    def predicted(self) -> float | None:
        r"""What relative flatness predicts to second order: :math:`\delta^2 \kappa / 2m`."""
        return None if self.kappa is None else self.delta**2 / (2 * self.features) * self.kappa

    def __str__(self) -> str:
        level = f"{100 * self.confidence:g} %"
        said = (
            f"feature robustness at delta {self.delta:g}: the loss {self.loss:.4g} rises by "
            f"{self.mean:.4g} ({level} interval {self.low:.4g} to {self.high:.4g}, {self.draws} "
            f"{self.kind} draws, {self.samples} samples)"
        )
        if self.predicted is None:
            return f"{said}; no prediction: {self.note}"
        return f"{said}; relative flatness predicts {self.predicted:.4g}"


# Many arguments: the options of a measurement, all optional and keyword-only.
def feature_robustness(
    model: nn.Module,
    layer: str,
    data: Batch | Iterable[Batch],
    delta: float,
    *,
    loss: Loss,
    output: str | None = None,
    draws: int = 16,
    kind: Kind = "orthogonal",
    antithetic: bool = True,
    confidence: float = 0.95,
    probes: int = 8,
    seed: int = 0,
) -> FeatureRobustness:
    r"""Measure how much the loss rises when the features of a layer are perturbed at random.

    .. math:: E_F(A) = \frac1n \sum_i \bigl[\ell(\psi(\phi_i + A\phi_i), y_i)
        - \ell(\psi(\phi_i), y_i)\bigr]

    averaged over random ``A`` (Petzka et al., *Relative flatness and generalization*, NeurIPS
    2021). Since :math:`W(\phi + A\phi) = (W + WA)\phi`, that is relative noise of the weight,
    which is what is done for a convolution: ``A`` mixes the ``m`` inputs that a neuron sees,
    neighboring positions included, and each group has an ``A`` of its own.

    Both distributions have :math:`E\, A = 0` and :math:`E\, A_{jk} A_{j'k'} =
    \tfrac{\delta^2}{m}\, \delta_{jj'} \delta_{kk'}`, so that

    .. math:: E_A\, E_F(A) = \frac{\delta^2}{2m}\, \kappa + O(\delta^4)

    with the relative flatness :math:`\kappa`, which the result also contains, as its prediction.
    ``"orthogonal"`` is :math:`\delta` times a uniformly (Haar) distributed orthogonal matrix:
    spectral norm :math:`\delta`, every feature vector moves by exactly :math:`\delta` of its
    length. ``"gaussian"`` has independent normal entries of variance :math:`\delta^2 / m`: the
    same length on average, spectral norm about :math:`2\delta`.

    The model is in evaluation mode meanwhile; afterwards it is restored bit by bit: weights,
    buffers, training flags, hooks, global random state. Cost: ``1 + draws`` forward passes a batch,
    ``1 + 2 * draws`` if antithetic, and one measurement of :math:`\kappa`. Memory: ``draws`` copies
    of the weight.

    Args:
        model: The network, called as `famseg.flatness.FAM` calls it.
        layer: Dotted name of a linear or convolution layer.
        data: A batch as a tuple ``(inputs, targets)``, or an iterable of such tuples, read once.
        delta: Size of the perturbation, relative to the features; above 0.
        loss: ``loss(prediction, targets)``, the mean over the samples of a batch.
        output: Key or attribute of the model's output that the loss takes.
        draws: Number of matrices, at least 2: the same for all batches.
        kind: Their distribution; see above.
        antithetic: Average each draw over ``A`` and ``-A``. This does not change the mean but
            removes the contribution of the loss's slope from its error, usually nearly all of it.
        confidence: Level of the interval, between 0 and 1.
        probes: Random probes for :math:`\kappa`, where it is not exact; 0 for no prediction.
        seed: Of draws and probes.

    Returns:
        The mean with its interval over the draws, and the prediction.

    Raises:
        LayerNotFoundError: If there is no such layer.
        FlatnessError: If an argument is wrong, or the layer or the loss cannot be measured.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> head = nn.Linear(3, 2)
        >>> batch = torch.randn(6, 3), torch.randn(6, 2)
        >>> found = feature_robustness(head, "", batch, 0.1, loss=nn.MSELoss())
        >>> found.low <= found.predicted <= found.high
        True
    """
    check_model(model)
    _check(delta, draws, kind, confidence, probes)
    found = find_layer(model, layer)
    task = Task(model, {layer: found}, loss, output)
    sums = _Sums(draws)
    plan = (
        FAM(model, layer=layer, loss=loss, weight=1, output=output, probes=probes, seed=seed)
        if probes
        else None
    )
    noise = RelativeNoise(found, delta, draws, kind, seed, antithetic=antithetic)
    with (
        evaluating(*task.parts),
        untouched(task.parts, task.device),
        torch.inference_mode(False),
    ):
        for inputs, targets in map(differentiable_in, _batches(data)):
            with torch.no_grad():
                count, plain, rises = noise.rises(task, inputs, targets)
            sums.add(count, plain, rises)
            if plan is not None and sums.note is None:
                try:
                    measured = plan.measure(inputs, targets)
                except FlatnessError as error:
                    sums.note = str(error)
                else:
                    sums.add_kappa(count, measured.kappa, measured.per_probe)
    return _result(sums, noise, confidence, predicted=plan is not None)


class _Sums:
    """Sums over the batches, each weighted by its samples."""

    def __init__(self, draws: int) -> None:
        self.samples, self.loss, self.kappa, self.variance = 0, 0.0, 0.0, 0.0
        self.rises = [0.0] * draws
        self.note: str | None = None

    def add(self, count: int, loss: float, rises: list[float]) -> None:
        self.samples += count
        self.loss += count * loss
        self.rises = [old + count * new for old, new in zip(self.rises, rises, strict=True)]

    def add_kappa(self, count: int, kappa: Tensor, per_probe: Tensor | None) -> None:
        self.kappa += count * kappa.item()
        if per_probe is None:
            return
        few = len(per_probe) < 2
        self.variance += count**2 * (math.nan if few else per_probe.var().item() / len(per_probe))


def _result(
    sums: _Sums, noise: RelativeNoise, confidence: float, *, predicted: bool
) -> FeatureRobustness:
    n = sums.samples
    if not n:
        raise FlatnessError("data contains no batch. If it is an iterator, it may be exhausted.")
    rises = torch.tensor(sums.rises, dtype=torch.float64) / n
    draws, mean = len(rises), rises.mean().item()
    error = rises.std().item() / math.sqrt(draws)
    reach = t_quantile((1 + confidence) / 2, draws - 1) * error
    known = predicted and sums.note is None
    return FeatureRobustness(
        mean=mean,
        low=mean - reach,
        high=mean + reach,
        confidence=confidence,
        standard_error=error,
        per_draw=tuple(rises.tolist()),
        draws=draws,
        samples=n,
        loss=sums.loss / n,
        delta=noise.delta,
        kind=noise.kind,
        features=noise.features,
        kappa=sums.kappa / n if known else None,
        kappa_error=math.sqrt(sums.variance) / n if known else None,
        note=sums.note if predicted else "probes=0",
    )


def _batches(data: object) -> Iterator[Batch]:
    if isinstance(data, tuple | list | Tensor | Mapping | str) or not isinstance(data, Iterable):
        yield from batches_of(data)
    else:  # one at a time, since a data set may not fit into memory
        for batch in data:
            yield from batches_of([batch])


def _check(delta: float, draws: int, kind: str, confidence: float, probes: int) -> None:
    if not (math.isfinite(delta) and delta > 0):
        raise FlatnessError(f"delta must be a finite number above 0, got {delta!r}.")
    if not 0 < confidence < 1:
        raise FlatnessError(f"confidence must be between 0 and 1, got {confidence!r}.")
    check_choice("kind", kind, get_args(Kind))
    check_count("draws", draws)
    if draws < 2:
        raise FlatnessError("draws must be at least 2: a single draw gives no standard error.")
    if probes != 0:
        check_count("probes", probes)
