"""The report of a run: its settings, its training and its results per case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

import numpy as np

from famseg.config import load_pipeline
from famseg.evaluation import (
    CaseRow,
    ShownCase,
    classification_signs,
    failure_signs,
    read_cases,
    read_shown,
)
from famseg.evaluation.skulls import PenaltyKind, SlicesCase, slices_image
from famseg.files import read_json
from famseg.meshes import surface_mesh
from famseg.messages import InputError, counted
from famseg.metrics import BY_NAME
from famseg.reporting._comparison_figures import course_figure
from famseg.reporting._figures import History, curves, distributions, series_like
from famseg.reporting._gap import course, evaluated_epoch
from famseg.reporting._html import Image, Page, Sortable
from famseg.reporting._runs import Checkpoint, Run, find_runs
from famseg.reporting._scene import (
    BONE,
    BOTH,
    FROM_THE_FRONT,
    IMPLANT,
    REFERENCE,
    Layer,
    Part,
    Scene,
    side_of,
)
from famseg.reporting._words import label_of
from famseg.tracking import read_metrics
from famseg.volumes import Volume

_MOST_SCENES = 3
_BONE_FACES, _IMPLANT_FACES = 40_000, 10_000
_PENALTY_AXES = {
    "relative_flatness": "relative flatness kappa, unit of the loss",
    "weight_decay": "||W||^2, squared weights",
    "jacobian_norm": "||J||^2, squared Jacobian",
}
_MISSED, _EXTRA = "missed", "too much"
_CASE_COLUMNS = ("dsc", "bdsc", "hd95_mm", "assd_mm", "volume_difference_ml")


def report_name(checkpoint: Checkpoint = "best") -> str:
    """Return the name of the report of a checkpoint's evaluation, in the run folder."""
    return "report.html" if checkpoint == "best" else f"report-{checkpoint}.html"


def run_page(path: Path, checkpoint: Checkpoint = "best") -> Page:
    """Return the report of a run folder of any pipeline.

    Args:
        path: The run folder.
        checkpoint: The checkpoint whose evaluation is shown.

    Raises:
        InputError: If there is no run, or a file of it cannot be read.
    """
    found = find_runs([path], checkpoint)
    run = found.runs[0]
    history = read_metrics(run.path)
    cases = _cases(run)
    return Page(
        title=f"{run.path.name}",
        lead=_lead(run, history),
        facts=_facts(run, cases),
        warnings=[*found.notes, *_signs(run, history)],
        scenes=[_scene(each) for each in _worst_first(read_shown(run.evaluation))[:_MOST_SCENES]],
        images=[*_curves(run, history), *_distributions(cases), *_evaluated(run)],
        tables=_tables(cases),
        settings=run.settings,
        foot=_foot(run),
    )


def _lead(run: Run, history: History) -> str:
    epochs = max((int(row["epoch"] or 0) for row in history), default=0)
    state = "It is finished" if run.finished else f"State: {run.state}"
    course = counted(epochs, "epoch")
    return f"Pipeline {run.pipeline}, {run.method}, seed {run.seed}, {course}. {state}."


def _facts(run: Run, cases: Sequence[CaseRow]) -> dict[str, str]:
    facts = {}
    for region in ("implant", "skull"):
        for name in dict.fromkeys(row.set for row in cases):
            rows = [row for row in cases if row.set == name and row.region == region]
            if rows:
                values = np.array([row.dsc for row in rows])
                failed = sum(row.failed for row in rows)
                facts[f"DSC of the {region}, {name}"] = (
                    f"{values.mean():.3f} ± {values.std():.3f} (n = {len(values)}, failed {failed})"
                )
    for name, value in run.metrics.items():
        if not cases and name.count("/") == 1 and f"{name}_std" not in run.metrics:
            facts[name] = f"{value:.4g}"
    if "seconds" in run.metrics:
        facts["Training, without validation"] = f"{run.metrics['seconds']:.0f} s"
    return facts


