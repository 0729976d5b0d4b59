"""Block 5 of the study: what goes along with generalization, over all networks of block 2.

``python benchmarks/study/mechanism.py --out docs/results``, after `mlps.py`; no training.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from _cells import Row, machine, read_csv, table, to_csv
from numpy.typing import NDArray
from scipy import stats

from famseg.files import write_atomically
from famseg.messages import counted

Values = NDArray[np.float64]
TRAITS = {
    "kappa_head": "kappa of the head",
    "kappa_first": "kappa of the first layer",
    "norm_head": "norm of the head's weight",
    "norm_first": "norm of the first weight",
    "train_confidence": "confidence in training",
    "test_ece": "ECE on test",
    "robustness": "loss under relative noise on the head's features",
}
OUTCOMES = {
    "test_accuracy": "test accuracy",
    "gap": "gap: test minus training loss",
    "accuracy_gap": "gap in accuracy: training minus test",
    "robustness": "loss under relative noise on the head's features",
}
# What kappa of a head is made of: what is left of its correlation beside both?
BESIDE = ("norm_head", "train_confidence")


def with_gaps(rows: Sequence[Row]) -> list[Row]:
    """Return rows with both gaps."""
    return [
        {
            **row,
            "gap": float(row["test_loss"]) - float(row["train_loss"]),
            "accuracy_gap": float(row["train_accuracy"]) - float(row["test_accuracy"]),
        }
        for row in rows
    ]


def diverged(row: Row) -> bool:
    """Return whether a network ended with values that are not finite: it has no traits."""
    return not all(math.isfinite(float(row[name])) for name in (*TRAITS, *OUTCOMES) if name in row)


def within_seeds(
    rows: Sequence[Row], trait: str, outcome: str, beside: Sequence[str] = ()
) -> Values:
    """Return Spearman's correlation over the methods, for each seed by itself.

    Data, labels and initial weights are the same within a seed, so that they cannot tie the two.

    Args:
        rows: Rows of one condition.
        trait: A column.
        outcome: Another.
        beside: Columns whose ranks are held constant (partial correlation).
    """
    found = []
    for seed in sorted({float(row["seed"]) for row in rows}):
        own = [row for row in rows if row["seed"] == seed and not diverged(row)]
        names = (trait, outcome, *beside)
        ranks = np.array([stats.rankdata([float(row[name]) for row in own]) for name in names])
        centered = ranks - ranks.mean(1, keepdims=True)
        if beside:
            others = centered[2:].T
            centered = np.array(
                [each - others @ np.linalg.lstsq(others, each)[0] for each in centered[:2]]
            )
        norm = float(np.linalg.norm(centered[0]) * np.linalg.norm(centered[1]))
        found.append(float(centered[0] @ centered[1]) / norm if norm > 1e-9 else math.nan)
    return np.array(found)


def interval(values: Values) -> str:
    """Return the mean over seeds with its 95 % interval, Student's t."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return "-"
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return f"{values.mean():+.2f} [{values.mean() - half:+.2f}, {values.mean() + half:+.2f}]"


def conditions(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each condition by its title."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        title = f"{row['data']}, {float(row['noise']):.0%} noise, n = {float(row['n']):.0f}"
        found.setdefault(title.replace("%", " %"), []).append(row)
    return found


def page(by: Mapping[str, Sequence[Row]]) -> tuple[str, list[dict[str, object]]]:
    """Return the page, and the correlations behind it."""
    raw: list[dict[str, object]] = []
    sections, means = [], {}
    for outcome, title in OUTCOMES.items():
        lines = []
        measured = [*((trait, ()) for trait in TRAITS), ("kappa_head", BESIDE)]
        for trait, beside in measured:
            if trait == outcome:
                continue
            name = TRAITS[trait] + (", norm and confidence held" if beside else "")
            values = {of: within_seeds(rows, trait, outcome, beside) for of, rows in by.items()}
            means[name, outcome] = np.array([np.nanmean(each) for each in values.values()])
            lines.append([name, *(interval(each) for each in values.values())])
            raw += [
                {
                    "condition": of,
                    "outcome": outcome,
                    "trait": name,
                    "seed": i,
                    "spearman": float(v),
                }
                for of, each in values.items()
                for i, v in enumerate(each)
            ]
        sections.append(f"## {title}\n\n{table(['', *by], lines)}\n")
    rows = [row for of in by.values() for row in of]
    lost = sum(map(diverged, rows))
    left_out = (
        f"{lost} of {len(rows)} networks diverged, have no traits, and are in no correlation."
    )
    head = ["# What goes along with generalization", "", _verdict(means), "", INTRODUCTION, ""]
    head += [left_out, ""]
    return "\n".join([*head, machine(("torch", "scipy")), "", *sections]), raw


def _verdict(means: Mapping[tuple[str, str], Values]) -> str:
    lines = []
    for (name, outcome), values in means.items():
        if outcome != "test_accuracy":
            continue
        gap = means[name, "gap"]
        lines.append(
            f"- {name}: correlation with test accuracy {_range(values)}, with the gap {_range(gap)}"
            f", over {counted(len(values), 'condition')}."
        )
    return "\n".join(lines)


def _range(values: Values) -> str:
    if len(values) == 1:
        return f"{values[0]:+.2f}"
    return f"{np.median(values):+.2f} ({values.min():+.2f} to {values.max():+.2f})"


INTRODUCTION = """\
Written by `benchmarks/study/mechanism.py` from [study-mlps.csv](study-mlps.csv): Spearman's \
correlation over the methods of a condition, each with the strength that is best on validation, \
for every seed by itself; mean over the seeds with its 95 % interval, Student's t. In the \
verdict: median over the conditions, and the range. If flatter networks generalize better, kappa \
correlates negatively with accuracy and positively with the gap. Methods are not drawn at \
random: a correlation over them is no cause. Raw rows: \
[study-mechanism.csv](study-mechanism.csv)."""


def main() -> None:
    """Write page and rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    text, raw = page(conditions(with_gaps(read_csv(options.out / "study-mlps.csv"))))
    write_atomically(options.out / "study-mechanism.md", text.encode())
    write_atomically(options.out / "study-mechanism.csv", to_csv(raw).encode())


if __name__ == "__main__":
    main()
