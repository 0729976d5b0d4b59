"""The report of a run: what was set, how it went, what came out, case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

import numpy as np

from famseg.config import InputError
from famseg.config._json import read_json
from famseg.datasets import Volume
from famseg.evaluation import CaseRow, ShownCase, failure_signs, read_cases, read_shown
from famseg.evaluation._pictures import SlicesCase, slices_picture
from famseg.evaluation._signs import PenaltyKind
from famseg.meshes import surface_mesh
from famseg.reporting._figures import History, curves, distributions, series_like
from famseg.reporting._html import Image, Page, Sortable
from famseg.reporting._runs import Run, find_runs
from famseg.reporting._scene import (
    BONE,
    BOTH,
    IMPLANT,
    REFERENCE,
    Layer,
    Part,
    Scene,
    side_of,
)
from famseg.tracking import read_metrics

_MOST_SCENES = 3
_BONE_FACES, _IMPLANT_FACES = 40_000, 10_000
_MISSED, _EXTRA = "missed", "too much"
_CASE_COLUMNS = (
    ("set", None, 0),
    ("dsc", "DSC", 3),
    ("bdsc", "border DSC", 3),
    ("hd95_mm", "HD95 mm", 2),
    ("assd_mm", "ASSD mm", 2),
    ("volume_difference_ml", "volume diff. ml", 1),
)


def run_page(path: Path) -> Page:
    """Return the report of a run folder, whatever its pipeline.

    Args:
        path: The run folder.

    Raises:
        InputError: If there is no run, or a file of it cannot be read.
    """
    found = find_runs([path])
    run = found.runs[0]
    history = read_metrics(run.path)
    cases = _cases(run)
    return Page(
        title=f"{run.path.name}",
        lead=_lead(run, history),
        facts=_facts(run, cases),
        warnings=[*found.notes, *_signs(run, history)],
        scenes=[_scene(each) for each in _worst_first(read_shown(run.evaluation))[:_MOST_SCENES]],
        images=[*_curves(history), *_distributions(cases), *_slices(run)],
        tables=_tables(cases),
        settings=run.settings,
        foot=_foot(run),
    )


def _lead(run: Run, history: History) -> str:
    epochs = max((int(row["epoch"] or 0) for row in history), default=0)
    state = "It is finished" if run.finished else f"State: {run.state}"
    return f"Pipeline {run.pipeline}, {run.method}, seed {run.seed}, {epochs} epochs. {state}."


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
    if kind not in get_args(PenaltyKind):  # of another version
        return [f"Signs of a failed training were not looked for: penalty {kind!r} is unknown."]
    weight = float(settings.get("penalty.lambda", "0"))
    return failure_signs(
        history, weight=weight, kind=cast("PenaltyKind", kind), variance_ratios=ratios
    )


def _cases(run: Run) -> list[CaseRow]:
    path = run.evaluation / "cases.csv"
    if not path.is_file():
        return []
    try:
        return [row for row in read_cases(path) if row.source == "model"]
    except InputError:  # of another pipeline, whose cases are no skulls
        return []


def _tables(cases: Sequence[CaseRow]) -> list[Sortable]:
    tables = []
    for region, title in (("implant", "Implants, case by case"), ("skull", "Skulls, case by case")):
        rows = sorted((row for row in cases if row.region == region), key=lambda row: row.dsc)
        if not rows:
            continue
        columns = [(name, title, digits) for name, title, digits in _CASE_COLUMNS if title]
        tables.append(
            Sortable(
                title=title,
                columns=["case", "set", *(title for _, title, _ in columns)],
                rows=[
                    [row.subject, row.set, *(getattr(row, name) for name, _, _ in columns)]
                    for row in rows
                ],
                digits=[0, 0, *(digits for _, _, digits in columns)],
                marked=frozenset(number for number, row in enumerate(rows) if row.failed),
                caption="Worst first. Failed cases, in red, count with DSC 0 and the image's "
                "diagonal as distance. Choose a column to sort by it.",
            )
        )
    return tables


def _curves(history: History) -> list[Image]:
    validation = [name for name in series_like(history, "val/") if name not in ("val/n",)]
    losses = ["train/loss", *(name for name in validation if name.endswith("loss"))]
    drawn = [
        ("Loss", curves(history, losses, "loss"), "Training and, where known, validation loss"),
        (
            "Validation",
            curves(history, [name for name in validation if name not in losses], "metric"),
            "Metrics of the validation over the epochs",
        ),
        (
            "Penalty",
            curves(history, ["train/penalty"], "penalty"),
            "The penalty over the epochs, before it is multiplied by lambda",
        ),
    ]
    return [Image(title, content, alt) for title, content, alt in drawn if content is not None]


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
                    caption="A point per case; box: median and quartiles. Failed cases are in it.",
                )
            )
    return images


def _slices(run: Run) -> list[Image]:
    path = run.evaluation / "slices.png"
    if not path.is_file():
        return []
    alt = "Input, output and reference of the best, median and worst case in three planes"
    return [Image("Best, median and worst case", path.read_bytes(), alt, "png")]


def _worst_first(cases: Sequence[ShownCase]) -> list[ShownCase]:
    return sorted(cases, key=lambda case: "worst" not in case.title)


def _scene(case: ShownCase) -> Scene:
    """Return an evaluated case as surfaces, and its errors as colors in the slices."""
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
    still = slices_picture(
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
    side = {} if focus is None else {"side": side_of(focus.mesh, surfaces["skull"].mesh)}
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
        **side,
    )


def _foot(run: Run) -> str:
    origin: Mapping[str, object] = read_json(run.path / "provenance.json", "Restore the file.")
    versions = origin.get("versions")
    famseg = versions.get("famseg") if isinstance(versions, dict) else None
    return (
        f"famseg {famseg or ''} · began {run.created} · commit {origin.get('commit')} · device "
        f"{origin.get('device')} · data {run.data_hash}. Research only, not a medical device."
    )
