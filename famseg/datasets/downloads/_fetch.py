"""Download of one file: resumed, checked and completed atomically.

Not by pooch: pooch 1.9 downloads into a temporary file that it deletes when the transfer breaks,
and sends no ``Range``: each try would start from zero.
"""

from __future__ import annotations

import http.client
import json
import os
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import famseg
from famseg.datasets.downloads._catalogue import checksum_of
from famseg.files import open_to_update, write_atomically
from famseg.messages import InputError, RunError

Progress = Callable[[int, int | None], None]
"""Called with the bytes received and the total; None if the server does not state it."""

_CHUNK = 2**17
_LONGEST_WAIT_S = 30.0
_WORTH_WAITING = (408, 425, 429, 500, 502, 503, 504)


class _TryAgainError(Exception):
    """The transfer failed, possibly only temporarily."""


class _GoneError(Exception):
    """This address does not have the file."""


@dataclass(frozen=True)
class _Origin:
    """The origin of a partial download."""

    address: str
    etag: str | None
    modified: str | None
    total: int | None

    def validator(self, address: str) -> str | None:
        """Return the validator for If-Range: a date or a strong ETag; weak ones do not qualify."""
        if address != self.address:
            return None
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def continued_by(self, sent: str | None, begin: int) -> bool:
        """Return whether a ``Content-Range`` is the rest of the same file."""
        place, _, total = (sent or "").removeprefix("bytes ").partition("/")
        return place.startswith(f"{begin}-") and (self.total is None or total == str(self.total))


def fetch(
    addresses: Sequence[str],
    target: Path,
    *,
    checksum: str,
    progress: Progress,
    attempts: int = 5,
    timeout_s: float = 30.0,
    backoff_s: float = 1.0,
) -> None:
    """Fetch a file.

    A partial download is kept as ``NAME.part`` next to the target and resumed, in this call or a
    later one, if the server still has the same version (ETag, date, size); otherwise it starts
    again. The target is created only after its checksum was verified. Proxies are taken from the
    environment (``https_proxy``).

    Args:
        addresses: The addresses of the file, http or https; if one fails, the next one is tried.
        target: The file to write, in an existing folder.
        checksum: ``md5:...`` or ``sha256:...``.
        progress: Called with the bytes received and the total.
        attempts: Maximum number of consecutive tries of an address without a single byte.
        timeout_s: Seconds without a byte after which a try fails.
        backoff_s: Seconds before the second try; doubled for each further one, up to 30.

    Raises:
        InputError: If an address is neither http nor https.
        RunError: If no address provides the expected file, with the reason for each.
        OSError: If the file cannot be written.
    """
    for address in addresses:
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc:
            raise InputError(
                f"{address}: is not an address: it must begin with http:// or https://"
            )
    part = _Part(target.with_name(f"{target.name}.part"))
    failures = []
    for address in addresses:
        try:
            _fetch_from(address, part, checksum, progress, attempts, timeout_s, backoff_s)
        except (_TryAgainError, _GoneError) as error:
            failures.append(f"{address}: {error}")
            continue
        part.finish(target)
        return
    raise RunError(
        f"{target}: not downloaded ({'; '.join(failures)}). Resume with the same command, give "
        "another address with --mirror, or copy the file there by hand."
    )


def _fetch_from(
    address: str,
    part: _Part,
    checksum: str,
    progress: Progress,
    attempts: int,
    timeout_s: float,
    backoff_s: float,
) -> None:
    """Complete the partial download, retrying as long as it grows."""
    left = attempts
    while True:
        before = part.size
        try:
            resumed = _transfer(address, part, progress, timeout_s)
            found = checksum_of(part.path, checksum)
            if found == checksum:
                return
            part.remove()
            if not resumed:
                raise _GoneError(f"sends another file (checksum {found}, published {checksum})")
            left -= 1  # the partial file may be of another version: start again
        except _TryAgainError:
            left = attempts if part.size > before else left - 1
            if left <= 0:
                raise
            time.sleep(min(backoff_s * 2 ** (attempts - left - 1), _LONGEST_WAIT_S))


def _transfer(address: str, part: _Part, progress: Progress, timeout_s: float) -> bool:
    """Fetch the missing bytes; return whether they continued an earlier download."""
    origin = part.origin()
    begin = 0 if origin is None else part.size
    if origin is not None and begin == origin.total:
        return True
    headers = {"User-Agent": f"famseg/{famseg.__version__}", "Accept-Encoding": "identity"}
    if origin is not None and begin:
        headers["Range"] = f"bytes={begin}-"
        if validator := origin.validator(address):
            headers["If-Range"] = validator
    with _open(address, headers, part, timeout_s) as answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            begin = 0
        elif origin is None or not origin.continued_by(answer.headers["Content-Range"], begin):
            part.remove()
            raise _TryAgainError("has another version than the part downloaded before")
        length = answer.headers.get("Content-Length", "")
        total = begin + int(length) if length.isdigit() else None
        named = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
        part.begin(_Origin(address, *named, total), begin)
        with part.open() as stream:
            stream.seek(begin)
            while chunk := _receive(answer):
                stream.write(chunk)
                progress(stream.tell(), total)
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and part.size != total:
        raise _TryAgainError(f"ended after {part.size} of {total} bytes")
    return begin > 0


def _open(
    address: str, headers: dict[str, str], part: _Part, timeout_s: float
) -> http.client.HTTPResponse:
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - checked by fetch
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310
        return answer
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.remove()
                raise _TryAgainError("has fewer bytes than were downloaded before") from error
            kind = _TryAgainError if error.code in _WORTH_WAITING else _GoneError
            raise kind(f"answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgainError(_reason(error)) from error


def _receive(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgainError(_reason(error)) from error


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return "does not respond in time"
    return f"cannot be reached ({inner})" if str(inner) else type(inner).__name__


class _Part:
    """A partial download, with a file next to it that records its origin.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._note = path.with_name(f"{path.name}.json")

    @property
    def size(self) -> int:
        """Number of bytes received."""
        return self.path.stat().st_size if self._is_ours() else 0

    def origin(self) -> _Origin | None:
        """Return the origin of the partial download; None if it cannot be resumed."""
        try:
            origin = _Origin(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return origin if self._is_ours() else None

    def open(self) -> IO[bytes]:
        """Open the partial download for writing, at its start.

        Raises:
            OSError: If it is a symbolic link, which is not followed.
        """
        return open_to_update(self.path)

    def begin(self, origin: _Origin, size: int) -> None:
        """Truncate the partial download to a size, then record its origin."""
        self._note.unlink(missing_ok=True)
        if not self._is_ours():
            self.path.unlink(missing_ok=True)
        with self.open() as stream:
            stream.truncate(size)
        write_atomically(self._note, json.dumps(asdict(origin)).encode())

    def finish(self, target: Path) -> None:
        """Rename the partial download to its final name."""
        self.path.replace(target)
        self._note.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the partial download."""
        self._note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        """Return whether a file exists and is neither a symbolic nor a hard link."""
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_nlink == 1
