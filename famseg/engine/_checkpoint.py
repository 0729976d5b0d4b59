"""Checkpoints: written atomically, and read without executing code."""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from famseg.engine._trust import check_state
from famseg.files import NotPlainError, fresh_part, load_plain, remove_parts, write_atomically
from famseg.messages import InputError

FORMAT = 1
LAST, BEST, PREVIOUS = "last.pt", "best.pt", "previous.pt"
_EPOCH = re.compile(r"epoch-(\d{5,9})\.pt")


class DamagedCheckpointError(InputError):
    """A checkpoint cannot be read because bytes are missing or changed."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: a kill at any moment leaves the old or the new one.

    Args:
        path: The file to write; its folder is created.
        state: Tensors, numbers, strings and containers of these, which can be loaded with
            ``weights_only=True``.

    Raises:
        OSError: If the disk is full or the folder is not writable, with the path; the old file
            stays.
    """
    # Through memory, because on a full disk torch replaces the system's error by its own.
    content = io.BytesIO()
    torch.save({"format": FORMAT, **state}, content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(path)  # each is as large as a checkpoint
        write_atomically(path, content.getbuffer())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state that :func:`save_checkpoint` wrote, on the CPU; its checksums are compared.

    Raises:
        DamagedCheckpointError: If it is damaged or contains more than plain data.
        InputError: If it is missing, has a newer format, or contains impossible values.
    """
    try:
        state = load_plain(path, checksums=True)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such checkpoint. Has the run saved one?") from None
    except NotPlainError as error:
        raise DamagedCheckpointError(
            f"{path}: not a readable checkpoint ({error}). {_instead(path)}"
        ) from error
    # Comparing a tensor with a number would give a tensor.
    if (
        not isinstance(state, dict)
        or not isinstance(state.get("format"), int | None)
        or (state.get("format") != FORMAT)
    ):
        raise InputError(
            f"{path}: not a checkpoint of format {FORMAT}. Use the famseg version that wrote it."
        )
    try:
        check_state(state)
    except ValueError as error:
        raise InputError(f"{path}: not a checkpoint of famseg ({error}).") from error
    return state


def keep_previous(path: Path) -> None:
    """Keep a checkpoint that is about to be replaced as ``previous.pt`` next to it.

    Nothing is copied, and ``path`` itself exists until it is replaced.

    Args:
        path: The checkpoint; nothing is done if it does not exist.

    Raises:
        OSError: If the folder cannot be written to.
    """
    if not path.exists():
        return
    previous = path.with_name(PREVIOUS)
    try:
        _link(path, previous)
    except OSError:  # a file system without hard links; a kill here leaves only the previous one
        path.replace(previous)


def keep_epoch(path: Path, epoch: int, *, last: int, every: int | None) -> None:
    """Keep an epoch's checkpoint as ``epoch-00012.pt`` next to it, and remove expired ones.

    With hard links it takes no space until the next checkpoint is written.

    Args:
        path: The checkpoint at the end of the epoch.
        epoch: The epoch, starting at 1.
        last: Number of most recent epochs to keep; with 1, only ``path`` itself.
        every: Interval of epochs whose checkpoints are kept permanently, or None.

    Raises:
        OSError: If the folder cannot be written to, with the path.
    """

    def wanted(number: int) -> bool:
        return (last > 1 and number > epoch - last) or (every is not None and number % every == 0)

    if wanted(epoch):
        kept = path.with_name(f"epoch-{epoch:05d}.pt")
        try:
            _link(path, kept)
        except OSError:  # a file system without hard links
            try:
                with fresh_part(kept) as part:
                    shutil.copyfile(path, part)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(kept)) from error
    for each in path.parent.iterdir():
        match = _EPOCH.fullmatch(each.name)
        if match and int(match[1]) < epoch and not wanted(int(match[1])):
            each.unlink(missing_ok=True)


def _link(path: Path, other: Path) -> None:
    """Give a file a second name, replacing any file of that name."""
    part = other.with_name(f".{other.name}.{secrets.token_hex(8)}.part")
    try:
        os.link(path, part)
        part.replace(other)
    finally:
        part.unlink(missing_ok=True)  # replace does nothing if both are the same file


def _instead(path: Path) -> str:
    """Return advice on what to do about a damaged checkpoint."""
    if path.name == LAST and path.with_name(PREVIOUS).exists():
        return f"{PREVIOUS} beside it is the one before: --resume takes it, or copy it to {LAST}."
    if path.name == BEST and path.with_name(LAST).exists():
        return "Use the end of the training, --checkpoint last, or train again."
    return "Copy the file again from where it came, or train again."
