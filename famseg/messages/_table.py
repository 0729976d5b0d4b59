"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()
) -> str:
    """Return rows as columns that are aligned, two spaces apart, without a frame.

    Args:
        header: The title of each column.
        rows: One text for each column.
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
        table.add_column(Text(title), justify="right" if index in numbers else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    printed = io.StringIO()
    # As wide as it must be: a terminal wraps lines, and a file has no width.
    Console(file=printed, width=10_000, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
