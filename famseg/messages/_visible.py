"""Texts of strangers made fit to be shown."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")

NO_TEXT = "its name or that of a folder is no text in UTF-8: rename it"
"""What is said of a file that libraries cannot be given: some end the whole process."""


def is_text(name: str) -> bool:
    r"""Tell whether the system's name of a file can be written as text.

    Example:
        >>> is_text("head.nii"), is_text("\udcff.nii")
        (True, False)
    """
    return not any("\ud800" <= sign <= "\udfff" for sign in name)


def visible(text: str, keep: str = "") -> str:
    r"""Return ``text`` with every sign that is not seen written out.

    Names of files and texts of headers may hold signs that move the cursor, colour a terminal, turn
    the direction of reading, or cannot be encoded at all.

    Args:
        text: Any text.
        keep: Signs that stay: newlines of a text that has lines.

    Example:
        >>> print(visible("a\x1b[31mred\nb\udcff"))
        a\x1b[31mred\nb\udcff
    """
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in keep else sign.encode("unicode_escape").decode()
        for sign in text
    )


def cell(value: object) -> object:
    """Return a value of a table for people: a text that spreadsheets would compute gets a ``'``.

    Example:
        >>> cell("=1+1"), cell("head"), cell(-1.5)
        ("'=1+1", 'head', -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def one_line(text: str, longest: int = 200) -> str:
    r"""Return ``text`` fit for a message: printable, in one line, of moderate length.

    Example:
        >>> print(one_line("a\tb"), one_line("abcdef", 3))
        a\tb abc...
    """
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= longest else f"{text[:longest]}..."
