"""Targets of fuzzing: each passes bytes to a reader, which may only accept or refuse them."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from famseg.config import read
from famseg.config._yaml import parse, parse_value
from famseg.datasets import read_manifest
from famseg.datasets.images import read_mat, read_pickle
from famseg.datasets.images._folder import _read_file
from famseg.datasets.images._idx import _read_idx
from famseg.datasets.skulls._cache import _load
from famseg.datasets.text import read_rows
from famseg.files import TAR_DAMAGED, open_tar
from famseg.meshes import load_mesh
from famseg.messages import InputError
from famseg.preparation import find_sources
from famseg.preparation.dicom import read_header
from famseg.preparation.sources import Item, Opener
from famseg.tracking._record import _parse
from famseg.volumes import read_volume

Target = Callable[[bytes], object]
MOST_FAULTS = 50_000  # a document of 256 KiB may contain many


@contextlib.contextmanager
def _file(content: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="famseg-fuzz-", dir=_FOLDER) as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        yield path


_FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a random folder in it


def in_file(name: str, reader: Callable[[Path], object]) -> Target:
    """Return a target that reads a file with a given name."""

    def target(content: bytes) -> None:
        with _file(content, name) as path:
            reader(path)

    return target


def configuration(content: bytes) -> None:
    """A document from its text to the sections of the skull pipeline."""
    from famseg._pipelines.skull import Config

    with _file(content, "a.yaml") as path:
        read(str(path)).validate(Config)


def _text(content: bytes) -> None:
    parse(content.decode(errors="replace"), "a.yaml")


def _override(content: bytes) -> None:
    parse_value(content.decode(errors="surrogateescape"), ("a",))


def _cifar(content: bytes) -> None:
    for value in read_pickle(content, "a").values():
        np.asarray(value)


def _sources(path: Path) -> None:
    for source in find_sources(path).sources:
        source.read()


def _dicom(path: Path) -> None:
    with Opener() as opener:
        read_header(Item(PurePosixPath("a.dcm"), path), opener)


def _tar(path: Path) -> None:
    try:
        with open_tar(path, 2**24) as members:
            for member, archive in members:
                archive.extractfile(member)
    except (OSError, *TAR_DAMAGED):
        pass


def _samples(path: Path, form: Literal["tsv", "jsonl"]) -> None:
    rows, _ = read_rows(path, form=form, columns=("a", "b"), label="l")
    for row in rows:
        "".join(row.sentences).encode()


def _checkpoint(path: Path) -> None:
    from famseg.files import NotPlainError, load_plain

    with contextlib.suppress(NotPlainError):
        load_plain(path)


TARGETS: dict[str, Target] = {
    "config": configuration,
    "yaml": _text,
    "override": _override,
    "pickle": _cifar,
    "idx": in_file("a", lambda path: _read_idx(path, 3)),
    "mat": in_file("a.mat", lambda path: read_mat(path, ("X", "y"))),
    "nifti": in_file("a.nii", read_volume),
    "nifti_gz": in_file("a.nii.gz", read_volume),
    "nrrd": in_file("a.nrrd", read_volume),
    "nhdr": in_file("a.nhdr", read_volume),
    "mha": in_file("a.mha", read_volume),
    "mhd": in_file("a.mhd", read_volume),
    "stl": in_file("a.stl", load_mesh),
    "ply": in_file("a.ply", load_mesh),
    "inv3": in_file("a.inv3", _sources),
    "zip": in_file("a.zip", _sources),
    "tar": in_file("a.tar", _tar),
    "dicom": in_file("a.dcm", _dicom),
    "series": in_file("a.dcm", _sources),
    "cache": in_file("a.npz", _load),
    "png": in_file("a.png", lambda path: _read_file(path, 3, 8)),
    "jpeg": in_file("a.jpg", lambda path: _read_file(path, 1, 8)),
    "jsonl": in_file("a.jsonl", lambda path: _samples(path, "jsonl")),
    "tsv": in_file("a.tsv", lambda path: _samples(path, "tsv")),
    "metrics": lambda content: _parse(content),
    "manifest": in_file("a.csv", read_manifest),
    "checkpoint": in_file("a.pt", _checkpoint),
}


def check(name: str, content: bytes) -> None:
    """Pass bytes to a target; anything but InputError, with one line per fault, is a finding."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[name](content)
    except InputError as error:
        faults = error.faults
        assert faults, "an error that says nothing"
        assert len(faults) < MOST_FAULTS
        for fault in faults:
            assert fault.strip(), "an empty line"
            assert "\n" not in fault, f"several lines: {fault!r}"
            assert len(fault) < 20_000, "a line that nobody reads"
            fault.encode()
