"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from famseg.messages._visible import visible


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()
) -> str:
    """Return rows as aligned columns, two spaces apart, without a frame.

    Columns are aligned by the width of their characters in a terminal. Invisible characters are
    escaped, see `visible`, since cells may contain untrusted names.

    Args:
        header: The title of each column.
        rows: For each row one text per column.
        numbers: The columns that are aligned to the right.

    Example:
        >>> print(text_table(["run", "DSC"], [["a", "0.9"], ["longer", "0.85"]], numbers=[1]))
        run      DSC
        a        0.9
        longer  0.85
    """
    import io

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for index, title in enumerate(header):
        side: Literal["left", "right"] = "right" if index in numbers else "left"
        table.add_column(Text(visible(title)), justify=side, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    printed = io.StringIO()
    # As wide as needed, since a terminal wraps lines and a file has no width. In a notebook, rich
    # would display the table instead of writing it to the file.
    Console(file=printed, width=10_000, color_system=None, force_jupyter=False).print(table)
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
