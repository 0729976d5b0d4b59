"""``famseg metrics``."""

from __future__ import annotations

import inspect
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from famseg.cli._say import say
from famseg.messages import InputError

EXAMPLES = """
Examples:

  famseg metrics prediction.nii.gz reference.nii.gz

  famseg metrics predictions references --defective defective_skulls --csv scores.csv

  famseg metrics predictions references --json > scores.json

  famseg metrics label_maps references --labels all
"""


class KindName(StrEnum):
    """What the masks show."""

    auto = "auto"
    skull = "skull"
    implant = "implant"


class EmptyName(StrEnum):
    """The distances of an empty mask."""

    diagonal = "diagonal"
    nan = "nan"
    error = "raise"


# Long, and with many parameters, because each option of the command is stated here once.
def metrics(
    prediction: Annotated[
        Path, typer.Argument(metavar="PRED", help="Predicted mask, or a folder of masks.")
    ],
    truth: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCE",
            help="Reference mask, or a folder of masks with the same file names.",
        ),
    ],
    defective: Annotated[
        Path | None,
        typer.Option(metavar="F", help="Defective skull, or a folder of them, for border Dice."),
    ] = None,
    kind: Annotated[
        KindName,
        typer.Option(
            help="What the masks show. auto: skulls if they contain the defective skull, "
            "else implants."
        ),
    ] = KindName.auto,
    labels: Annotated[
        str | None,
        typer.Option(metavar="all|N,...", help="Labels to score separately: 1,2 or all."),
    ] = None,
    tolerance_mm: Annotated[
        float | None,
        typer.Option(help="Tolerance of NSD in mm. Default: the longest edge of a voxel."),
    ] = None,
    empty: Annotated[
        EmptyName,
        typer.Option(
            help="Distances if a mask is empty. diagonal: the worst value; nan: "
            "undefined; raise: the case is not scored."
        ),
    ] = EmptyName.diagonal,
    resample: Annotated[
        bool,
        typer.Option(
            "--resample",
            help="Resample predictions to the grid of their reference, by nearest neighbor.",
        ),
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a CSV file with one row per case."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the scores as JSON on standard output.")
    ] = False,
) -> None:
    """Score predicted masks against reference masks: overlap, distances, volume, pieces, roughness.

    Reads NIfTI (also version 2 and .hdr with .img), NRRD, MHA and MHD, volumes and slices; the
    spacing is read from the header. Flipped or permuted axes are put in order; a prediction on
    another grid than its reference is an error without --resample. Files of two folders are paired
    by name. Prints each case, then means with 95 % confidence intervals; distances are in mm. Exit
    status: 0 all cases were scored, 1 some were not (each is listed with the reason), 2 none was
    scored.
    """
    wanted = _labels(labels)
    if wanted is not None and defective is not None:
        raise InputError("--defective: cannot be combined with --labels: a label is not an implant")
    if tolerance_mm is not None and not 0 <= tolerance_mm < float("inf"):
        raise InputError(f"--tolerance-mm: must be a length in mm, 0 or more, got {tolerance_mm:g}")
    _check_csv(csv)

    from famseg.cli._metrics_show import Results, show, write_csv
    from famseg.cli._progress import counting
    from famseg.evaluation import pair_files, score_files

    pairs, undone = pair_files(prediction, truth, defective)
    results = Results(undone=undone)
    with counting("scoring") as count:
        count.update(0, len(pairs))
        for number, pair in enumerate(pairs, start=1):
            try:
                found = score_files(
                    pair,
                    labels=wanted or None,
                    every_label=wanted == [],
                    kind=kind.value,
                    tolerance_mm=tolerance_mm,
                    empty=empty.value,
                    resample=resample,
                )
                results.cases += [(pair.name, label, scores) for label, scores in found.items()]
            except InputError as error:
                results.undone += error.faults
            except MemoryError:
                results.undone.append(f"{pair.prediction}: does not fit into memory")
            count.update(number, len(pairs))
    if results.cases and csv is not None:
        write_csv(results, csv)
    if results.cases or not results.undone:
        show(results, as_json=as_json)
    if not results.cases:
        raise InputError(*(results.undone or ["there is no label other than 0 in any file"]))
    for line in results.undone:
        say(f"famseg: not scored: {line}", err=True)
    if results.undone:
        raise typer.Exit(1)


metrics.__doc__ = f"{inspect.cleandoc(metrics.__doc__ or '')}\n{EXAMPLES}"


def _labels(text: str | None) -> list[int] | None:
    """Return the requested labels: None for masks without labels, [] for all labels."""
    if text is None or text == "all":
        return None if text is None else []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--labels: must be all or whole numbers, such as 1,2; got {text!r}"
        ) from None


def _check_csv(path: Path | None) -> None:
    """Check that the table can be written before the work is done."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(
            f"{path}: cannot be written: check that its folder exists and that it names a file"
        )
