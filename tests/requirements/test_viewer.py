from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import json
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "requirements" / "viewer.py"
CONTENT = b"window.niivue = {};"


def packed(content=CONTENT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/dist/niivue.umd.js")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def sources(tmp_path):
    """Sources that want a package of this test's, from a server of its own."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "niivue-1.tgz").write_bytes(packed())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        vendor = tmp_path / "famseg" / "reporting" / "vendor"
        vendor.mkdir(parents=True)
        digest = base64.b64encode(hashlib.sha512(packed()).digest()).decode()
        wanted = {
            "name": "@niivue/niivue",
            "version": "1",
            "address": f"http://127.0.0.1:{server.server_port}/niivue-1.tgz",
            "integrity": f"sha512-{digest}",
            "member": "package/dist/niivue.umd.js",
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
        }
        (vendor / "niivue.json").write_text(json.dumps(wanted))
        yield tmp_path
        server.shutdown()


def run(sources, *words):
    command = [sys.executable, str(SCRIPT), *words, "--into", str(sources)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_viewer_is_fetched_once(sources):
    target = sources / "famseg" / "reporting" / "vendor" / "niivue.umd.js"
    assert run(sources).returncode == 0
    assert target.read_bytes() == CONTENT
    again = run(sources)
    assert (again.returncode, "is there" in again.stdout) == (0, True)


def test_a_file_takes_the_place_of_the_registry(sources, tmp_path):
    package = tmp_path / "mine.tgz"
    package.write_bytes(packed())
    assert run(sources, str(package)).returncode == 0


@pytest.mark.parametrize("content", [packed(b"other"), b"no archive", b""])
def test_what_has_another_hash_is_refused(sources, tmp_path, content):
    package = tmp_path / "mine.tgz"
    package.write_bytes(content)
    done = run(sources, str(package))
    assert done.returncode == 1
    assert "the sha512 of the package is not that of niivue.json" in done.stderr
    assert not (sources / "famseg" / "reporting" / "vendor" / "niivue.umd.js").exists()


def test_without_a_registry_one_line_says_what_to_do(sources, tmp_path):
    (tmp_path / "served" / "niivue-1.tgz").unlink()
    done = run(sources)
    assert done.returncode == 1
    assert "Give the file: python requirements/viewer.py niivue-1.tgz" in done.stderr
    assert "Traceback" not in done.stderr
