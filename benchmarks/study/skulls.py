"""Block 4 of the study: FAM on the skull autoencoder, against the mean skull and its controls.

``python benchmarks/study/skulls.py --work WORK --out docs/results``

Trains by `famseg.sweep`: what is finished is kept, and the same command continues. Ten core-hours
with the settings below; ``--arms`` chooses methods, so that processes can share WORK: ``baseline``
alone is the gate, since it has to beat the mean skull. Runs whose rows are in the CSV of the page
stay there. ``--page`` writes the page of what is there, and trains nothing.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _cells import (
    LEVEL,
    Difference,
    Row,
    Rows,
    average,
    column,
    decades,
    difference,
    family,
    machine,
    p_words,
    read_csv,
    table,
    to_csv,
)

from famseg.files import write_atomically
from famseg.reporting import find_runs
from famseg.sweep import Request, local_runner, plan_sweep, run_sweep
from famseg.tracking import read_metrics

SETTINGS = (
    *("data.subjects=40", "data.size=48", "data.spacing_mm=4.6", "data.validation=0.125"),
    *("data.test=0.5", "model.strides=[2,2,2,2,1]"),
    *("training.epochs=300", "training.batch_size=5", "training.precision=bf16"),
    *("training.validate_every=20", "training.picture_every=300", "training.threads=1"),
    "tracking.enabled=false",
)
SEEDS = range(1, 9)
TUNING = (101, 102)
PAPER = (0.0006, 0.002, 0.02, 0.1, 0.7)
METRICS = {
    "dsc": "test/set1/skull/dsc",
    "mean_skull_dsc": "test/set1/mean_skull/skull/dsc",
    "dsc_set2": "test/set2/skull/dsc",
    "implant_dsc": "test/set1/implant/dsc",
    "implant_masked_dsc": "test/set1/implant_masked/dsc",
    "hd95_mm": "test/set1/skull/hd95_mm",
    "variance_ratio": "test/set1/variance_ratio",
}
_RATIO_MARGIN = 0.05
_COLUMNS = {
    "DSC, set 2": ("dsc_set2", 4),
    "implant DSC": ("implant_dsc", 3),
    "implant DSC, masked": ("implant_masked_dsc", 3),
    "HD95 mm": ("hd95_mm", 2),
    "variance ratio": ("variance_ratio", 3),
}


@dataclass(frozen=True)
class Arm:
    """A method and its strengths.

    Attributes:
        words: What it sets.
        strengths: Values of lambda.
        tuned: Whether the best on validation is trained, or all.
    """

    words: tuple[str, ...]
    strengths: Sequence[float]
    tuned: bool = True


class TrainingFailedError(Exception):
    """A training that ended without an evaluation."""


_SIMPLIFIED = "penalty.quantity=simplified"
ARMS = {
    "baseline": Arm((), [0.0], tuned=False),
    "FAM": Arm((), decades(1)),
    "weight decay of the layer": Arm(
        ("penalty.kind=weight_decay", "penalty.layer=expand"), decades(0.1)
    ),
    "noise on the code": Arm(("penalty.estimator=noise", "penalty.every=1"), decades(1)),
    "as released": Arm(
        (_SIMPLIFIED, "penalty.as_released=true", "penalty.every=1", "penalty.samples=all"),
        PAPER,
        tuned=False,
    ),
    "simplified, true gradient": Arm((_SIMPLIFIED,), PAPER, tuned=False),
}


def trained(arm: Arm, strength: float, seed: int, folder: Path) -> Row:
    """Train and evaluate one network; its seed also draws the heads. Return its scores."""
    words = (*SETTINGS, *arm.words, f"lambda={strength:g}", f"seed={seed}", f"data.seed={seed}")
    plan = plan_sweep(Request("skull", words), folder)
    outcome = run_sweep(
        plan,
        lambda show: local_runner(plan, show, jobs=1, stop=lambda: False),
        stop=lambda: False,
        show=lambda trials, states: None,
    )
    if outcome.failed:
        raise TrainingFailedError(f"{folder.name}: failed: {outcome.failed}")
    (run,) = find_runs([plan.folder.trials]).runs
    validated = [
        value
        for row in read_metrics(run.path)
        if (value := row.get(f"val/{plan.metric}")) is not None
    ]
    scores: Row = {"finished": 1, "validation": max(validated), "validation_last": validated[-1]}
    return scores | {name: run.metrics[key] for name, key in METRICS.items()}


def arm_rows(name: str, work: Path, known: Sequence[Row]) -> list[Row]:
    """Tune and train an arm; return a row per run, those of tuning included.

    Args:
        name: Of the arm.
        work: Where runs and their rows are kept.
        known: Rows of the page, whose runs need not be there any more.
    """
    arm, rows = ARMS[name], Rows(work / "skulls" / "rows")

    def of(strength: float, seed: int, part: str) -> Row:
        cell: Row = {"method": name, "strength": strength, "seed": seed, "part": part}
        for row in known:
            if row["finished"] and all(row[key] == value for key, value in cell.items()):
                return row
        print(f"{name}, {strength:g}, seed {seed}", flush=True)
        folder = f"{name}-{strength:g}-{seed}".replace(" ", "-").replace(",", "")
        path = work / "skulls" / "sweeps" / folder
        try:
            return rows.of(cell, lambda: [trained(arm, strength, seed, path)])[0]
        except TrainingFailedError as error:  # not kept: the next call tries it again
            print(error, flush=True)
            return {**cell, "finished": 0}

    found, strengths = [], list(arm.strengths)
    if arm.tuned:
        found = [of(each, seed, "tuning") for each in strengths for seed in TUNING]
        strengths = [best(found)]
    found += [of(each, seed, "test") for each in strengths for seed in SEEDS]
    return found


def rows_there(name: str, work: Path, known: Sequence[Row]) -> list[Row]:
    """Return the rows of an arm that exist, without training: of the page, and finished since."""
    kept = Rows(work / "skulls" / "rows")
    found = {
        (row["part"], float(row["strength"]), int(float(row["seed"]))): row
        for row in known
        if row["method"] == name
    }
    for part, seeds in (("tuning", TUNING), ("test", SEEDS)):
        for strength in ARMS[name].strengths:
            for seed in seeds:
                cell = {"method": name, "strength": strength, "seed": seed, "part": part}
                if kept.has(cell):
                    found[part, strength, seed] = kept.of(cell, list)[0]
    return [found[key] for key in sorted(found, key=lambda key: (key[0] != "tuning", *key[1:]))]


def best(rows: Sequence[Row]) -> float:
    """Return the strength with the best mean validation; one that failed is the worst."""
    values: dict[float, list[float]] = {}
    for row in rows:
        value = float(row["validation"]) if row["finished"] else -math.inf
        values.setdefault(float(row["strength"]), []).append(value)
    return max(values, key=lambda each: sum(values[each]) / len(values[each]))


def methods(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    """Return the rows that were tested by method, with its strength, and seed."""
    found: dict[str, dict[int, Row]] = {}
    ends = {name: {arm.strengths[0], arm.strengths[-1]} for name, arm in ARMS.items() if arm.tuned}
    for row in rows:
        if row["part"] == "test":
            name, strength = str(row["method"]), float(row["strength"])
            title = name if name == "baseline" else f"{name}, {strength:g}"
            title += " (end)" * (strength in ends.get(name, set()))
            found.setdefault(title, {})[int(float(row["seed"]))] = row
    return found


def paired(one: Mapping[int, Row], two: Mapping[int, Row], name: str) -> Difference | None:
    """Return the difference of a column over the seeds that finished in both, if two or more."""
    seeds = [s for s in one if s in two and one[s]["finished"] and two[s]["finished"]]
    if len(seeds) < 2:
        return None
    return difference(*([float(of[s][name]) for s in seeds] for of in (one, two)))


def against_baseline(by: Mapping[str, Mapping[int, Row]]) -> dict[str, Difference]:
    """Return differences in DSC; p by Holm over what was tuned, and over each convention."""
    families: dict[str, dict[str, Difference]] = {}
    for title, of in by.items():
        method = str(next(iter(of.values()))["method"])
        found = paired(of, by["baseline"], "dsc")
        if method != "baseline" and found is not None:
            kind = "tuned" if ARMS[method].tuned else method
            families.setdefault(kind, {})[title] = found
    return {name: each for of in families.values() for name, each in family(of).items()}


def gate(base: Mapping[int, Row]) -> tuple[bool, str]:
    """Return whether the baseline beats the mean skull on whole-skull DSC, and the sentence."""
    rows = [row for row in base.values() if row["finished"]]
    if len(rows) < 2:
        return False, "**Gate**: not known: it takes two runs of the baseline or more."
    pair = [column(rows, name) for name in ("dsc", "mean_skull_dsc")]
    found = difference(*pair)
    means = [sum(side) / len(rows) for side in pair]
    text = (
        f"**Gate**: lambda = 0 scores a whole-skull DSC of {means[0]:.4f}, the mean skull "
        f"{means[1]:.4f}: difference {found} over {found.n} seeds. "
    )
    if found.low > 0:
        return True, text + "The baseline beats the mean skull: the cell is informative."
    return False, (
        f"{text}The baseline is not shown to beat the mean skull: **the cell is uninformative**. "
        "Whatever raises DSC here may do so by collapsing."
    )


def scores_table(by: Mapping[str, Mapping[int, Row]]) -> str:
    """Return DSC, and its difference to the baseline, with the other scores."""
    adjusted, lines = against_baseline(by), []
    for name, of in by.items():
        rows = [row for row in of.values() if row["finished"]]
        against = adjusted.get(name)
        line = [name, f"{len(rows)}" + f" ({len(of) - len(rows)} failed)" * (len(rows) < len(of))]
        line += [average(column(rows, "dsc"))] if len(rows) > 1 else ["-"]
        line += [str(against), p_words(against.p_holm), against.verdict] if against else [""] * 3
        for column_name, digits in _COLUMNS.values():
            line.append(f"{np.mean(column(rows, column_name)):.{digits}f}" if rows else "-")
        lines.append(line)
    head = ["method, lambda", "seeds", "DSC", "difference to the baseline [95 %]", "p (Holm)"]
    return table([*head, "verdict", *_COLUMNS], lines)


def last_table(by: Mapping[str, Mapping[int, Row]]) -> str:
    """Return the DSC on validation heads in the best and in the last epoch."""
    lines = []
    for name, of in by.items():
        rows = [row for row in of.values() if row["finished"]]
        found = None if name == "baseline" else paired(of, by["baseline"], "validation_last")
        keys = ("validation", "validation_last")
        means = [f"{np.mean(column(rows, key)):.4f}" if rows else "-" for key in keys]
        lines.append([name, *means, str(found or "")])
    head = ["method, lambda", "best epoch", "last epoch", "last: difference to the baseline [95 %]"]
    return table(head, lines)


def tuning_table(rows: Sequence[Row]) -> str:
    """Return what was tuned: validation, and the variance ratio that tells a collapse."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        if row["part"] == "tuning":
            groups.setdefault((str(row["method"]), float(row["strength"])), []).append(row)
    lines = []
    for (name, strength), of in groups.items():
        done = [row for row in of if row["finished"]]
        keys = ("validation", "validation_last", "variance_ratio")
        means = [f"{np.mean(column(done, key)):.4f}" if done else "-" for key in keys]
        lines.append([name, f"{strength:g}", f"{len(done)} of {len(of)}", *means])
    head = ["method", "lambda", "finished", "validation DSC, best epoch", "last epoch"]
    return table([*head, "variance ratio, set 1"], lines)


