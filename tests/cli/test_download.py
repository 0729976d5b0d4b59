"""``famseg prepare`` of a public data set, from a local server."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from famseg.cli._main import app
from famseg.config import find_config
from famseg.datasets import DOWNLOADS, Download, RemoteFile
from famseg.messages import InputError, RunError

ROWS = b"index\tsentence1\tsentence2\tlabel\n"
PARTS = ("train.tsv", "dev.tsv", "test.tsv")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Suppress the log."""


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"  # noqa: S324 - as published


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a folder with a small ``cifar-10-python.tar.gz`` and ``RTE.zip``."""
    folder = tmp_path / "server"
    folder.mkdir()
    archive = folder / "cifar-10-python.tar.gz"
    archive.write_bytes(b"pictures" * 1000)
    with zipfile.ZipFile(folder / "RTE.zip", "w") as packed:
        for name in PARTS:
            packed.writestr(f"RTE/{name}", ROWS)
    for name, path in (("cifar10", archive), ("rte", folder / "RTE.zip")):
        (file,) = DOWNLOADS[name].files
        small = RemoteFile(file.name, 8000, md5(path.read_bytes()), file.instead, file.unpack)
        chosen = DOWNLOADS[name]
        changed = Download(chosen.title, ("http://127.0.0.1:9",), (small,), chosen.config)
        monkeypatch.setitem(DOWNLOADS, name, changed)
    monkeypatch.chdir(tmp_path)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def prepare(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["prepare", *arguments])


def faults(done: Result) -> tuple[str, ...]:
    assert isinstance(done.exception, InputError), done.exception
    return done.exception.faults


def test_a_set_is_fetched_once(mirror: str, tmp_path: Path) -> None:
    arguments = ("cifar10", "--out", "cifar10", "--mirror", mirror)
    done = prepare(*arguments)
    assert done.exit_code == 0, done.exception
    assert done.stdout.splitlines() == [
        "CIFAR-10: 1 downloaded, 0 already there",
        "",
        "train        famseg train --config classification/cifar10_baseline.yaml data.root=cifar10",
    ]
    assert done.stderr == "cifar-10-python.tar.gz: 7.8 KiB to download\n"
    path = tmp_path / "cifar10" / "cifar-10-python.tar.gz"
    assert path.read_bytes() == b"pictures" * 1000
    assert list(path.parent.iterdir()) == [path]
    # The folder now has the name of the data set, but is not a folder of scans.
    again = prepare(*arguments, "--json")
    assert json.loads(again.stdout) == {
        "name": "cifar10",
        "folder": "cifar10",
        "files": [
            {"file": path.name, "status": "there", "checksum": md5(path.read_bytes())},
        ],
    }


def test_a_copy_packed_anew_is_used_with_a_warning(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "cifar-10-python.tar.gz"
    path.write_bytes(b"packed anew")
    done = prepare("cifar10", "--out", "out")
    assert done.exit_code == 0, done.exception
    assert done.stderr == (
        "famseg: out/cifar-10-python.tar.gz: is used although its checksum is "
        f"{md5(b'packed anew')} and the published one is {md5(b'pictures' * 1000)}: it is a "
        "repacked or a damaged copy; delete it to download it again\n"
    )
    assert path.read_bytes() == b"packed anew"


def test_unpacked_files_are_enough(mirror: str, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "test_batch").touch()
    done = prepare("cifar10", "--out", "out")
    assert done.stdout.startswith("CIFAR-10: 0 downloaded, 1 already there\n"), done.exception


def test_rte_is_unpacked(mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAMSEG_MIRROR", mirror)
    done = prepare("rte", "--out", "texts/rte")
    assert done.exit_code == 0, done.exception
    assert {p.name for p in (tmp_path / "texts" / "rte").iterdir()} == {"RTE.zip", *PARTS}
    assert (tmp_path / "texts" / "rte" / "dev.tsv").read_bytes() == ROWS
    (tmp_path / "texts" / "rte" / "RTE.zip").unlink()
    assert prepare("rte", "--out", "texts/rte").exit_code == 0, "needs no network"


def test_a_dry_run_names_the_addresses(mirror: str, tmp_path: Path) -> None:
    done = prepare("svhn", "--out", "out", "--dry-run")
    base = "http://ufldl.stanford.edu/housenumbers"
    assert done.stdout.splitlines() == [
        f"fetch      {base}/train_32x32.mat  (173.6 MiB)",
        f"fetch      {base}/test_32x32.mat  (61.3 MiB)",
        "",
        "SVHN, cropped digits: 2 to download, 0 already in out; nothing was written",
    ]
    plan = json.loads(prepare("fashionmnist", "--out", "out", "--dry-run", "--json").stdout)
    assert [len(each["addresses"]) for each in plan["fetch"]] == [2, 2, 2, 2]
    assert not (tmp_path / "out").exists()


def test_a_failed_download_is_a_failed_run(mirror: str) -> None:
    done = prepare("cifar10", "--out", "out", "--mirror", f"{mirror}nowhere")
    assert isinstance(done.exception, RunError)
    assert "cifar-10-python.tar.gz: answers 404 File not found). Resume" in str(done.exception)


def test_options_without_a_use_are_refused(mirror: str, tmp_path: Path) -> None:
    assert faults(prepare("cifar10", "--out", "out", "--size", "64", "--force")) == (
        "--size: applies to scans, not to a download: leave it out",
        "--force: applies to scans, not to a download: leave it out",
    )
    (tmp_path / "scans").mkdir()
    assert faults(prepare("scans", "--out", "out", "--mirror", mirror)) == (
        "--mirror: applies only to downloads, and scans is not one: leave it out",
    )
    assert faults(prepare("cifar10", "--out", "out", "--mirror", "server")) == (
        "server/cifar-10-python.tar.gz: is not an address: it must begin with http:// or https://",
    )
    (tmp_path / "file").touch()
    assert faults(prepare("cifar10", "--out", "file", "--mirror", mirror)) == (
        "file: cannot be written (File exists)",
    )


def test_a_folder_of_that_name_is_a_source(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    (line,) = faults(prepare("cifar10", "--out", "out"))
    assert "cifar10" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(DOWNLOADS))
def test_what_is_known_of_a_set(name: str) -> None:
    for file in DOWNLOADS[name].files:
        kind, _, digest = file.checksum.partition(":")
        assert len(digest) == {"md5": 32, "sha256": 64}[kind]
        assert file.size > 1000
    assert find_config(DOWNLOADS[name].config).is_file()
    assert all(address.startswith("http") for address in DOWNLOADS[name].addresses)
