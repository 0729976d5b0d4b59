from __future__ import annotations

import hashlib
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from famseg.datasets import checksum_of, fetch
from famseg.files import unpack_files
from famseg.messages import InputError, RunError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@dataclass
class Answer:
    """A response of the server.

    Attributes:
        content: The whole file.
        status: A status other than 200 and 206.
        drop_after: Number of bytes after which the connection is closed.
        ranges: Whether range requests are supported.
        headers: More headers; the ETag decides whether If-Range holds.
        length: Whether it sends the content length.
        wait_s: Seconds before it answers.
    """

    content: bytes = CONTENT
    status: int | None = None
    drop_after: int | None = None
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"v1"'})
    length: bool = True
    wait_s: float = 0.0


class Server(ThreadingHTTPServer):
    """Sends the responses of a list in order, and then repeats the last one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = [Answer()]
        self.ranges: list[tuple[str, str | None, str | None]] = []

    def address(self, name: str = "a.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        wanted, condition = self.headers["Range"], self.headers["If-Range"]
        self.server.ranges.append((self.path, wanted, condition))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        time.sleep(answer.wait_s)
        self.close_connection = True
        if answer.status is not None:
            self.send_error(answer.status)
            return
        begin = 0
        same = condition in (None, answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
        if wanted and answer.ranges and same:
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
        body = answer.content[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            total = len(answer.content)
            self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if answer.drop_after is None else body[: answer.drop_after])

    def log_message(self, *_: object) -> None:
        """Suppress the log."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(target: Path, *addresses: str, **options: object) -> list[tuple[int, int | None]]:
    """Fetch with short waits; return the reported progress."""
    told: list[tuple[int, int | None]] = []
    settings = {"checksum": SHA256, "attempts": 3, "timeout_s": 5.0, "backoff_s": 0.001, **options}
    fetch(addresses, target, progress=lambda done, of: told.append((done, of)), **settings)
    return told


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    told = get(tmp_path / "a.bin", server.address())
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"], "neither part nor note is left"
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert server.ranges == [("/a.bin", None, None)]


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({"ETag": '"v1"'}, '"v1"'),
        ({"ETag": 'W/"v1"'}, None),
        (
            {"ETag": 'W/"v1"', "Last-Modified": "Tue, 01 Jul 2025 00:00:00 GMT"},
            "Tue, 01 Jul 2025 00:00:00 GMT",
        ),
        ({}, None),
    ],
)
def test_a_broken_connection_is_gone_on_with(
    server: Server, tmp_path: Path, headers: dict[str, str], condition: str | None
) -> None:
    cut = [Answer(drop_after=300_000, headers=headers) for _ in range(3)]
    server.answers = [*cut, Answer(headers=headers)]
    get(tmp_path / "a.bin", server.address(), attempts=2)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in server.ranges] == [
        None,
        "bytes=300000-",
        "bytes=600000-",
        "bytes=900000-",
    ], "tries that bring something do not count"
    assert {condition for _, _, condition in server.ranges[1:]} == {condition}


def test_the_next_call_goes_on(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(drop_after=400_000), Answer(drop_after=0)]
    with pytest.raises(RunError, match="ended after 400000 of 1048576 bytes"):
        get(tmp_path / "a.bin", server.address(), attempts=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin.part", "a.bin.part.json"]
    server.answers = [Answer()]
    get(tmp_path / "a.bin", server.address("other"))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.ranges[-1] == ("/other", "bytes=400000-", None), "an ETag is one server's own"


def test_a_part_that_is_whole_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "a.bin.part"
    part.write_bytes(CONTENT)
    note = {"address": "x", "etag": None, "modified": None, "total": len(CONTENT)}
    part.with_name("a.bin.part.json").write_text(json.dumps(note))
    get(tmp_path / "a.bin", server.address())
    assert server.ranges == []
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("note", [None, "{", "[]", '{"address": 3}'])
def test_a_part_of_unknown_origin_is_not_gone_on_with(
    server: Server, tmp_path: Path, note: str | None
) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"something else")
    if note is not None:
        (tmp_path / "a.bin.part.json").write_text(note)
    get(tmp_path / "a.bin", server.address())
    assert server.ranges == [("/a.bin", None, None)]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


