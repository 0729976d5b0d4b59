"""``famseg report``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famseg.cli._say import say
from famseg.engine import Which
from famseg.messages import InputError

if TYPE_CHECKING:
    from famseg.reporting import Checkpoint, Page

EXAMPLES = """
Examples:

  famseg report runs/skull-lambda0.002-seed0

  famseg report runs/skull-lambda0.002-seed0 --out report.html

  famseg report runs

  famseg report implants

  famseg report runs/skull-lambda0-seed* runs/skull-lambda0.002-seed* --out comparison.html
"""


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="A run folder; several of them, or a folder that holds them; or what famseg "
            "reconstruct has written.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write; report.html in the run folder, or comparison.html in the folder "
            "of runs.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Of several runs: a metric, as in famseg compare; give it again for more.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of several runs: the group that the others are compared with, or a part of its "
            "name.",
        ),
    ] = None,
    checkpoint: Annotated[
        Which,
        typer.Option(help="The evaluations that are read: of the best checkpoint or the last one."),
    ] = Which.best,
) -> None:
    """Write the report of a run or of reconstructions, or the comparison of several runs.

    The report is an HTML file that makes no request.
    """
    from famseg.files import write_atomically
    from famseg.reporting import is_reconstruction, render

    if len(runs) == 1 and is_reconstruction(runs[0]):
        _reconstruction(runs[0], out, alone=not metric and baseline is None)
        return
    one = len(runs) == 1 and (runs[0] / "config.yaml").is_file()
    if one:
        if metric or baseline is not None:
            option = "--metric" if metric else "--baseline"
            raise InputError(f"{option}: is for several runs. Give more run folders, or leave it.")
        page, target = _run(runs[0], checkpoint)
    else:
        page, target = _comparison(runs, metric or [], baseline, checkpoint)
    target = target if out is None else out
    content = render(page).encode()
    try:
        write_atomically(target, content)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror}). Choose another place with --out."
        ) from error
    say(f"{'report' if one else 'comparison':13}{target} ({len(content) / 1e6:.1f} MB)")


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


def _reconstruction(folder: Path, out: Path | None, *, alone: bool) -> None:
    from famseg.reporting import write_reconstruction_pages

    if not alone:
        raise InputError(f"{folder}: holds reconstructions. --metric and --baseline are for runs.")
    try:
        target = write_reconstruction_pages(folder, out)
    except OSError as error:
        raise InputError(
            f"{folder if out is None else out}: the report cannot be written ({error.strerror}). "
            "Choose another place with --out."
        ) from error
    say(f"{'report':13}{target} ({target.stat().st_size / 1e6:.1f} MB)")


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
