"""Options whose values are flags of subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FLAG,...",
        help="Also leave out subjects that have one of these flags in the manifest. Subjects with "
        "cut_vault or existing_defect are left out by default.",
    ),
]
IncludeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FLAG,...", help="Flags that do not exclude a subject, such as existing_defect."
    ),
]


def flags_of(texts: Sequence[str] | None) -> tuple[str, ...]:
    """Return the flags of an option, which may be repeated and may separate flags by commas.

    Example:
        >>> flags_of(["metal, vessels", "frame"])
        ('metal', 'vessels', 'frame')
        >>> flags_of(None)
        ()
    """
    parts = (part.strip() for text in texts or () for part in text.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))
