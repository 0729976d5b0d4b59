"""Means over an epoch and all ranks, with sums that a checkpoint can store."""

from __future__ import annotations

import math
from collections.abc import Mapping

from famseg.engine._processes import Processes

SUMS = (
    "samples",
    "weight",
    "loss",
    "loss_squared",
    "penalised",
    "penalty",
    "penalty_squared",
    "plain_steps",
    "plain_seconds",
    "penalised_steps",
    "penalised_seconds",
    "seconds",
)
# Quantities that are means over ranks instead of samples.
_PER_PROCESS = (
    "plain_steps",
    "plain_seconds",
    "penalised_steps",
    "penalised_seconds",
    "seconds",
)


class Meter:
    """Sums of one epoch, from which its means and standard deviations are computed.

    Example:
        >>> meter = Meter()
        >>> for loss in (1.0, 3.0):
        ...     meter.add({"samples": 2, "loss": loss, "penalty": float("nan"), "seconds": 0.1})
        >>> metrics = meter.metrics(Processes())
        >>> metrics["train/loss"], metrics["train/loss_std"], "train/penalty" in metrics
        (2.0, 1.0, False)
    """

    def __init__(self) -> None:
        self.sums = dict.fromkeys(SUMS, 0.0)

    def add(self, output: Mapping[str, float]) -> None:
        """Add the output of a training step."""
        sums, samples = self.sums, output["samples"]
        weight = output.get("weight", samples)  # for a loss that is not a mean over samples
        sums["samples"] += samples
        sums["weight"] += weight
        sums["loss"] += weight * output["loss"]
        sums["loss_squared"] += weight * output["loss"] ** 2
        sums["seconds"] += output["seconds"]
        penalty = output["penalty"]
        kind = "plain" if math.isnan(penalty) else "penalised"
        sums[f"{kind}_steps"] += 1
        sums[f"{kind}_seconds"] += output["seconds"]
        if kind == "penalised":
            sums["penalised"] += samples
            sums["penalty"] += samples * penalty
            sums["penalty_squared"] += samples * penalty**2

    def state(self, processes: Processes) -> dict[str, float]:
        """Return the sums over all ranks for a checkpoint; every rank must call.

        Numbers of steps and seconds are means over ranks, so that they are valid for any number of
        ranks.
        """
        total = dict(zip(SUMS, processes.sum(list(self.sums.values())), strict=True))
        return total | {name: total[name] / processes.world for name in _PER_PROCESS}

    def load_state(self, state: Mapping[str, float], processes: Processes) -> None:
        """Load the sums of a checkpoint into rank 0; the others start at 0."""
        if processes.main:
            # Older checkpoints without weights have sums over samples.
            self.sums = dict.fromkeys(SUMS, 0.0) | {"weight": state["samples"], **state}
            self.sums |= {name: self.sums[name] * processes.world for name in _PER_PROCESS}

    def metrics(self, processes: Processes) -> dict[str, float]:
        """Return the epoch's metrics; every rank must call.

        ``train/loss`` and ``train/penalty`` are means over samples (of a loss with class weights
        the mean with these weights), ``_std`` their standard deviations over batches.
        ``train/steps`` and ``train/seconds`` are number and time of the training steps, means over
        processes; ``train/seconds_plain_step`` and ``train/seconds_penalised_step`` the mean time
        of a step without and with penalty. The training adds ``train/epoch_seconds``, the time of
        the epoch with its validation, ``train/learning_rate``, and, where every step is penalized,
        ``train/seconds_plain_step`` of a forward and backward pass before the first epoch.
        """
        total = dict(zip(SUMS, processes.sum(list(self.sums.values())), strict=True))
        metrics = {
            "train/loss": total["loss"] / total["weight"],
            "train/loss_std": _std(total["loss_squared"], total["loss"], total["weight"]),
            "train/seconds": total["seconds"] / processes.world,
            "train/steps": (total["plain_steps"] + total["penalised_steps"]) / processes.world,
        }
        if total["penalised"]:
            metrics["train/penalty"] = total["penalty"] / total["penalised"]
            metrics["train/penalty_std"] = _std(
                total["penalty_squared"], total["penalty"], total["penalised"]
            )
        for kind in ("plain", "penalised"):
            if total[f"{kind}_steps"]:
                metrics[f"train/seconds_{kind}_step"] = (
                    total[f"{kind}_seconds"] / total[f"{kind}_steps"]
                )
        return metrics


def _std(squares: float, values: float, count: float) -> float:
    mean = values / count
    return math.sqrt(max(0.0, squares / count - mean * mean))  # ** would raise beyond 1e154
