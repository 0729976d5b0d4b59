"""Comparisons as data: a mapping for scripts, and rows for spreadsheets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from famseg.reporting._compare import Comparison
from famseg.reporting._groups import Group
from famseg.reporting._overview import overview
from famseg.reporting._power import powers
from famseg.reporting._runs import Run
from famseg.reporting._verdict import verdict_lines

_FIGURES = ("mean", "std", "standard_error", "low", "high", "best", "worst")
_PAIRING = (
    "difference",
    "p_value",
    "p_holm",
    "p_smallest",
    "p_wilcoxon",
    "cohens_dz",
    "rank_biserial",
)


def as_dict(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return comparisons as JSON types, with None for values that are not finite or unknown.

    Args:
        comparisons: From ``compare_runs``.

    Returns:
        ``studies``, each with ``name``, ``pipeline``, ``data_hash``, ``metrics``, ``baseline``,
        ``by``, ``verdict`` (sentences), ``notes``, ``overview`` and ``power`` of the first metric,
        and ``groups``; a group has ``name``, ``method``, ``runs``,
        ``unfinished``, ``repeated``, and by metric ``figures`` and ``against_baseline``.
    """
    return {
        "studies": [
            {
                "name": each.study.name,
                "pipeline": each.study.pipeline,
                "data_hash": each.study.data_hash,
                "metrics": list(each.metrics),
                "baseline": each.baseline,
                "by": each.by,
                "verdict": list(verdict_lines(each)),
                **_summary(each),
                "notes": list(each.notes),
                "groups": [_group(each, group) for group in each.study.groups],
            }
            for each in comparisons
        ]
    }


def _summary(comparison: Comparison) -> dict[str, Any]:
    """Return the main metric with its controls, and the power of the pairs in it."""
    if not comparison.metrics:
        return {"overview": None, "power": []}
    metric = comparison.metrics[0]
    found = asdict(overview(comparison, metric))
    found.pop("warnings")  # contained in the verdict
    power = [asdict(each) for each in powers(comparison, metric)]
    return {"overview": found, "power": power}


def rows(comparisons: Sequence[Comparison]) -> Iterator[dict[str, Any]]:
    """Yield a row for each group and metric, all with the same columns.

    Columns: ``study``, ``pipeline``, ``data_hash``, ``group``, ``method``, ``seeds``,
    ``unfinished``, ``metric``, the figures over seeds, and if there is a pairing, ``baseline``,
    ``by``, ``pairs``, ``difference``, ``difference_low``, ``difference_high`` and the tests.

    Args:
        comparisons: From ``compare_runs``.
    """
    for each in comparisons:
        for group in each.study.groups:
            for metric in each.metrics:
                yield _row(each, group, metric)


def _row(comparison: Comparison, group: Group, metric: str) -> dict[str, Any]:
    figures = comparison.figures.get((group.name, metric))
    pairing = comparison.pairings.get((group.name, metric))
    row: dict[str, Any] = {
        "study": comparison.study.name,
        "pipeline": comparison.study.pipeline,
        "data_hash": comparison.study.data_hash,
        "group": group.name,
        "method": group.method,
        "seeds": " ".join(str(run.seed) for run in group.runs),
        "unfinished": len(group.unfinished),
        "metric": metric,
    }
    row |= {"n": figures.n if figures else 0}
    row |= {name: getattr(figures, name, None) for name in _FIGURES}
    row |= {
        "baseline": comparison.baseline if pairing else None,
        "by": comparison.by if pairing else None,
        "pairs": getattr(pairing, "n", None),
        "difference_low": getattr(pairing, "low", None),
        "difference_high": getattr(pairing, "high", None),
    }
    return row | {name: getattr(pairing, name, None) for name in _PAIRING}


def _group(comparison: Comparison, group: Group) -> dict[str, Any]:
    def of_group(found: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
        return {
            metric: {
                key: _finite(value)
                for key, value in asdict(found[group.name, metric]).items()
                if key not in ("metric", "by")
            }
            for metric in comparison.metrics
            if (group.name, metric) in found
        }

    return {
        "name": group.name,
        "method": group.method,
        "runs": [_run(run) for run in group.runs],
        "unfinished": [_run(run) for run in group.unfinished],
        "repeated": [_run(run) for run in group.repeated],
        "figures": of_group(comparison.figures),
        "against_baseline": of_group(comparison.pairings),
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "seed": run.seed,
        "state": run.state,
        "created": run.created,
        "checkpoint": run.checkpoint,
        "metrics": dict(run.metrics),
    }


def _finite(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    return None if isinstance(value, float) and not math.isfinite(value) else value
