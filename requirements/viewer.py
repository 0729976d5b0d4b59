"""Fetch NiiVue, which draws the interactive views of reports, into the sources.

    make viewer        (or: python requirements/viewer.py [PACKAGE.tgz] [--into SOURCES])

Taken from the npm package by the version and hash in ``famseg/reporting/vendor/niivue.json``, so
that node is not needed. It is part of wheels and images and never committed; without it reports
show images only. Give the package as a file where the index cannot be reached. The standard library
is all that this needs: images are built with it before anything is installed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

VENDOR = Path("famseg", "reporting", "vendor")
ROOT = Path(__file__).resolve().parents[1]
LARGEST = 64 * 2**20
TIMEOUT_S = 60.0


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, nargs="?", help="the npm package as a file")
    parser.add_argument("--into", type=Path, default=ROOT, help="the sources it is put into")
    options = parser.parse_args()
    folder = options.into / VENDOR
    wanted = json.loads((folder / "niivue.json").read_text())
    target = folder / Path(wanted["member"]).name
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == wanted["sha256"]:
        print(f"{target}: is there")
        return
    try:
        packed = options.package.read_bytes() if options.package else fetch(wanted["address"])
        content = member(packed, wanted)
    except (OSError, ValueError, KeyError, tarfile.TarError, urllib.error.URLError) as error:
        sys.exit(
            f"{wanted['name']} {wanted['version']}: cannot be had ({error}). Give the file: "
            f"python requirements/viewer.py {Path(wanted['address']).name}"
        )
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(content)
    os.replace(part, target)  # noqa: PTH105  # also over an older one on Windows
    print(f"{target}: {wanted['name']} {wanted['version']}, {len(content)} bytes")


def fetch(address: str) -> bytes:
    """Return what lies at an address."""
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:  # noqa: S310  # https, above
        content: bytes = answer.read(LARGEST + 1)
    return content


def member(packed: bytes, wanted: dict[str, str]) -> bytes:
    """Return the wanted file of a package whose hash is right."""
    kind, _, digest = wanted["integrity"].partition("-")
    if base64.b64encode(hashlib.new(kind, packed).digest()).decode() != digest:
        raise ValueError(f"the {kind} of the package is not that of niivue.json")
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        file = archive.extractfile(wanted["member"])
        if file is None:
            raise ValueError(f"the package holds no file {wanted['member']}")
        content = file.read()
    if hashlib.sha256(content).hexdigest() != wanted["sha256"]:
        raise ValueError("the sha256 of the file is not that of niivue.json")
    return content


if __name__ == "__main__":
    main()
