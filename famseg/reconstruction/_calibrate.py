"""Calibration of the threshold and the confidence of a coarse network on validation cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from famseg.engine import Processes
from famseg.reconstruction._coarse import CoarseNetwork
from famseg.reconstruction._confidence import THRESHOLDS, dice_by_threshold, fit_curve

Cases = Dataset[Mapping[str, Any]]
Progress = Callable[[int, int], None]
Mask = NDArray[np.bool_]


def calibrate(
    network: CoarseNetwork,
    cases: Cases,
    *,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> tuple[CoarseNetwork, float]:
    """Choose the threshold with the best mean DSC, then fit the confidence to the DSC at it.

    Every process must call it; each evaluates its share of the cases. Takes about a second of one
    core per case with the built-in model.

    Args:
        network: The network.
        cases: Map-style validation cases with ``image`` and ``implant``, ``(1, S, S, S)``.
        processes: The processes of the run; None for a single process.
        progress: Called with the number of completed cases of this process and their total.

    Returns:
        The network with threshold and curve, and the mean unmasked implant DSC at the threshold.

    Raises:
        ValueError: If there is no case.
    """
    processes = processes or Processes()
    count = len(cases)  # type: ignore[arg-type]  # map-style data sets have a length
    if not count:
        raise ValueError("a calibration needs validation cases: this split is empty.")
    share = range(processes.rank, count, processes.world)
    curves = []
    for done, index in enumerate(share, start=1):
        skull, implant = _masks(cases[index])
        curves.append((index, dice_by_threshold(network.predict(skull), skull, implant)))
        if progress is not None:
            progress(done, 2 * len(share))
    mean = np.mean([curve for _, curve in _gathered(curves, processes)], axis=0)
    best = int(np.argmax(mean))
    network = replace(network, threshold=THRESHOLDS[best])
    pairs = []
    for done, index in enumerate(share, start=1):
        pairs.append((index, _agreement_and_dsc(network, cases[index])))
        if progress is not None:
            progress(len(share) + done, 2 * len(share))
    found = [pair for _, pair in _gathered(pairs, processes)]
    curve = fit_curve([agreement for agreement, _ in found], [dsc for _, dsc in found])
    return replace(network, curve=curve, calibrated=True), float(mean[best])


def confidence_rows(
    network: CoarseNetwork, cases: Cases, *, processes: Processes | None = None
) -> list[dict[str, Any]]:
    """Return subject, confidence and unmasked implant DSC of each case; every rank must call."""
    processes = processes or Processes()
    share = range(processes.rank, len(cases), processes.world)  # type: ignore[arg-type]
    rows = []
    for index in share:
        case = cases[index]
        agreement, dsc = _agreement_and_dsc(network, case)
        confidence = network.curve(agreement) if agreement else 0.0
        rows.append(
            (
                index,
                {"subject": str(case["subject"]), "agreement": agreement}
                | {"confidence": confidence, "dsc": dsc},
            )
        )
    return [row for _, row in _gathered(rows, processes)]


def _agreement_and_dsc(network: CoarseNetwork, case: Mapping[str, Any]) -> tuple[float, float]:
    skull, truth = _masks(case)
    probability, agreement = network.raw_agreement(skull)
    found = network.implant_of(probability, skull)
    total = int(np.count_nonzero(found)) + int(np.count_nonzero(truth))
    return agreement, 2 * int(np.count_nonzero(found & truth)) / max(total, 1)


def _masks(case: Mapping[str, Any]) -> tuple[Mask, Mask]:
    return case["image"][0].numpy() > 0.5, case["implant"][0].numpy() > 0.5


def _gathered(rows: list[Any], processes: Processes) -> list[Any]:
    """Return the rows of all ranks in the order of their cases."""
    return sorted(
        (row for part in processes.gather(rows) for row in part), key=lambda row: int(row[0])
    )
