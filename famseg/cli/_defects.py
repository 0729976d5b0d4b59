"""``famseg defects``."""

from __future__ import annotations

import errno
import inspect
import shlex
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from famseg.cli._flags import ExcludeOption, IncludeOption, flags_of
from famseg.cli._say import say, say_json
from famseg.messages import InputError, RunError, counted

if TYPE_CHECKING:
    from famseg.datasets import FixedSetReport, Selection, Where

EXAMPLES = """
Examples:

  famseg defects prepared --out holes

  famseg defects skulls --out holes --classes frontoorbital,bilateral --per-subject 3 --seed 1

  famseg defects prepared/manifest.csv --out small --area-cm2 10,30 --roughness-mm 2 --json

  famseg train --config skull_folder data.root=prepared 'defects.set1={kind: files, root: holes}'
"""


class SpreadName(StrEnum):
    """Distribution of the areas."""

    uniform = "uniform"
    lognormal = "lognormal"


# Long, and with many parameters, because each option of the command is stated here once.
def defects(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of complete skulls, or a manifest.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write the set to.")
    ],
    classes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="Classes of defects: bilateral, frontoorbital, parietotemporal, random_1, "
            "random_2. Default: all.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the defects.")] = 0,
    per_subject: Annotated[
        int, typer.Option(min=1, help="Number of defects per class and skull.")
    ] = 1,
    area_cm2: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="Range of the area on the outer surface, in cm2. Default: the range of the class.",
        ),
    ] = None,
    spread: Annotated[
        SpreadName, typer.Option(help="Distribution of the areas within the range.")
    ] = SpreadName.uniform,
    roughness_mm: Annotated[
        float, typer.Option(help="Roughness of the edge: root mean square displacement, in mm.")
    ] = 1.0,
    pattern: Annotated[
        str,
        typer.Option(
            metavar="GLOB", help="Pattern of the file names to read if there is no manifest."
        ),
    ] = "*",
    exclude: ExcludeOption = None,
    include: IncludeOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Cut defects into complete skulls and write them as a fixed set, with a SHA-256 of each file.

    Writes complete, defective, implant and region volumes and defects.csv to DIR. The same command
    writes the same bytes and resumes an interrupted one. Exit status: 0 all defects were cut, 1
    some could not be cut (each is listed with the reason), 2 none could be cut.
    """
    area = _area(area_cm2)
    names = cast("list[Where]", [part for text in classes or () for part in text.split(",")])

    from famseg.cli._progress import counting
    from famseg.datasets import WHERES, write_fixed_set
    from famseg.engine import Interrupted, stop_on_signals

    selection = _selection(folder, pattern, flags_of(exclude), flags_of(include))
    try:
        with stop_on_signals(), counting("cutting defects, skulls") as count:
            report = write_fixed_set(
                selection.used,
                out,
                classes=names or WHERES,
                seed=seed,
                per_subject=per_subject,
                area_cm2=area,
                spread=spread.value,
                roughness_mm=roughness_mm,
                progress=count.update,
            )
    except Interrupted as stop:
        again = "finished skulls are kept; resume with the same command"
        say(f"famseg: {stop}; {again}", err=True)
        raise typer.Exit(128 + stop.signum) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"{out}: the disk is full. Free some space, then resume with the same command."
        ) from error
    _end(report, selection, as_json=as_json)


defects.__doc__ = f"{inspect.cleandoc(defects.__doc__ or '')}\n{EXAMPLES}"


def _area(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--area-cm2: must be two numbers, such as 20,80; got {text!r}") from None
    return low, high


def _selection(
    folder: Path, pattern: str, exclude: Sequence[str], include: Sequence[str]
) -> Selection:
    from famseg.datasets import read_manifest, scan_folder, select_subjects

    found = read_manifest(folder) if folder.is_file() else scan_folder(folder, pattern)
    return select_subjects(found, exclude=exclude, include=include)


def _end(report: FixedSetReport, selection: Selection, *, as_json: bool) -> None:
    """Print what was written and what failed, and exit with the status for it."""
    failed = [f"{f.subject}{f' {f.where}' if f.where else ''}: {f.reason}" for f in report.failed]
    if not report.cases:
        raise InputError(*(failed or ["there is no skull to cut a defect into"]))
    if as_json:
        left_out = {s: list(why) for s, why in selection.left_out.items()}
        say_json(_as_dict(report) | {"left_out": left_out})
    else:
        for line in _lines(report):
            say(line)
        if sentence := selection.sentence("--"):
            say(f"\n{sentence}")
    for line in failed:
        say(f"famseg: not cut: {line}", err=True)
    if failed:
        raise typer.Exit(1)


def _by_class(report: FixedSetReport) -> dict[str, dict[str, Any]]:
    """Return the number, areas and volumes of the defects of each class."""
    import numpy as np

    found: dict[str, dict[str, Any]] = {}
    for where in dict.fromkeys(case.where for case in report.cases):
        cases = [case for case in report.cases if case.where == where]
        found[where] = {"n": len(cases)}
        for name in ("area_cm2", "volume_ml"):
            values = np.array([getattr(case, name) for case in cases])
            found[where][name] = {
                "mean": round(float(values.mean()), 3),
                "std": round(float(values.std()), 3),
                "min": round(float(values.min()), 3),
                "max": round(float(values.max()), 3),
            }
    return found


def _as_dict(report: FixedSetReport) -> dict[str, Any]:
    return {
        "folder": str(report.root),
        "sha256": report.sha256,
        "holes": len(report.cases),
        "kept": report.kept,
        "classes": _by_class(report),
        "failed": [{"subject": s, "class": where, "reason": r} for s, where, r in report.failed],
    }


def _lines(report: FixedSetReport) -> Iterator[str]:
    subjects = len({case.subject for case in report.cases})
    yield f"{'class':17}{'n':>5}   {'area / cm2':30}{'volume / ml'}"
    for where, found in _by_class(report).items():
        area, volume = (
            f"{v['mean']:.1f} ± {v['std']:.1f} ({v['min']:.1f} to {v['max']:.1f})"
            for v in (found["area_cm2"], found["volume_ml"])
        )
        yield f"{where:17}{found['n']:5}   {area:30}{volume}"
    kept = f", {report.kept} of them existed already" if report.kept else ""
    skulls = f"{subjects} skull{'s' * (subjects != 1)}"
    cut = counted(len(report.cases), "defect")
    yield f"\n{cut} in {skulls}{kept}; not cut: {len(report.failed)}"
    root = shlex.quote(f"{{kind: files, root: {report.root}}}")
    yield f"table        {report.root / 'defects.csv'}"
    yield f"SHA-256      {report.sha256}"
    yield f"use          famseg train --config ... defects.set1={root}"
