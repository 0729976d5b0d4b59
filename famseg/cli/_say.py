"""What the command prints: texts of strangers cannot steer a terminal or spoil a script."""

from __future__ import annotations

import json
import logging

import typer

from famseg.messages import visible


def say(text: str, *, err: bool = False, newline: bool = True) -> None:
    """Print a text, of one line or several, with all that is not seen written out.

    Args:
        text: What to print.
        err: On standard error.
        newline: Whether a newline follows.
    """
    typer.echo(visible(text, keep="\n\t"), err=err, nl=newline)


def say_json(content: object, *, indent: int | None = 2) -> None:
    """Print JSON in plain ASCII, which every terminal and every script understands.

    Args:
        content: What JSON can hold; not finite floats are an error.
        indent: Spaces a level; None prints one line.
    """
    typer.echo(json.dumps(content, indent=indent, allow_nan=False))


class VisibleFormatter(logging.Formatter):
    """Lines of the log, as `say` prints them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return visible(super().format(record), keep="\n\t")
