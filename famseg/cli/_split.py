"""``famseg split``."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from famseg.cli._flags import ExcludeOption, IncludeOption, flags_of
from famseg.cli._say import say, say_json
from famseg.messages import text_table

if TYPE_CHECKING:
    from famseg.preparation import Splitting

EXAMPLES = """
Examples:

  famseg split prepared --validation 0.1 --test 0.25

  famseg split prepared --stratify volume_ml

  famseg split prepared --stratify age --table patients.csv --seed 1 --force

  famseg split prepared --exclude metal,vessels --exclude-list exclude.txt

  famseg split prepared --allow-duplicates --json
"""

_SPLITS = ("train", "validation", "test")


# Long, and with many parameters, because each option of the command is stated here once.
def split(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder of prepared skulls, or of volumes.")
    ],
    validation: Annotated[
        float,
        typer.Option(
            help="Share of the subjects for validation, 0 to 1; they choose the best epoch."
        ),
    ] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the subjects for testing, 0 to 1.")] = 0.25,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the split.")] = 0,
    stratify: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Stratify by this column of report.csv: each split gets its share of every value, "
            "or of every quartile of numbers.",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV file with the columns subject and COLUMN, used instead of report.csv.",
        ),
    ] = None,
    allow_duplicates: Annotated[
        bool,
        typer.Option(
            "--allow-duplicates",
            help="Accept subjects that are copies of one skull, and keep them in one split.",
        ),
    ] = False,
    exclude: ExcludeOption = None,
    include: IncludeOption = None,
    exclude_list: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Leave out the subjects listed in this file, one name per line; report.html makes "
            "such a list.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing split.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the splits as JSON on standard output.")
    ] = False,
) -> None:
    """Split a data set into train, validation and test by subject, in its manifest.csv.

    It is an error if two subjects are one skull: the same file, or a near-duplicate. The same seed
    and subjects give the same split. An existing split is kept, except for the subjects that
    --exclude and --exclude-list name.
    """
    from famseg.cli._progress import counting
    from famseg.preparation import split_folder

    with counting("comparing skulls") as count:
        result = split_folder(
            folder,
            validation=validation,
            test=test,
            seed=seed,
            stratify=stratify,
            table=table,
            allow_duplicates=allow_duplicates,
            exclude=flags_of(exclude),
            include=flags_of(include),
            exclude_list=exclude_list,
            force=force,
            progress=count.update,
        )
    if as_json:
        say_json(_as_dict(result))
        return
    for line in _lines(result):
        say(line)


split.__doc__ = f"{inspect.cleandoc(split.__doc__ or '')}\n{EXAMPLES}"


def _counts(result: Splitting) -> dict[str, Counter[str]]:
    """Return the number of subjects of each stratum in each split."""
    counts = {name: Counter[str]() for name in _SPLITS}
    for subject in result.subjects:
        if subject.split is not None:
            counts[subject.split][result.strata.get(subject.id, "")] += 1
    return counts


def _as_dict(result: Splitting) -> dict[str, Any]:
    counts = _counts(result)
    return {
        "manifest": str(result.manifest),
        "kept": result.kept,
        "subjects": {name: counts[name].total() for name in _SPLITS},
        "strata": {
            stratum: {name: counts[name][stratum] for name in _SPLITS}
            for stratum in sorted(set(result.strata.values()))
        },
        "duplicates": [
            {"first": p.first, "second": p.second, "kind": p.kind, "dice": round(p.dice, 4)}
            for p in result.pairs
        ],
        "splits": {s.id: s.split for s in result.subjects if s.split is not None},
        "left_out": {s: list(why) for s, why in result.selection.left_out.items()},
    }


def _lines(result: Splitting) -> Iterator[str]:
    counts, strata = _counts(result), sorted(set(result.strata.values()))
    header = ["split", "subjects", *strata]
    rows = [
        [name, str(counts[name].total()), *(str(counts[name][stratum]) for stratum in strata)]
        for name in _SPLITS
    ]
    yield text_table(header, rows, numbers=range(1, len(header)))
    for pair in result.pairs:
        yield f"in one split: {pair.first} and {pair.second} ({pair.kind}, Dice {pair.dice:.3f})"
    # Subjects that have a split keep it, but training leaves them out for their flags.
    if sentence := result.selection.sentence("data." if result.kept else "--"):
        yield f"\n{sentence}"
    if result.kept:
        yield "\nThe existing split is kept; --force replaces it."
    else:
        yield f"\nwritten to {result.manifest}"
