"""A report of a model's relative flatness, layer by layer."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias, get_args

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from famseg.flatness._check import check_choice, check_count
from famseg.flatness._errors import LayerError
from famseg.flatness._measurement._batches import Data, batches_of
from famseg.flatness._measurement._layer_report import (
    ReportQuantity,
    Work,
    layers_of,
    measured_layer,
    plain_passes,
)
from famseg.flatness._measurement._rescaling import check_factor
from famseg.flatness._measurement._rows import LayerRow, Report, RescalingRow
from famseg.flatness._tracing._arguments import Loss, differentiable_in
from famseg.flatness._tracing._layer import find_layer
from famseg.flatness._tracing._operator import Layer
from famseg.flatness._tracing._pass import Task
from famseg.flatness._tracing._state import evaluating, untouched

Progress: TypeAlias = Callable[[str, int, int], None]


# Many arguments: the options of a measurement, all optional and keyword-only.
def report(
    model: nn.Module,
    data: Data,
    loss: Loss,
    *,
    layers: Sequence[str] | None = None,
    output: str | None = None,
    quantities: Sequence[ReportQuantity] | None = None,
    probes: int = 4,
    seed: int = 0,
    rescale: float | None = 2.0,
    progress: Progress | None = None,
) -> Report:
    r"""Measure the relative flatness of a model's layers, in evaluation mode, without a trace.

    For each layer :math:`\kappa = \sum_{st} \langle w_s, w_t\rangle \operatorname{tr} H_{st}`
    (Petzka et al., NeurIPS 2021, definition 3) with its standard error, and the measures that it is
    compared with, see `LayerRow`. A layer that cannot be measured is a row that says why.
    Parameters, their ``.grad``, buffers, training flags, hooks and the random state of torch are
    restored afterwards, even after exceptions and interrupts.

    Several batches give the value of the mean loss over all samples: the mean weighted by their
    sizes, the largest eigenvalue that of the mean Hessian. Only ``max_eigenvalue`` is the mean of
    the batches' values, at or above that of the mean loss. The standard error is taken over samples
    where these have values of their own, else over batches, else, for that very batch, over probes.

    The rescaling check measures the first batch, before and while the layer's weight is multiplied
    and its inputs are divided by ``rescale``, which does not change the function of any network:
    kappa must not move, the plain trace must.

    Cost: each layer and batch takes ``probes`` Hessian-vector products for kappa (none, or fewer,
    where it is exact for less), as many for the trace, and some ten to twenty for the largest
    eigenvalue, which is found to 3 % or closer; a product costs about two plain steps.

    Args:
        model: The network, on the device of the data.
        data: ``(inputs, targets)``, a tuple, or an iterable of such batches, a data loader say;
            inputs as `FAM` takes them. All batches are kept while the report is made.
        loss: ``loss(prediction, targets)``, a scalar, the mean over the samples of a batch.
        layers: Names of the layers, or patterns such as ``"decode.*"``; by default every linear and
            convolution layer.
        output: Key or attribute of the model's output that the loss takes.
        quantities: What to measure in addition to kappa: ``"simplified"`` (and with it the trace),
            ``"largest_eigenvalue"``, ``"max_eigenvalue"``. By default all of them, the last where
            it is cheap: linear layers of at most 64 neurons with one feature vector a sample.
        probes: Random probes of a value where it is not exact.
        seed: Seed of the probes.
        rescale: Factor of the rescaling check; ``None`` for none.
        progress: Called with a layer's name, finished and all steps of the work.

    Returns:
        The report; ``print`` shows its table.

    Raises:
        LayerNotFoundError: If no layer has a given name; near names are listed.
        LayerError: If a named module is not a linear or convolution layer, or the model has none.
        LossError: If the loss is not a scalar, or not finite.
        FlatnessError: If another argument or the data are wrong.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> data = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> found = report(net, data, nn.CrossEntropyLoss())
        >>> [(row.name, row.d, row.m, row.estimator) for row in found.rows]
        [('0', 8, 4, 'columns'), ('2', 3, 8, 'closed_form')]
        >>> [(row.kappa_change < 1e-5, round(row.trace_factor, 5)) for row in found.rescaling]
        [(True, 0.25), (True, 0.25)]
    """
    for name in quantities or ():
        check_choice("quantities", name, get_args(ReportQuantity))
    check_count("probes", probes)
    if rescale is not None:
        check_factor(rescale)
    if isinstance(model, DistributedDataParallel):
        model = model.module
    chosen = _chosen(model, layers)
    batches = batches_of(data)
    task = Task(model, chosen, loss, output)
    with (
        evaluating(*task.parts),
        untouched(task.parts, task.device),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        batches = [differentiable_in(batch) for batch in batches]
        work = Work(model, batches, loss, output, quantities, probes, seed, rescale)
        loss_level, chosen = plain_passes(work, chosen)
        found = _measured(work, chosen, progress)
    return Report(
        model=type(model).__name__,
        samples=sum(work.sizes),
        batches=len(batches),
        loss=loss_level,
        probes=probes,
        seed=seed,
        rows=tuple(row for row, _ in found),
        rescaling=tuple(check for _, check in found if check is not None),
    )


def _measured(
    work: Work, chosen: Mapping[str, Layer], progress: Progress | None
) -> list[tuple[LayerRow, RescalingRow | None]]:
    found, done, total = [], 0, work.steps * len(chosen)
    for name, layer in chosen.items():
        steps = itertools.count(done + 1)

        def stepped(name: str = name, steps: Iterator[int] = steps) -> None:
            if progress is not None:
                progress(name, next(steps), total)

        row, check = measured_layer(work, name, layer, stepped)
        done += work.steps
        if row.failure is not None and progress is not None:
            progress(name, done, total)
        found.append((row, check))
    return found


def _chosen(model: nn.Module, wanted: Sequence[str] | None) -> dict[str, Layer]:
    """Return the layers that names or patterns match."""
    if isinstance(wanted, str):
        wanted = [wanted]
    layers = layers_of(model)
    if not layers:
        raise LayerError(f"a {type(model).__name__} has no linear or convolution layer to measure.")
    if wanted is None:
        return layers
    names: set[str] = set()
    for each in wanted:
        plain = each.replace("_orig_mod.", "")
        matches = {plain} & layers.keys() or set(fnmatch.filter(layers, plain))
        if not matches:
            find_layer(model, each)  # raises an error that says why
        names |= matches
    if not names:
        raise LayerError(
            "layers is empty. Name a layer, or omit the argument to measure all of them."
        )
    return {name: layer for name, layer in layers.items() if name in names}
