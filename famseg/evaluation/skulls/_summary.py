"""Aggregates over cases, as numbers and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import indent
from typing import Any

from famseg.evaluation.skulls._cases import REGIONS, SOURCES, CaseRow
from famseg.messages import text_table
from famseg.metrics import METRICS
from famseg.tracking import flat_figures

Summary = dict[str, dict[str, Any]]
Statistics = dict[str, float | int]

_SHOWN = tuple(metric for metric in METRICS if metric.in_scores and metric.in_cases)
_HEADERS: Mapping[str, str] = {region: region.replace("_", " ") for region in REGIONS}
# The only metrics that are shown for baselines and masked implants.
_FOREMOST = ("dsc", "bdsc", "hd95_mm")


def summarize(rows: Iterable[CaseRow]) -> Summary:
    """Aggregate case rows; failed cases are included with the values that the rule gives them.

    Args:
        rows: Case rows of any sets and sources.

    Returns:
        ``{set: {region: {metric: figures}, "mean_skull": {region: {metric: figures}}}}``: the
        model's regions are directly under the set, a baseline's under its name. Figures
        are ``mean``, ``std`` (of the population: divided by n), ``median``, ``min``, ``max``, ``n``
        and ``failed``. A metric that a region does not have is left out. The order of the rows does
        not matter. All numbers are finite, as JSON requires.

    Example:
        >>> from famseg.evaluation import case_scores
        >>> import numpy as np
        >>> truth = np.ones((4, 4, 4))
        >>> rows = case_scores(truth, truth, truth, (1, 1, 1), subject="a", dataset="set1")
        >>> summarize(rows)["set1"]["skull"]["dsc"]["mean"]
        1.0
    """
    rows = list(rows)
    summary: Summary = {}
    for name in dict.fromkeys(row.set for row in rows):
        of_set = [row for row in rows if row.set == name]
        summary[name] = _regions([row for row in of_set if row.source == "model"])
        for source in SOURCES[1:]:
            baseline = _regions([row for row in of_set if row.source == source])
            if baseline:
                summary[name][source] = baseline
    return summary


def flat_metrics(summary: Mapping[str, Any], prefix: str = "test") -> dict[str, float]:
    """Return the summary as flat numbers for a tracker or a script.

    ``test/set1/skull/dsc`` is the mean, ``.../dsc_std`` its standard deviation; ``.../n`` and
    ``.../failed`` count the region's cases; ``test/set1/mean_skull/skull/dsc`` is the baseline's.
    Baselines and ``implant_masked`` have only DSC, border DSC and HD95; the case table has the
    rest. ``test/set1/variance_ratio`` is left out where it is undefined.

    Args:
        summary: As ``summarize`` or ``evaluate`` returns it.
        prefix: The beginning of the names.

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
            if source != "model" or region == "implant_masked":
                metrics = {key: metrics[key] for key in _FOREMOST if key in metrics}
            flat |= flat_figures(path, metrics)
    return flat


def table(summary: Mapping[str, Any]) -> str:
    """Return the summary as plain text: one block per set, then one for its baselines.

    Args:
        summary: As ``evaluate`` returns it.

    Returns:
        Mean ± standard deviation of each metric with its unit, and the number of failed cases, for
        the whole skull and for the implant; then the implants of the baselines. Without a newline
        at the end. Fits 88 columns while distances stay below 100 mm.
    """
    blocks = [_block(name, of_set) for name, of_set in summary.items()]
    blocks += [each for name, of_set in summary.items() if (each := _baselines(name, of_set))]
    notes = []
    if any("implant_masked" in of_set for of_set in summary.values()):
        notes.append(
            "implant: everything that the prediction adds to the defective skull; implant masked:\n"
            "only its part inside the removed region, as if that were known"
        )
    if any("outlined" in source for of_set in summary.values() for source in of_set):
        notes.append(
            "outlined: within the outline that the model predicts; oracle: within the removed\n"
            "region, as if that were known"
        )
    if any("variance_ratio" in of_set for of_set in summary.values()):
        notes.append(
            "variance ratio: predictions over references; 1: they vary as much, 0: one skull for "
            "all"
        )
    if any(m["dsc"]["failed"] for of_set in summary.values() for _, _, m in _blocks(of_set)):
        notes.append(
            "failed: exactly one of prediction and reference has no bone; the means count it with\n"
            "DSC 0, NSD 0, the image's diagonal as distance and the largest roughness"
        )
    return "\n\n".join([*blocks, *(["\n".join(notes)] if notes else [])])


def _baselines(name: str, of_set: Mapping[str, Any]) -> str:
    """Return the implants of baselines; empty if there are none."""
    foremost = [metric for metric in _SHOWN if metric.name in _FOREMOST]
    lines = []
    for source, region, metrics in _blocks(of_set):
        if source == "model" or region == "skull":
            continue
        cells = [_cell(metrics.get(metric.name), metric.digits) for metric in foremost]
        title = source.replace("_", " ") + (", masked" if region == "implant_masked" else "")
        lines.append([title, *cells, str(metrics["dsc"]["failed"])])
    if not lines:
        return ""
    header = ["", *(metric.header for metric in foremost), "failed"]
    return f"{name}: implants of other methods\n{indent(text_table(header, lines), '  ')}"


def _block(name: str, of_set: Mapping[str, Any]) -> str:
    columns = sorted(
        (block for block in _blocks(of_set) if block[0] == "model" or block[1] == "skull"),
        key=lambda block: REGIONS.index(block[1]),
    )
    cases = max((metrics["dsc"]["n"] for _, _, metrics in columns), default=0)
    title = f"{name}: {cases} case{'s' * (cases != 1)}"
    if "variance_ratio" in of_set:
        ratio = of_set["variance_ratio"]
        title += f", variance ratio {'undefined' if ratio is None else format(ratio, '.3f')}"
    header = ["", *(_HEADERS[r] if source == "model" else "mean skull" for source, r, _ in columns)]
    lines = []
    for metric in _SHOWN:
        figures = [metrics.get(metric.name) for _, _, metrics in columns]
        if any(figures):
            lines.append([metric.header, *(_cell(each, metric.digits) for each in figures)])
    lines.append(["failed", *(str(metrics["dsc"]["failed"]) for _, _, metrics in columns)])
    return f"{title}\n{indent(text_table(header, lines), '  ')}"


def _cell(figures: Statistics | None, digits: int) -> str:
    return f"{figures['mean']:.{digits}f} ± {figures['std']:.{digits}f}" if figures else "-"


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
            values = {
                metric.name: [row.values[metric.name] for row in inside]
                for metric in METRICS
                if metric.in_cases
            }
            regions[region] = {
                name: _figures([value for value in of_cases if value is not None], failed)
                for name, of_cases in values.items()
                if None not in of_cases
            }
    return regions


def _figures(values: Sequence[float], failed: int) -> Statistics:
    return {
        "mean": statistics.fmean(values),  # exact summation, independent of the order of cases
        "std": statistics.pstdev(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
        "failed": failed,
    }
