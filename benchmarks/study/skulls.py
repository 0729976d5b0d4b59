"""Block 4 of the study: FAM on the skull autoencoder, against the mean skull and its controls.

``python benchmarks/study/skulls.py --work WORK --out docs/results``

Trains by `famseg.sweep`: what is finished is kept, and the same command goes on. A day of one core
with the settings below; ``--gate`` trains the baseline alone, which has to beat the mean skull.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from _cells import decades, difference, machine, table, to_csv

from famseg.files import write_atomically
from famseg.reporting import Run, compare_runs, find_runs, markdown, summary_tables, verdict_lines
from famseg.sweep import Request, Sweep, local_runner, plan_sweep, run_sweep
from famseg.tracking import read_metrics

SETTINGS = (
    *("data.subjects=60", "data.size=64", "data.spacing_mm=3.5", "data.test=0.4"),
    *("training.epochs=300", "training.batch_size=4", "training.picture_every=300"),
    *("optimizer.learning_rate=1e-3", "schedule.kind=cosine", "tracking.enabled=false"),
)
SEEDS = "seed=1..8"
TUNING = "seed=101,102"
PAPER = [0.0006, 0.002, 0.02, 0.1, 0.7]
METRIC = "test/set1/skull/dsc"
METRICS = (
    *(METRIC, "test/set2/skull/dsc", "test/set1/implant/dsc", "test/set1/implant_masked/dsc"),
    *("test/set1/skull/hd95_mm", "test/set1/variance_ratio", "test/set2/variance_ratio"),
)
RATIO = "test/set1/variance_ratio"
_RATIO_MARGIN = 0.05


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


_EVERY = ("penalty.every=1", "penalty.samples=all")
ARMS = {
    "baseline": Arm((), [0.0], tuned=False),
    "as released": Arm(
        ("penalty.quantity=simplified", "penalty.as_released=true", *_EVERY), PAPER, tuned=False
    ),
    "simplified, true gradient": Arm(("penalty.quantity=simplified", *_EVERY), PAPER, tuned=False),
    "FAM": Arm(_EVERY, decades(1)),
    "weight decay of the layer": Arm(
        ("penalty.kind=weight_decay", "penalty.layer=expand"), decades(0.1)
    ),
    "noise on the code": Arm(("penalty.estimator=noise", "penalty.every=1"), decades(1)),
}


def swept(name: str, words: Sequence[str], work: Path) -> Sweep:
    """Train what is missing of a sweep."""
    request = Request("skull", (*SETTINGS, *words))
    plan = plan_sweep(request, work / "skulls" / name.replace(" ", "-").replace(",", ""))
    outcome = run_sweep(
        plan,
        lambda show: local_runner(plan, show, jobs=1, stop=lambda: False),
        stop=lambda: False,
        show=lambda trials, states: None,
    )
    for trial, reason in outcome.failed.items():
        print(f"{name}: {trial} failed: {reason}", flush=True)
    return plan


def words_of(arm: Arm, strengths: Sequence[float], seeds: str) -> list[str]:
    """Return the words of a sweep over strengths and seeds."""
    return [*arm.words, "lambda=" + ",".join(f"{each:g}" for each in strengths), seeds]


def best(plan: Sweep) -> float:
    """Return the lambda with the best mean validation over the seeds of tuning."""
    values: dict[float, list[float]] = {}
    for trial in plan.trials:
        rows = read_metrics(plan.folder.run_folder(trial))
        found = [row[f"val/{plan.metric}"] for row in rows if f"val/{plan.metric}" in row]
        known = [each for each in found if each is not None]
        values.setdefault(float(trial.point["lambda"]), []).append(max(known, default=-math.inf))
    return max(values, key=lambda each: sum(values[each]) / len(values[each]))


def arms(work: Path, names: Sequence[str]) -> dict[str, Path]:
    """Train the arms; return the folders of the runs that are compared."""
    folders = {}
    for name in names:
        arm = ARMS[name]
        strengths = arm.strengths
        if arm.tuned:
            plan = swept(f"tuning {name}", words_of(arm, strengths, TUNING), work)
            strengths = [best(plan)]
            at_end = strengths[0] in (arm.strengths[0], arm.strengths[-1])
            print(f"{name}: lambda {strengths[0]:g}{' (end)' * at_end}", flush=True)
        plan = swept(name, words_of(arm, strengths, SEEDS), work)
        folders[name] = plan.folder.trials
    return folders


def gate(runs: Sequence[Run]) -> tuple[bool, str]:
    """Return whether the baseline beats the mean skull on whole-skull DSC, and the sentence."""
    pairs = [
        (run.metrics[METRIC], run.metrics["test/set1/mean_skull/skull/dsc"])
        for run in runs
        if run.finished and run.plain
    ]
    if len(pairs) < 2:
        return False, "**Gate**: not known: it takes two runs of the baseline or more."
    found = difference([one for one, _ in pairs], [two for _, two in pairs])
    passed = found.low > 0
    means = [sum(side) / len(pairs) for side in zip(*pairs, strict=True)]
    text = (
        f"**Gate**: lambda = 0 scores a whole-skull DSC of {means[0]:.4f}, the mean skull "
        f"{means[1]:.4f}: difference {found} over {found.n} seeds. "
    )
    text += (
        "The baseline beats the mean skull: the cell is informative."
        if passed
        else "The baseline is not shown to beat the mean skull: **the cell is uninformative**. "
        "Whatever raises DSC here may do so by collapsing."
    )
    return passed, text


def at_equal_variance(runs: Sequence[Run]) -> str:
    """Return whether a gain is left among runs whose variance ratio is that of the baseline."""
    base = {run.seed: run.metrics for run in runs if run.finished and run.plain}
    rows = []
    by: dict[str, list[tuple[Mapping[str, float], Mapping[str, float]]]] = {}
    for run in runs:
        if run.finished and not run.plain and run.seed in base:
            other = base[run.seed]
            if abs(run.metrics[RATIO] - other[RATIO]) <= _RATIO_MARGIN * other[RATIO]:
                by.setdefault(run.method, []).append((run.metrics, other))
    for method, pairs in by.items():
        if len(pairs) > 2:
            found = difference([x[METRIC] for x, _ in pairs], [y[METRIC] for _, y in pairs])
            rows.append([method, found.n, str(found), found.verdict])
    if not rows:
        return f"No method has three runs or more within {_RATIO_MARGIN:.0%} of it."
    return table(["method", "runs", "difference in DSC [95 %]", "verdict"], rows)


def signature(runs: Sequence[Run]) -> str:
    """Return whether both sets score equally to four digits from lambda 0.02 on (table 2)."""
    rows: dict[str, list[float]] = {}
    for run in runs:
        if run.finished and "test/set2/skull/dsc" in run.metrics:
            gap = abs(run.metrics[METRIC] - run.metrics["test/set2/skull/dsc"])
            rows.setdefault(run.method, []).append(gap)
    lines = [
        [m, len(v), f"{max(v):.5f}", "yes" if max(v) < 1e-4 else "no"] for m, v in rows.items()
    ]
    return table(["method", "runs", "largest difference of the sets", "equal to 4 digits"], lines)


def raw(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Return a row for each run, unfinished ones without scores."""
    names = (*METRICS, "test/set1/mean_skull/skull/dsc")
    return [
        {"method": run.method, "seed": run.seed, "finished": int(run.finished)}
        | {name: run.metrics[name] for name in names if name in run.metrics}
        for run in runs
    ]