def _signs(run: Run, history: History) -> list[str]:
    settings = run.settings
    kind = settings.get("penalty.kind", "none")
    ratios = {
        name.split("/")[1]: value
        for name, value in run.metrics.items()
        if name.endswith("/variance_ratio")
    }
    if kind not in get_args(PenaltyKind):  # from another version
        return [f"Signs of a failed training were not checked: penalty {kind!r} is unknown."]
    weight, known = float(settings.get("penalty.lambda", "0")), cast("PenaltyKind", kind)
    summary = run.evaluation / "summary.json"
    if "test/accuracy" in run.metrics and summary.is_file():
        return classification_signs(
            history,
            read_json(summary, "Evaluate the run again."),
            weight=weight,
            kind=known,
            settings=settings,
        )
    return failure_signs(
        history,
        weight=weight,
        kind=known,
        variance_ratios=ratios,
        metrics=run.metrics,
        settings=settings,
        key_metric=_key_metric(run),
    )


def _key_metric(run: Run) -> str:
    """Return the validation metric of a run's pipeline, or the default if it is not installed."""
    try:
        return str(getattr(load_pipeline(run.pipeline), "KEY_METRIC", "dsc"))
    except InputError:
        return "dsc"


def _cases(run: Run) -> list[CaseRow]:
    path = run.evaluation / "cases.csv"
    if not path.is_file():
        return []
    try:
        return [row for row in read_cases(path) if row.source == "model"]
    except InputError:  # from another pipeline, whose cases are not skulls
        return []


def _tables(cases: Sequence[CaseRow]) -> list[Sortable]:
    tables = []
    for region, title in (("implant", "Implants, case by case"), ("skull", "Skulls, case by case")):
        rows = sorted((row for row in cases if row.region == region), key=lambda row: row.dsc)
        if not rows:
            continue
        columns = [BY_NAME[name] for name in _CASE_COLUMNS]
        tables.append(
            Sortable(
                title=title,
                columns=["case", "set", *(metric.header for metric in columns)],
                rows=[
                    [row.subject, row.set, *(row.values[metric.name] for metric in columns)]
                    for row in rows
                ],
                digits=[0, 0, *(metric.digits for metric in columns)],
                marked=frozenset(number for number, row in enumerate(rows) if row.failed),
                caption="Worst first. Failed cases, in red, count with DSC 0 and the image's "
                "diagonal as distance. Choose a column to sort by it.",
            )
        )
    return tables


def _curves(run: Run, history: History) -> list[Image]:
    validation = [name for name in series_like(history, "val/") if name != "val/n"]
    losses = {"training": "train/loss"}
    if "val/loss" in validation:
        losses[f"validation{_count(history)}"] = "val/loss"
    images = [
        Image(
            "Loss",
            content,
            f"{' and '.join(losses)} loss over the epochs",
            caption="Without the penalty. Training: mean over the samples of the epoch, while the "
            "weights change, with augmentation and dropout. Validation: mean over the cases at the "
            "end of the epoch.",
        )
        for content in [curves(history, losses, "loss, mean per sample")]
        if content is not None
    ]
    images += _validation(history, [name for name in validation if name != "val/loss"])
    return [*images, *_penalty(run, history), *_gap(run, history)]


def _count(history: History) -> str:
    """Return the number of validation cases in parentheses; empty if it is not known."""
    counts = [row["val/n"] for row in history if row.get("val/n")]
    return f" (n = {counts[-1]:g})" if counts else ""


def _validation(history: History, names: Sequence[str]) -> list[Image]:
    """Return a figure for each unit, since different units must not share an axis."""
    by_unit: dict[str, dict[str, str]] = {}
    for name in names:
        label = label_of(name)
        # Each quantity without a unit gets its own axis.
        by_unit.setdefault(label.unit or label.name, {})[label.name] = name
    images = []
    for unit, series in by_unit.items():
        (first, *others) = series
        axis = f"metric ({unit})" if others else label_of(series[first]).axis
        content = curves(history, series, axis)
        if content is not None:
            title = f"Validation{_count(history)}: {', '.join(series)}"
            alt = f"{', '.join(series)} of the validation over the epochs"
            images.append(Image(title, content, alt, caption="Mean over the validation cases."))
    return images


def _penalty(run: Run, history: History) -> list[Image]:
    kind = run.settings.get("penalty.kind", "none")
    label = _PENALTY_AXES.get(kind, "penalty, unit of the loss")
    content = curves(history, {"mean over the epoch": "train/penalty"}, label)
    alt = "The penalty over the epochs, before it is multiplied by lambda"
    caption = f"Before it is multiplied by lambda ({run.settings.get('penalty.lambda', '0')})."
    return [] if content is None else [Image("Penalty", content, alt, caption=caption)]


