"""Aggregates over the predictions of a classifier, with their uncertainty."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from famseg.evaluation.classification._calibration import calibration
from famseg.statistics import wilson_interval

ClassSummary = dict[str, dict[str, Any]]
Figures = dict[str, float | None]
Rows = Sequence[Mapping[str, Any]]

# Keys of a summary that are not sets.
GAP, MAJORITY = "gap", "majority"
_TRAIN, _TEST = "train", "test"
_Z = statistics.NormalDist().inv_cdf(0.975)


def summarize_classes(rows: Rows, *, classes: Sequence[str]) -> ClassSummary:
    """Aggregate the rows of a classifier; failed samples are included as wrong predictions.

    Args:
        rows: As ``classification_rows`` makes them, with ``set`` added.
        classes: Names of the classes.

    Returns:
        For each set: ``n``, ``failed``, ``accuracy``, ``error``, ``loss`` (figures, see below),
        ``confidence`` (mean), ``ece`` and its ``bins`` (see ``calibration``),
        ``balanced_accuracy`` (mean over the classes that occur) and ``per_class``: by name ``n``,
        ``predicted`` (how often it is predicted), ``accuracy``, ``low`` and ``high``.

        Figures are ``mean``, ``std`` (of the population), ``standard_error``, ``low`` and ``high``:
        a 95 % interval, Wilson's for shares, 1.96 standard errors for the loss.

        In addition, if the sets are ``train`` and ``test``: ``gap``, by ``accuracy`` (train minus
        test) and ``loss`` (test minus train) the ``mean`` of the difference with its 95 % interval
        ``low``, ``high``; ``majority``: ``class``, the most frequent one in training (in the test
        where there is no ``train``), and the ``accuracy`` on the test of answering it always.

        All is finite or None: it fits JSON.

    Example:
        >>> row = {"set": "test", "label": 0, "prediction": 0, "accuracy": 1.0, "failed": False}
        >>> rows = [row | {"confidence": 0.9, "loss": 0.1}] * 4
        >>> summary = summarize_classes(rows, classes=["cat", "dog"])
        >>> summary["test"]["accuracy"]["mean"], round(summary["test"]["accuracy"]["low"], 2)
        (1.0, 0.51)
    """
    by_set: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_set.setdefault(row["set"], []).append(row)
    summary = {name: _of_set(of_set, classes) for name, of_set in by_set.items()}
    train, test = summary.get(_TRAIN), summary.get(_TEST)
    if train and test:
        summary[GAP] = {
            "accuracy": _difference(train["accuracy"], test["accuracy"]),
            "loss": _difference(test["loss"], train["loss"]),
        }
    if test:
        seen = (train or test)["per_class"]
        most = max(seen, key=lambda name: seen[name]["n"])  # the first one in case of a tie
        summary[MAJORITY] = {
            "class": most,
            "accuracy": test["per_class"][most]["n"] / test["n"],
        }
    return summary


def classification_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the summary as flat numbers for a tracker or a script.

    ``test/accuracy``, ``test/error``, ``test/loss`` (means), ``test/ece``, ``test/n``,
    ``test/failed``, ``test/balanced_accuracy``, the ends of the interval ``test/accuracy_low`` and
    ``_high``, ``test/loss_std``; the same for ``train``, whose loss is called
    ``train/evaluation_loss``, since ``train/loss`` is the curve of the training; ``test/gap``
    (accuracy, train minus test), ``test/gap_loss`` (test minus train), ``test/majority``.

    Args:
        summary: As ``summarize_classes`` or ``evaluate_classification`` returns it.

    Example:
        >>> classification_metrics({"majority": {"class": "cat", "accuracy": 0.5}})
        {'test/majority': 0.5}
    """
    flat: dict[str, float] = {}
    for name, part in sets_of(summary):
        loss = "evaluation_loss" if name == _TRAIN else "loss"
        flat |= {
            f"{name}/accuracy": part["accuracy"]["mean"],
            f"{name}/accuracy_low": part["accuracy"]["low"],
            f"{name}/accuracy_high": part["accuracy"]["high"],
            f"{name}/balanced_accuracy": part["balanced_accuracy"],
            f"{name}/error": part["error"]["mean"],
            f"{name}/{loss}": part["loss"]["mean"],
            f"{name}/{loss}_std": part["loss"]["std"],
            f"{name}/ece": part["ece"],
            f"{name}/n": float(part["n"]),
            f"{name}/failed": float(part["failed"]),
        }
    if GAP in summary:
        flat[f"{_TEST}/gap"] = summary[GAP]["accuracy"]["mean"]
        flat[f"{_TEST}/gap_loss"] = summary[GAP]["loss"]["mean"]
    if MAJORITY in summary:
        flat[f"{_TEST}/majority"] = summary[MAJORITY]["accuracy"]
    return flat


def sets_of(summary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and aggregates of each set of a summary."""
    for name, part in summary.items():
        if name not in (GAP, MAJORITY):
            yield name, part


def _of_set(rows: Rows, classes: Sequence[str]) -> dict[str, Any]:
    right = [row["accuracy"] for row in rows]
    found = calibration([row["confidence"] for row in rows], right)
    per_class = _per_class(rows, classes)
    occurring = [each["accuracy"] for each in per_class.values() if each["n"]]
    return {
        "n": len(rows),
        "failed": sum(row["failed"] for row in rows),
        "accuracy": _share(right),
        "error": _share([1 - value for value in right]),
        "loss": _mean([row["loss"] for row in rows]),
        "confidence": statistics.fmean(row["confidence"] for row in rows),
        "balanced_accuracy": statistics.fmean(occurring),
        "ece": found.ece,
        "bins": [asdict(each) for each in found.bins],
        "per_class": per_class,
    }


def _per_class(rows: Rows, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    truths = Counter(row["label"] for row in rows)
    answers = Counter(row["prediction"] for row in rows)
    right = Counter(row["label"] for row in rows if row["accuracy"])
    found = {}
    for number, name in enumerate(classes):
        n = truths[number]
        share = wilson_interval(right[number], n) if n else None
        found[name] = {
            "n": n,
            "predicted": answers[number],
            "accuracy": share and share.estimate,
            "low": share and share.low,
            "high": share and share.high,
        }
    return found


def _share(values: Sequence[float]) -> Figures:
    n = len(values)
    interval = wilson_interval(round(sum(values)), n)
    std = statistics.pstdev(values)
    return {
        "mean": interval.estimate,
        "std": std,
        "standard_error": std / math.sqrt(n),
        "low": interval.low,
        "high": interval.high,
    }


def _mean(values: Sequence[float]) -> Figures:
    n = len(values)
    mean = statistics.fmean(values)  # exact summation, independent of the order of samples
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return {
        "mean": mean,
        "std": statistics.pstdev(values),
        "standard_error": error,
        "low": None if error is None else max(0.0, mean - _Z * error),
        "high": None if error is None else mean + _Z * error,
    }


def _difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> Figures:
    """Return first minus second, with an interval from theirs (Newcombe 1998; Zou, Donner 2008)."""
    difference = first["mean"] - second["mean"]
    if first["low"] is None or second["low"] is None:
        return {"mean": difference, "low": None, "high": None}
    down = math.hypot(first["mean"] - first["low"], second["high"] - second["mean"])
    up = math.hypot(first["high"] - first["mean"], second["mean"] - second["low"])
    return {"mean": difference, "low": difference - down, "high": difference + up}