def page(runs: Sequence[Run], introduction: str) -> str:
    """Return the page of the block."""
    (comparison,) = compare_runs(runs, metrics=METRICS, baseline="baseline")
    lines = ["# FAM on the skull autoencoder", "", gate(runs)[1], ""]
    lines += [f"- {each}" for each in verdict_lines(comparison)]
    lines += ["", introduction, "", machine(("torch", "monai")), ""]
    lines += [markdown(summary_tables(comparison)), "", "## At equal variance ratio", ""]
    lines += [at_equal_variance(runs), "", "## Are both sets equal?", "", signature(runs), ""]
    return "\n".join(lines)


INTRODUCTION = f"""Written by `benchmarks/study/skulls.py`: `famseg sweep` on the embedded skulls \
with `{" ".join(SETTINGS)}`. Strengths of FAM, decay and noise are the best of four decades by the \
validation of two other seeds; those in the paper's convention are all of its table. \
Raw rows: [study-skulls.csv](study-skulls.csv)."""
OTHERS = """\
Written by `benchmarks/study/skulls.py --runs` from a sweep of `configs/skull.yaml` (phantoms at \
64^3, 24 epochs, lambda of kappa with its full gradient, every tenth step at first). Weight decay \
and noise were not trained. Raw rows: [study-skulls.csv](study-skulls.csv)."""


def main() -> None:
    """Train what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gate", action="store_true", help="train the baseline alone")
    parser.add_argument("--runs", type=Path, help="train nothing: write the page of these runs")
    options = parser.parse_args()
    if options.runs:
        folders, introduction = [options.runs], OTHERS
    else:
        names = ["baseline"] if options.gate else list(ARMS)
        folders, introduction = list(arms(options.work, names).values()), INTRODUCTION
    runs = find_runs(folders).runs
    write_atomically(options.out / "study-skulls.md", page(runs, introduction).encode())
    write_atomically(options.out / "study-skulls.csv", to_csv(raw(runs)).encode())


if __name__ == "__main__":
    main()