OLD = CONTENT[::-1]


@pytest.mark.parametrize(
    ("answers", "requests"),
    [
        # Another version: the server respects If-Range and sends the complete new file.
        ([Answer(OLD, drop_after=500_000, headers={"ETag": '"v0"'}), Answer()], 2),
        # The same without If-Range: the checksum differs, and the whole file is downloaded again.
        ([Answer(OLD, drop_after=500_000, headers={}), Answer(headers={})], 3),
        # Another version of another size.
        ([Answer(OLD[:-5], drop_after=500_000, headers={}), Answer(headers={})], 3),
        # A server that cannot send the rest sends all.
        ([Answer(drop_after=500_000), Answer(ranges=False)], 2),
        # The server's file is shorter than the partial one.
        ([Answer(drop_after=500_000), Answer(status=416), Answer()], 3),
        # Temporary failures.
        ([Answer(status=503), Answer(status=429), Answer()], 3),
        # No content length.
        ([Answer(length=False, headers={})], 1),
    ],
)
def test_what_a_server_may_do(
    server: Server, tmp_path: Path, answers: list[Answer], requests: int
) -> None:
    server.answers = answers
    get(tmp_path / "a.bin", server.address())
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert len(server.ranges) == requests
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    ("answer", "requests", "message"),
    [
        (Answer(status=404), 1, "answers 404 Not Found"),
        (Answer(status=500), 3, "answers 500 Internal Server Error"),
        (
            Answer(b"<html>"),
            1,
            r"sends another file \(checksum sha256:[0-9a-f]{64}, published "
            "sha256:",
        ),
        (Answer(drop_after=0), 3, "ended after 0 of 1048576 bytes"),
        (Answer(wait_s=0.4), 3, "does not respond in time"),
    ],
)
def test_a_failure_says_what_happened(
    server: Server, tmp_path: Path, answer: Answer, requests: int, message: str
) -> None:
    server.answers = [answer]
    with pytest.raises(RunError, match=message) as caught:
        get(tmp_path / "a.bin", server.address(), timeout_s=0.1)
    assert str(caught.value).startswith(
        f"{tmp_path / 'a.bin'}: not downloaded ({server.address()}: "
    )
    assert str(caught.value).endswith(
        "). Resume with the same command, give another address with --mirror, or copy the file "
        "there by hand."
    )
    assert len(server.ranges) == requests
    assert not (tmp_path / "a.bin").exists()


def test_the_next_address_is_tried(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(status=404), Answer()]
    get(tmp_path / "a.bin", server.address("one"), server.address("two"))
    assert [path for path, _, _ in server.ranges] == ["/one", "/two"]


def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be reached \(.*refused\)"):
        get(tmp_path / "a.bin", "http://127.0.0.1:9/a.bin", attempts=2)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://x/a", "a.bin", "http://"])
def test_addresses_of_other_kinds(tmp_path: Path, address: str) -> None:
    with pytest.raises(
        InputError, match="is not an address: it must begin with http:// or https://"
    ):
        get(tmp_path / "a.bin", address)


def test_a_folder_that_is_not_there(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        get(tmp_path / "x" / "a.bin", server.address())


def test_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"famseg")
    assert checksum_of(path, "md5:0") == f"md5:{hashlib.md5(b'famseg').hexdigest()}"  # noqa: S324


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_unpacking_by_name(tmp_path: Path) -> None:
    archive = zipped(
        tmp_path / "a.zip",
        **{
            "RTE/train.tsv": b"1",
            "dev.tsv": b"2",
            "RTE/original/train.tsv": b"deeper",
            "__MACOSX/RTE/._train.tsv": b"junk",
            "../../evil.tsv": b"evil",
        },
    )
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    unpack_files(archive, ("train.tsv", "dev.tsv"), out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {"train.tsv": b"1", "dev.tsv": b"2"}
    assert not list(tmp_path.rglob("evil*"))
    with pytest.raises(InputError, match=r"a\.zip: test\.tsv: not in the archive"):
        unpack_files(archive, ("test.tsv",), out)
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(
        InputError,
        match=r"a\.zip: is not a ZIP archive, or it is encrypted, cut "
        "short or dam",
    ):
        unpack_files(archive, ("train.tsv",), out)