def at_equal_variance(by: Mapping[str, Mapping[int, Row]]) -> str:
    """Return whether a gain is left among runs whose variance ratio is that of the baseline."""
    base, compared = by["baseline"], {}
    for name, of in by.items():
        near = {
            seed: row
            for seed, row in of.items()
            if row["finished"]
            and seed in base
            and base[seed]["finished"]
            and _near(float(row["variance_ratio"]), float(base[seed]["variance_ratio"]))
        }
        if name != "baseline" and len(near) > 2:
            compared[name] = difference(*([float(x[s]["dsc"]) for s in near] for x in (near, base)))
    if not compared:
        return f"No method has three runs or more within {_RATIO_MARGIN:.0%} of it."
    lines = [[name, each.n, str(each), each.verdict] for name, each in family(compared).items()]
    return table(["method, lambda", "seeds", "difference in DSC [95 %]", "verdict"], lines)


def _near(one: float, two: float) -> bool:
    return abs(one - two) <= _RATIO_MARGIN * two


def signature(by: Mapping[str, Mapping[int, Row]]) -> str:
    """Return whether both sets score equally to four digits (table 2 of the paper)."""
    lines = []
    for name, of in by.items():
        rows = [row for row in of.values() if row["finished"]]
        gaps = [abs(float(row["dsc"]) - float(row["dsc_set2"])) for row in rows]
        equal = sum(gap < 1e-4 for gap in gaps)
        lines.append([name, f"{equal} of {len(rows)}", f"{max(gaps, default=math.nan):.5f}"])
    return table(["method, lambda", "equal to 4 digits", "largest difference of the sets"], lines)


