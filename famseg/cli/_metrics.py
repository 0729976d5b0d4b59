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

  famseg metrics prediction.nii.gz truth.nii.gz

  famseg metrics predictions truths --defective defective_skulls --csv scores.csv

  famseg metrics predictions truths --json > scores.json

  famseg metrics label_maps truths --labels all
"""


class KindName(StrEnum):
    """What masks are."""

    auto = "auto"
    skull = "skull"
    implant = "implant"


class EmptyName(StrEnum):
    """What an empty mask scores."""

    diagonal = "diagonal"
    nan = "nan"
    error = "raise"


def metrics(
    prediction: Annotated[
        Path, typer.Argument(metavar="PRED", help="A predicted mask, or a folder of them.")
    ],
    truth: Annotated[
        Path, typer.Argument(metavar="TRUTH", help="The true mask, or a folder with equal names.")
    ],
    defective: Annotated[
        Path | None,
        typer.Option(metavar="F", help="The skull with the hole, or a folder: for border Dice."),
    ] = None,
    kind: Annotated[
        KindName,
        typer.Option(help="What the masks are; auto: skulls if they hold the defective one."),
    ] = KindName.auto,
    labels: Annotated[
        str | None, typer.Option(metavar="all|N,...", help="Score each label by itself.")
    ] = None,
    tolerance_mm: Annotated[
        float | None, typer.Option(help="What NSD tolerates; one voxel (longest edge) by default.")
    ] = None,
    empty: Annotated[
        EmptyName,
        typer.Option(help="An empty mask: diagonal (the worst value), nan, or raise (no score)."),
    ] = EmptyName.diagonal,
    resample: Annotated[
        bool,
        typer.Option(
            "--resample",
            help="Bring predictions on another grid to that of their reference, by nearest "
            "neighbor.",
        ),
    ] = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a row a case.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the scores as JSON on standard output.")
    ] = False,
) -> None:
    """Score predicted masks against true ones: overlap, distances in mm, volume, pieces, roughness.

    Reads NIfTI (also version 2 and .hdr with .img), NRRD, MHA and MHD, volumes and slices; the
    spacing is the header's. Axes that are flipped or exchanged are put in order; other grids than
    the reference's are refused without --resample. Files of two folders belong together by name.
    Case by case, then mean with 95 % confidence interval. Exit status: 0 all scored, 1 some were
    not (each is listed with the reason), 2 nothing could be scored.
    """
    wanted = _labels(labels)
    if wanted is not None and defective is not None:
        raise InputError("--defective: does not go with --labels: a label is no implant")
    if tolerance_mm is not None and not 0 <= tolerance_mm < float("inf"):
        raise InputError(f"--tolerance-mm: must be a length in mm, 0 or more, got {tolerance_mm:g}")
    _check_csv(csv)

    from famseg.cli._metrics_show import Results, progress, show, write_csv
    from famseg.evaluation import pair_files, score_files

    pairs, undone = pair_files(prediction, truth, defective)
    results = Results(undone=undone)
    with progress(len(pairs)) as advance:
        for pair in pairs:
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
            advance()
    if results.cases and csv is not None:
        write_csv(results, csv)
    if results.cases or not results.undone:
        show(results, as_json=as_json)
    if not results.cases:
        raise InputError(*(results.undone or ["no label other than 0 in any file"]))
    for line in results.undone:
        say(f"famseg: not scored: {line}", err=True)
    if results.undone:
        raise typer.Exit(1)


metrics.__doc__ = f"{inspect.cleandoc(metrics.__doc__ or '')}\n{EXAMPLES}"


def _labels(text: str | None) -> list[int] | None:
    """Return the labels wanted: none in particular, [] for all, or those named."""
    if text is None or text == "all":
        return None if text is None else []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--labels: {text!r} is neither all nor whole numbers as 1,2") from None


def _check_csv(path: Path | None) -> None:
    """Refuse a table that cannot be written before the work is done, not after."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(f"{path}: cannot be written: is the folder there, and a file named?")