def _gap(run: Run, history: History) -> list[Image]:
    found = course(run.settings, history)
    if found is None:
        return []
    return [
        Image(
            "Kappa against the generalization gap",
            course_figure(found, evaluated_epoch(run)),
            "Relative flatness against the generalization gap over the epochs",
            caption=f"A point per epoch, n = {len(found.points[''])}. Gap: {found.gap}; it can be "
            "negative, because the training loss is measured while the weights change.",
        )
    ]


def _distributions(cases: Sequence[CaseRow]) -> list[Image]:
    images = []
    for metric, label in (("dsc", "DSC"), ("hd95_mm", "HD95, mm")):
        groups = {
            f"{region}, {name}": [
                getattr(row, metric) for row in cases if (row.region, row.set) == (region, name)
            ]
            for region in ("implant", "skull")
            for name in dict.fromkeys(row.set for row in cases)
        }
        content = distributions(groups, label)
        if content is not None:
            images.append(
                Image(
                    f"{label} of all cases",
                    content,
                    f"{label} of every test case by region and set, with median and quartiles",
                    caption="A point per case, also failed ones; box: median and quartiles.",
                )
            )
    return images


def _evaluated(run: Run) -> list[Image]:
    """Return the figure written by the evaluation."""
    known = (
        (
            "slices.png",
            "Best, median and worst case",
            "Input, prediction and reference of the best, median and worst case in three planes",
        ),
        (
            "classification.png",
            "Calibration and confusion",
            "Accuracy by confidence of each set, and how often each class was taken for another",
        ),
    )
    return [
        Image(title, (run.evaluation / name).read_bytes(), alt, "png")
        for name, title, alt in known
        if (run.evaluation / name).is_file()
    ]


def _worst_first(cases: Sequence[ShownCase]) -> list[ShownCase]:
    return sorted(cases, key=lambda case: "worst" not in case.title)


def _scene(case: ShownCase) -> Scene:
    """Return an evaluated case as surfaces, with its errors as colors in the slices."""
    added = case.prediction & ~case.image
    missing = case.reference & ~case.image
    parts = [
        ("skull", "Defective skull", BONE, case.image, _BONE_FACES, True),
        ("prediction", "Prediction", IMPLANT, added, _IMPLANT_FACES, True),
        ("reference", "Reference", REFERENCE, missing, _IMPLANT_FACES, False),
    ]
    classes = np.zeros(case.image.shape, dtype=np.uint8)
    for value, mask in enumerate(
        (case.image, added & missing, missing & ~added, added & ~missing), start=1
    ):
        classes[mask] = value
    x, y, z = np.linalg.norm(case.affine[:3, :3], axis=0)
    still = slices_image(
        [
            SlicesCase(
                case.title,
                case.image,
                case.prediction,
                case.reference,
                missing,
                (float(x), float(y), float(z)),
            )
        ]
    )
    surfaces = {
        name: Part(name, label, color, surface_mesh(mask, case.affine, max_faces=faces), 1.0, on)
        for name, label, color, mask, faces, on in parts
        if mask.any()
    }
    focus = surfaces.get("reference", surfaces.get("prediction"))
    side = FROM_THE_FRONT if focus is None else side_of(focus.mesh, surfaces["skull"].mesh)
    return Scene(
        title=case.title,
        name=case.title.split("    ")[0],
        parts=list(surfaces.values()),
        layers=[
            Layer(
                "slices",
                "Masks in the slices",
                Volume(classes, case.affine),
                {
                    1: ("bone", BONE),
                    2: ("right", BOTH),
                    3: (_MISSED, REFERENCE),
                    4: (_EXTRA, IMPLANT),
                },
            )
        ],
        still=still,
        alt="Defective skull, predicted implant and reference",
        side=side,
    )


def _foot(run: Run) -> str:
    origin: Mapping[str, object] = read_json(run.path / "provenance.json", "Restore the file.")
    versions, machine = origin.get("versions"), origin.get("machine")
    device = machine.get("device_name") if isinstance(machine, dict) else None
    famseg = versions.get("famseg") if isinstance(versions, dict) else None
    return (
        f"famseg {famseg or ''} · began {run.created} · commit {origin.get('commit')} · device "
        f"{device or 'unknown'} · data {run.data_hash}. Research only, not a medical device."
    )
