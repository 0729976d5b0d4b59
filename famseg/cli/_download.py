"""``famseg prepare`` of a public data set: downloads its files."""

from __future__ import annotations

import errno
import shlex
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from famseg.cli._say import say, say_json
from famseg.messages import InputError, RunError

if TYPE_CHECKING:
    from famseg.datasets import Download, RemoteFile

USED = ("source", "out", "mirror", "dry_run", "as_json")
"""The options of ``famseg prepare`` that a download has a use for."""

_MIB = 2**20
_LINE_EVERY_S = 10.0


def is_download(source: Path, out: Path) -> bool:
    """Whether a source is the name of a public data set and not a folder of that name."""
    from famseg.datasets import DOWNLOADS

    taken = source.exists() and source.resolve() != out.resolve()
    return str(source) in DOWNLOADS and not taken


@dataclass(frozen=True)
class _Done:
    file: RemoteFile
    status: str  # "fetched", "there" or "there, not as published"


def download(name: str, out: Path, *, mirror: str | None, dry_run: bool, as_json: bool) -> None:
    """Download the missing files of a data set.

    Args:
        name: Its name in `famseg.datasets.DOWNLOADS`.
        out: The folder to write to.
        mirror: Base address to use instead of the official ones.
        dry_run: Only list what would be downloaded.
        as_json: Print the result as JSON.

    Raises:
        InputError: If an address or the folder cannot be used.
        RunError: If a file cannot be downloaded.
    """
    from famseg.datasets import DOWNLOADS
    from famseg.engine import Interrupted, stop_on_signals

    chosen = DOWNLOADS[name]
    bases = (mirror,) if mirror else chosen.addresses
    if dry_run:
        _show_plan(chosen, bases, out, as_json=as_json)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        with stop_on_signals():
            done = [_get(file, bases, out) for file in chosen.files]
    except Interrupted as stop:
        say(f"famseg: {stop}; resume with the same command", err=True)
        raise typer.Exit(128 + stop.signum) from None
    except OSError as error:
        raise _disk_fault(error, out) from error
    _show_result(name, chosen, done, out, as_json=as_json)


def _disk_fault(error: OSError, out: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"{out}: the disk is full. Free some space, then resume with the same command."
        )
    return InputError(f"{error.filename or out}: cannot be written ({error.strerror})")


def _get(file: RemoteFile, bases: Collection[str], out: Path) -> _Done:
    """Download one file unless it, or what it unpacks to, exists."""
    from famseg.datasets import checksum_of, fetch
    from famseg.files import unpack_files

    target = out / file.name
    status = "there"
    if not target.is_file() and file.needless(out):
        return _Done(file, status)
    if target.is_file():
        found = checksum_of(target, file.checksum)
        if found != file.checksum:
            status = "there, not as published"
            say(
                f"famseg: {target}: is used although its checksum is {found} and the published one "
                f"is {file.checksum}: it is a repacked or a damaged copy; delete it to download it "
                "again",
                err=True,
            )
    else:
        status = "fetched"
        with _progress(file) as show:
            addresses = [f"{base.rstrip('/')}/{file.name}" for base in bases]
            fetch(addresses, target, checksum=file.checksum, progress=show)
    if file.unpack and not file.needless(out):
        unpack_files(target, file.instead, out)
    return _Done(file, status)


@contextmanager
def _progress(file: RemoteFile) -> Iterator[Callable[[int, int | None], None]]:
    """Show the progress of a file on standard error: a bar on a terminal, lines in a log."""
    from famseg.cli._progress import counting

    with counting(file.name, in_bytes=True) as count:
        if count.drawn:
            yield lambda done, of: count.update(done, of or file.size)
            return
        say(f"{file.name}: {_amount(file.size)} to download", err=True)
        yield _lines(file)


def _lines(file: RemoteFile) -> Callable[[int, int | None], None]:
    last = began = time.monotonic()
    first: int | None = None

    from famseg.cli._progress import duration

    def show(done: int, of: int | None) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if now - last < _LINE_EVERY_S:
            return
        last = now
        speed = (done - first) / (now - began)
        left = f", left {duration(((of or file.size) - done) / speed)}" if speed > 0 else ""
        say(
            f"{file.name}: {_amount(done)} of {_amount(of or file.size)}, {_amount(speed)}/s{left}",
            err=True,
        )

    return show


def _amount(size: float) -> str:
    return f"{size / _MIB:.1f} MiB" if size >= _MIB else f"{size / 1024:.1f} KiB"


def _show_plan(chosen: Download, bases: Collection[str], out: Path, *, as_json: bool) -> None:
    wanted = [f for f in chosen.files if not ((out / f.name).is_file() or f.needless(out))]
    if as_json:
        rows = [
            {
                "file": file.name,
                "bytes": file.size,
                "checksum": file.checksum,
                "addresses": [f"{base.rstrip('/')}/{file.name}" for base in bases],
            }
            for file in wanted
        ]
        say_json({"folder": str(out), "fetch": rows})
        return
    for file in wanted:
        addresses = " or ".join(f"{base.rstrip('/')}/{file.name}" for base in bases)
        say(f"fetch      {addresses}  ({_amount(file.size)})")
    there = len(chosen.files) - len(wanted)
    say(
        f"\n{chosen.title}: {len(wanted)} to download, {there} already in {out}; nothing was "
        "written"
    )


def _show_result(
    name: str, chosen: Download, done: Collection[_Done], out: Path, *, as_json: bool
) -> None:
    if as_json:
        rows = [
            {"file": each.file.name, "status": each.status, "checksum": each.file.checksum}
            for each in done
        ]
        say_json({"name": name, "folder": str(out), "files": rows})
        return
    fetched = sum(each.status == "fetched" for each in done)
    say(f"{chosen.title}: {fetched} downloaded, {len(done) - fetched} already there")
    root = shlex.quote(str(out))
    say(f"\ntrain        famseg train --config {chosen.config} data.root={root}")
