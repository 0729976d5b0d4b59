"""``famseg report``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famseg.cli._say import say, say_json
from famseg.engine import Which
from famseg.messages import InputError

if TYPE_CHECKING:
    from famseg.reporting import Checkpoint, Page

EXAMPLES = """
Examples:

  famseg report runs/skull-lambda0.0006-seed0

  famseg report runs/skull-lambda0.0006-seed0 --out report.html

  famseg report runs

  famseg report implants

  famseg report runs/skull-lambda0-seed* runs/skull-lambda0.0006-seed* --out comparison.html
"""


# Long, and with many parameters, because each option of the command is stated here once.
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="A run folder, several run folders, a folder that contains them, or the output "
            "folder of famseg reconstruct.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write. Default: report.html in the run folder, or comparison.html in the "
            "folder of runs.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="For several runs: metric to compare, as in famseg compare; repeat the option for "
            "several.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="For several runs: group that the others are compared with, or a part of its "
            "name.",
        ),
    ] = None,
    checkpoint: Annotated[
        Which,
        typer.Option(help="Read the evaluations of the best or of the last checkpoint."),
    ] = Which.best,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the path of the report as JSON.")
    ] = False,
) -> None:
    """Write the report of a run or of reconstructions, or the comparison of several runs.

    The report is one HTML file that loads nothing from the network.
    """
    from famseg.files import write_atomically
    from famseg.reporting import is_reconstruction, render

    if len(runs) == 1 and is_reconstruction(runs[0]):
        page_file = _reconstruction(runs[0], out, alone=not metric and baseline is None)
        _say_written("report", page_file, as_json=as_json)
        return
    one = len(runs) == 1 and (runs[0] / "config.yaml").is_file()
    if one:
        if metric or baseline is not None:
            option = "--metric" if metric else "--baseline"
            raise InputError(
                f"{option}: applies only to several runs. Give more run folders, or leave it out."
            )
        page, target = _run(runs[0], checkpoint)
    else:
        page, target = _comparison(runs, metric or [], baseline, checkpoint)
    target = target if out is None else out
    content = render(page).encode()
    try:
        write_atomically(target, content)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror}). Choose another file with --out."
        ) from error
    _say_written("report" if one else "comparison", target, as_json=as_json)


def _say_written(what: str, path: Path, *, as_json: bool) -> None:
    size = path.stat().st_size
    if as_json:
        say_json({"kind": what, "path": str(path), "bytes": size})
    else:
        say(f"{what:13}{path} ({size / 1e6:.1f} MB)")


report.__doc__ = f"{inspect.cleandoc(report.__doc__ or '')}\n{EXAMPLES}"


def write_run_page(run: Path, checkpoint: Checkpoint = "best") -> Path:
    """Write the report of a run into its folder; return the file.

    Raises:
        InputError: If a file of the run cannot be read.
        OSError: If the page cannot be written.
    """
    from famseg.files import write_atomically
    from famseg.reporting import render, report_name, run_page

    target = run / report_name(checkpoint)
    write_atomically(target, render(run_page(run, checkpoint)).encode())
    return target


def _reconstruction(folder: Path, out: Path | None, *, alone: bool) -> Path:
    from famseg.reporting import write_reconstruction_pages

    if not alone:
        raise InputError(
            f"{folder}: contains reconstructions. --metric and --baseline apply only to runs."
        )
    try:
        return write_reconstruction_pages(folder, out)
    except OSError as error:
        raise InputError(
            f"{folder if out is None else out}: the report cannot be written ({error.strerror}). "
            "Choose another file with --out."
        ) from error


def _run(run: Path, checkpoint: Which) -> tuple[Page, Path]:
    from famseg.reporting import report_name, run_page

    return run_page(run, checkpoint.value), run / report_name(checkpoint.value)


def _comparison(
    runs: list[Path], metrics: list[str], baseline: str | None, checkpoint: Which
) -> tuple[Page, Path]:
    from famseg.reporting import check_comparable, comparison_page, find_runs

    found = find_runs(runs, checkpoint.value)
    check_comparable(found)
    page = comparison_page(found, metrics=metrics, baseline=baseline)
    folder = runs[0] if len(runs) == 1 else Path()
    return page, folder / "comparison.html"
