"""``famseg report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from famseg.cli._say import say
from famseg.config import InputError

EXAMPLES = """
Examples:

  famseg report runs/skull-lambda0.002-seed0

  famseg report runs/skull-lambda0.002-seed0 --out report.html
"""


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write; report.html in the run folder."),
    ] = None,
) -> None:
    """Write the report of a run: one HTML file that makes no request."""
    from famseg.config._atomic import write_atomically
    from famseg.reporting import render, run_page

    target = run / "report.html" if out is None else out
    content = render(run_page(run)).encode()
    try:
        write_atomically(target, content)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror}). Choose another place with --out."
        ) from error
    say(f"report       {target} ({len(content) / 1e6:.1f} MB)")


report.__doc__ = f"{report.__doc__}\n{EXAMPLES}"
