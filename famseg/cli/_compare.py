"""``famseg compare``."""

from __future__ import annotations

import inspect
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famseg.cli._say import say, say_json
from famseg.engine import Which
from famseg.messages import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from famseg.reporting import Comparison, Found

_WIDTH = 80
EXAMPLES = """
Examples:

  famseg compare runs

  famseg compare runs/lambda --html comparison.html

  famseg compare runs --difference 0.005

  famseg compare runs --metric test/accuracy --metric test/loss --markdown

  famseg compare runs/skull-lambda0-seed* runs/skull-lambda0.0006-seed* --by case

  famseg compare runs --baseline "weight decay" --csv comparison.csv

  famseg compare runs --json > comparison.json
"""


class ByName(StrEnum):
    """Units of the pairs."""

    seed = "seed"
    case = "case"


# Long, and with many parameters, because each option of the command is stated here once.
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, sweeps, or folders that contain them."),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Metric to compare, such as test/accuracy, seconds or epochs; repeat the option "
            "for several. Default: the main metrics of the pipeline.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Group that the others are compared with, or a part of its name. Default: the "
            "group without a penalty, SAM or a variant of it, NSO and SWA.",
        ),
    ] = None,
    by: Annotated[
        ByName,
        typer.Option(
            help="What is paired: runs with the same seed, or the metrics of the same test case."
        ),
    ] = ByName.seed,
    checkpoint: Annotated[
        Which,
        typer.Option(
            help="Compare the evaluations of the best checkpoint (made by famseg train) or of the "
            "last one (made by famseg evaluate)."
        ),
    ] = Which.best,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="Write a CSV file with one row per group and metric."
        ),
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the result as Markdown.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Also write the page of famseg report to this file."
        ),
    ] = None,
    differences: Annotated[
        list[float] | None,
        typer.Option(
            "--difference",
            metavar="X",
            help="Print how many seeds are needed to detect a difference of X in the first metric, "
            "in its unit; repeat the option for several.",
        ),
    ] = None,
) -> None:
    """Compare finished runs: a verdict in words, tables over seeds, and paired differences.

    RUN is a run folder, a sweep, or any folder above them. Runs that differ only in their seed form
    a group. Groups with the same pipeline and data are compared. Unfinished runs are listed, but
    they are not included in any number. Exit status: 0 compared, 2 nothing to compare.
    """
    if as_json and as_markdown:
        raise InputError("--json: cannot be combined with --markdown: choose one of them")
    for target in (csv, html):
        if target is not None and (target.is_dir() or not target.absolute().parent.is_dir()):
            raise InputError(
                f"{target}: cannot be written: check that its folder exists and that "
                "it names a file"
            )

    if differences and not all(x > 0 and math.isfinite(x) for x in differences):
        raise InputError("--difference: must be a number above 0")

    from famseg.reporting import as_dict, compare_runs, find_runs

    found = find_runs(runs, checkpoint.value)
    comparisons = compare_runs(found.runs, metrics=metric or (), baseline=baseline, by=by.value)
    if csv is not None:
        _write_csv(comparisons, csv)
    if html is not None:
        _write_page(found, html, metric or (), baseline)
    if as_json:
        content = as_dict(comparisons) | {"notes": list(found.notes)}
        say_json(content)
    else:
        wanted = tuple(differences or ())
        texts = [
            _markdown(each, wanted) if as_markdown else _text(each, wanted) for each in comparisons
        ]
        say("\n\n".join(texts))
        if len(comparisons) > 1:
            names = "; ".join(each.study.name for each in comparisons)
            say(f"\nDifferent pipelines or data are compared separately: {names}")
    for note in found.notes:
        say(f"famseg: {note}", err=True)


compare.__doc__ = f"{inspect.cleandoc(compare.__doc__ or '')}\n{EXAMPLES}"


def _text(comparison: Comparison, wanted: Sequence[float]) -> str:
    """Return the verdict and the tables in 80 columns."""
    from famseg.reporting import POSSIBLE, folded, plain, summary_tables, tables, verdict_lines

    lines = [comparison.study.name]
    for each in (*verdict_lines(comparison), *([POSSIBLE] if comparison.pairings else [])):
        lines += folded(each, _WIDTH, "  ")
    every = [*summary_tables(comparison, wanted), *tables(comparison, short=True)]
    return "\n\n".join(["\n".join(lines), plain(every, width=_WIDTH)])


def _markdown(comparison: Comparison, wanted: Sequence[float]) -> str:
    """Return the verdict and the tables in Markdown."""
    from famseg.reporting import markdown, summary_tables, tables, verdict_lines

    lines = [f"- {each}" for each in verdict_lines(comparison)]
    every = [*summary_tables(comparison, wanted), *tables(comparison)]
    return "\n".join([*lines, "", markdown(every)])


def _write_page(found: Found, path: Path, metrics: Sequence[str], baseline: str | None) -> None:
    """Write the page of ``famseg report``."""
    from famseg.files import write_atomically
    from famseg.reporting import comparison_page, render

    content = render(comparison_page(found, metrics=metrics, baseline=baseline)).encode()
    write_atomically(path, content)
    say(f"famseg: page {path} ({len(content) / 1e6:.1f} MB)", err=True)


def _write_csv(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write a table with all digits; cells that do not apply are empty."""
    from famseg.files import csv_text, write_atomically
    from famseg.reporting import rows

    lines = list(rows(comparisons))
    write_atomically(path, csv_text(list(lines[0]), lines, for_people=True).encode())
