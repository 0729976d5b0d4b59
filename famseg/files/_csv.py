"""CSV tables as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from famseg.messages import cell

Row = Mapping[str, object] | Sequence[object]


def csv_text(columns: Sequence[str], rows: Iterable[Row], *, for_people: bool = False) -> str:
    r"""Return a table as CSV: a header, then one line per row, each ending with ``\n``.

    Floats keep every digit; None and a key that a mapping lacks give an empty cell. Lines end with
    ``\n`` on every system, so that the same table has the same bytes and the same hash everywhere.

    Args:
        columns: The header, and the keys taken from a mapping; other keys are ignored.
        rows: For each row a mapping, or its cells in the order of ``columns``.
        for_people: Whether the table is opened in spreadsheets. Texts that they would evaluate as a
            formula then get a leading ``'``. Not for tables that are read again, whose texts must
            not change.

    Example:
        >>> print(csv_text(["case", "dsc"], [{"case": "=a", "dsc": 0.5}, ["b", None]]), end="")
        case,dsc
        =a,0.5
        b,
        >>> csv_text(["case"], [["=a"]], for_people=True)
        "case\n'=a\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = [row.get(name) for name in columns] if isinstance(row, Mapping) else row
        writer.writerow(map(cell, cells) if for_people else cells)
    return text.getvalue()
