"""Options that take flags of subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FLAG,...",
        help="Also leave out subjects with one of these flags of the manifest; those with "
        "cut_vault or existing_defect are left out by default.",
    ),
]
IncludeOption = Annotated[
    list[str] | None,
    typer.Option(metavar="FLAG,...", help="Flags that are no reason to leave a subject out."),
]


def flags_of(texts: Sequence[str] | None) -> tuple[str, ...]:
    """Return the flags that an option was given, once or several times, separated by commas.

    Example:
        >>> flags_of(["metal, vessels", "frame"])
        ('metal', 'vessels', 'frame')
        >>> flags_of(None)
        ()
    """
    parts = (part.strip() for text in texts or () for part in text.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))
