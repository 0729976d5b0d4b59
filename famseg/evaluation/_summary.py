"""Aggregates over cases, and the table of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from famseg.evaluation._cases import METRICS, REGIONS, SOURCES, CaseRow

Summary = dict[str, dict[str, Any]]
Statistics = dict[str, float | int]

# The table's columns: metric, header with unit, decimals.
_COLUMNS = (
    ("dsc", "DSC", 3),
    ("hd_mm", "HD mm", 2),
    ("hd95_mm", "HD95 mm", 2),
    ("hd95_directed_mm", "HD95 directed mm", 2),
    ("hd95_pooled_mm", "HD95 pooled mm", 2),
    ("assd_mm", "ASSD mm", 2),
    ("nsd", "NSD", 3),
)


def summarise(rows: Iterable[CaseRow]) -> Summary:
    """Aggregate case rows; failed cases are in every figure with the scores the rule gives them.

    Args:
        rows: Case rows of any sets and sources.

    Returns:
        ``{set: {region: {metric: figures}, "mean_skull": {region: {metric: figures}}}}``: the
        model's regions stand directly under the set, the baseline's under ``mean_skull``. Figures
        are ``mean``, ``std`` (of the population: divided by n), ``median``, ``min``, ``max``, ``n``
        and ``failed``. The order of the rows does not matter. All is finite: it fits JSON.

    Example:
        >>> from famseg.evaluation import case_scores
        >>> import numpy as np
        >>> truth = np.ones((4, 4, 4))
        >>> rows = case_scores(truth, truth, truth, (1, 1, 1), subject="a", dataset="set1")
        >>> summarise(rows)["set1"]["skull"]["dsc"]["mean"]
        1.0
    """
    rows = list(rows)
    summary: Summary = {}
    for name in dict.fromkeys(row.set for row in rows):
        of_set = [row for row in rows if row.set == name]
        summary[name] = _regions([row for row in of_set if row.source == "model"])
        baseline = _regions([row for row in of_set if row.source == "mean_skull"])
        if baseline:
            summary[name]["mean_skull"] = baseline
    return summary


def flat_metrics(summary: Mapping[str, Any], prefix: str = "test") -> dict[str, float]:
    """Return the summary as flat numbers for a tracker or a script.

    ``test/set1/skull/dsc`` is the mean, ``.../dsc_std`` its standard deviation; ``.../n`` and
    ``.../failed`` count the region's cases; ``test/set1/mean_skull/skull/dsc`` is the baseline's.
    ``test/set1/variance_ratio`` is left out where it is undefined.

    Args:
        summary: As ``summarise`` or ``evaluate`` returns it.
        prefix: What the names begin with.

    Example:
        >>> flat_metrics({"set1": {"variance_ratio": 0.9}})
        {'test/set1/variance_ratio': 0.9}
    """
    flat: dict[str, float] = {}
    for name, of_set in summary.items():
        if of_set.get("variance_ratio") is not None:
            flat[f"{prefix}/{name}/variance_ratio"] = of_set["variance_ratio"]
        for source, region, metrics in _blocks(of_set):
            path = "/".join([prefix, name, *([] if source == "model" else [source]), region])
            for metric, figures in metrics.items():
                flat[f"{path}/{metric}"] = figures["mean"]
                flat[f"{path}/{metric}_std"] = figures["std"]
                flat |= {f"{path}/{count}": figures[count] for count in ("n", "failed")}
    return flat


def table(summary: Mapping[str, Any]) -> str:
    """Return the summary as plain text: a line for each set, region and source.

    Args:
        summary: As ``evaluate`` returns it.

    Returns:
        Lines of mean ± standard deviation, cases, and failed cases; without a newline at the end.
    """
    lines = [["set", "region", "source", *(header for _, header, _ in _COLUMNS), "n", "failed"]]
    for name, of_set in summary.items():
        for source, region, metrics in sorted(
            _blocks(of_set), key=lambda block: block[1] != "skull"
        ):
            cells = [
                f"{metrics[metric]['mean']:.{digits}f} ± {metrics[metric]['std']:.{digits}f}"
                for metric, _, digits in _COLUMNS
            ]
            counts = [str(metrics["dsc"][count]) for count in ("n", "failed")]
            lines.append([name, region, source.replace("_", " "), *cells, *counts])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join(text + _notes(summary))


def _notes(summary: Mapping[str, Any]) -> list[str]:
    blocks = [block for of_set in summary.values() for block in _blocks(of_set)]
    notes = []
    ratios = [
        f"{name} {_ratio(of_set['variance_ratio'])}"
        for name, of_set in summary.items()
        if "variance_ratio" in of_set
    ]
    if ratios:
        notes.append(
            f"Output variance / truth variance: {', '.join(ratios)} "
            "(1: varies as the truth; 0: one skull for every input)"
        )
    if any(metrics["dsc"]["failed"] for _, _, metrics in blocks):
        notes.append(
            "Failed: the answer is empty. Counted in the means with DSC 0, NSD 0 and the image's "
            "diagonal as distance."
        )
    return ["", *notes] if notes else []


def _ratio(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _blocks(of_set: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Statistics]]]:
    """Yield source, region and metrics of one set's summary."""
    for source in SOURCES:
        regions = of_set if source == "model" else of_set.get(source, {})
        for region in REGIONS:
            if region in regions:
                yield source, region, regions[region]


def _regions(rows: Sequence[CaseRow]) -> dict[str, Any]:
    regions: dict[str, Any] = {}
    for region in REGIONS:
        inside = [row for row in rows if row.region == region]
        if inside:
            failed = sum(row.failed for row in inside)
            regions[region] = {
                metric: _figures([getattr(row, metric) for row in inside], failed)
                for metric in METRICS
            }
    return regions


def _figures(values: Sequence[float], failed: int) -> Statistics:
    return {
        "mean": statistics.fmean(values),  # exact summation: the order of cases does not matter
        "std": statistics.pstdev(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
        "failed": failed,
    }
