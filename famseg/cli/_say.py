"""Safe printing of text and JSON, even if it contains control characters from files."""

from __future__ import annotations

import json
import logging

import typer

from famseg.messages import visible


def say(text: str, *, err: bool = False, newline: bool = True) -> None:
    """Print a text of one or more lines, with invisible characters escaped.

    Args:
        text: What to print.
        err: On standard error.
        newline: Whether a newline follows.
    """
    typer.echo(visible(text, keep="\n\t"), err=err, nl=newline)


def say_json(content: object, *, indent: int | None = 2) -> None:
    """Print JSON in plain ASCII, which every terminal and every script understands.

    Args:
        content: A JSON value; floats that are not finite are an error.
        indent: Spaces per level; None prints one line.
    """
    typer.echo(json.dumps(content, indent=indent, allow_nan=False))


class VisibleFormatter(logging.Formatter):
    """Formats log lines as `say` prints them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return visible(super().format(record), keep="\n\t")