def verdicts(by: Mapping[str, Mapping[int, Row]]) -> list[str]:
    """Return a sentence for each method against the baseline."""
    lines = []
    for name, found in against_baseline(by).items():
        ratio = paired(by[name], by["baseline"], "variance_ratio")
        text = f"{name}: {found} DSC over {found.n} seeds, {found.verdict}"
        if ratio:
            text += f"; variance ratio {ratio.mean:+.3f} [{ratio.low:+.3f}, {ratio.high:+.3f}]"
            gained = found.low > 0 and found.p_holm < LEVEL
            text += ": a gain with less variance" * (gained and ratio.high < 0)
        lines.append(f"{text}.")
    return lines


INTRODUCTION = f"""Written by `benchmarks/study/skulls.py`: the embedded skulls with \
`{" ".join(SETTINGS)}`: 15 heads to train on, 5 to validate, 20 to test, other ones for each seed. \
The checkpoint is the best on validation. Strengths of FAM, decay and noise are the best of four \
decades by the validation of two other seeds; "(end)" marks one at an end of them. Those in the \
paper's convention are of its table. p by Holm over what was tuned, and over the strengths of each \
convention; eight seeds could not show anything over all of them together. A training that failed \
has no scores: it is counted, not a part of the means. \
Raw rows: [study-skulls.csv](study-skulls.csv)."""


