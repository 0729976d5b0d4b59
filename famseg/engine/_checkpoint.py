"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from famseg.config import InputError
from famseg.config._atomic import remove_parts, write_atomically
from famseg.models._plain_file import NotPlainError, load_plain

FORMAT = 1


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one.

    Args:
        path: Where to write; the folder is created.
        state: Tensors, numbers, strings and containers of them, so that it loads with
            ``weights_only=True``.

    Raises:
        OSError: If the disk is full or the folder is not writable, with the path; the old file
            stays.
    """
    # Through memory: writing to a full disk, torch hides the system's error behind one of its own.
    content = io.BytesIO()
    torch.save({"format": FORMAT, **state}, content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(path)  # as large as a checkpoint each
        write_atomically(path, content.getbuffer())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state that :func:`save_checkpoint` wrote, on the CPU.

    Raises:
        InputError: If the file is missing, damaged, holds more than plain data or is of a newer
            format.
    """
    try:
        state = load_plain(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such checkpoint. Has the run saved one?") from None
    except NotPlainError as error:
        raise InputError(f"{path}: not a readable checkpoint ({error}).") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(
            f"{path}: not a checkpoint of format {FORMAT}. Use the famseg version that wrote it."
        )
    return state
