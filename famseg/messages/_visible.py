"""Escaping of untrusted text for display."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")

NO_TEXT = "its name or that of a folder is not UTF-8 text: rename it"
"""The message for a file name with which some libraries abort the whole process."""


def is_text(name: str) -> bool:
    r"""Return whether a file name is valid text.

    Example:
        >>> is_text("head.nii"), is_text("\udcff.nii")
        (True, False)
    """
    return not any("\ud800" <= sign <= "\udfff" for sign in name)


def visible(text: str, keep: str = "") -> str:
    r"""Return ``text`` with every invisible character escaped.

    File names and header texts may contain characters that move the cursor, color a terminal,
    reverse the direction of reading, or cannot be encoded.

    Args:
        text: Any text.
        keep: Characters that are not escaped, such as newlines.

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
    """Return a table cell for spreadsheets, with ``'`` before text that they would evaluate.

    Example:
        >>> cell("=1+1"), cell("head"), cell(-1.5)
        ("'=1+1", 'head', -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def one_line(text: str, longest: int = 200) -> str:
    r"""Return ``text`` for a message: printable, in one line, with limited length.

    Example:
        >>> print(one_line("a\tb"), one_line("abcdef", 3))
        a\tb abc...
    """
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= longest else f"{text[:longest]}..."