def page(rows: Sequence[Row]) -> str:
    """Return the page of the block."""
    by = methods(rows)
    lines = ["# FAM on the skull autoencoder", "", gate(by["baseline"])[1], ""]
    lines += [f"- {each}" for each in verdicts(by)]
    lines += ["", INTRODUCTION, "", machine(("torch", "monai")), ""]
    lines += ["## Test heads", "", scores_table(by), ""]
    lines += ["## At equal variance ratio", "", at_equal_variance(by), ""]
    lines += ["## Are both sets equal?", "", signature(by), ""]
    lines += ["## Trained to the end", "", "DSC on the validation heads.", "", last_table(by), ""]
    lines += ["## Strengths", "", f"Means over {len(TUNING)} seeds.", "", tuning_table(rows), ""]
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and write page and rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--page", action="store_true", help="of what is there, without training")
    options = parser.parse_args()
    csv = options.out / "study-skulls.csv"
    for name in options.arms:
        known = read_csv(csv) if csv.is_file() else []
        found = (rows_there if options.page else arm_rows)(name, options.work, known)
        # Read again: another process may have written its methods meanwhile.
        others = [row for row in read_csv(csv) if row["method"] != name] if csv.is_file() else []
        order = list(ARMS)
        rows = sorted([*others, *found], key=lambda row: order.index(str(row["method"])))
        if rows:
            write_atomically(csv, to_csv(rows).encode())
        if any(row["method"] == "baseline" for row in rows):
            write_atomically(options.out / "study-skulls.md", page(rows).encode())


if __name__ == "__main__":
    main()
