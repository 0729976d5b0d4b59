"""Nothing of who was scanned leaves the preparation: not by a file, a message or the log."""

from __future__ import annotations

import gzip
import io
import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from dicom_maker import PERSONAL, ct
from PIL import Image
from pydicom.dataset import Dataset

from famseg.preparation import (
    Settings,
    find_sources,
    plan_run,
    prepare_folder,
    prepare_scan,
)

SECRETS = (
    *("erika", "mustermann", "pid4711", "heidestrasse", "acc0815", "musterstadt", "sauerbruch"),
    *("roentgen", "19640812", "1964-08-12", "12.08.1964", "20211103", "study99", "hausarzt"),
    *("geheim", "nebenbefund", "sn-777", "kommentar"),
)
FOLDERS = ("Mustermann_Erika_19640812", "12.08.1964 PID4711", "Dr. Hausarzt", "SN-777")


def mark(number: int, data: Dataset) -> None:
    """Put personal texts where headers, overlays and vendors keep them."""
    private = data.private_block(0x0011, "Mustermann", create=True)
    private.add_new(0x01, "LO", "Geheim Erika")
    private.add_new(0x02, "UN", b"Geheim Mustermann")
    data.ContentCreatorName, data.DeviceSerialNumber = "Hausarzt^Egon", "SN-777"
    data.PatientComments = data.ImageComments = "Kommentar zu Erika"
    data.StudyDescription = "Nebenbefund Mustermann"
    request = Dataset()
    request.RequestedProcedureDescription = "Geheim"
    data.RequestAttributesSequence = [request]
    other = Dataset()
    other.PatientID = "PID4711"
    data.OtherPatientIDsSequence = [other]
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.4711.{number}"
    # An image over the image, such as a name that is burned in.
    data.add_new(0x60000010, "US", data.Rows)
    data.add_new(0x60000011, "US", data.Columns)
    data.add_new(0x60000022, "LO", "Erika Mustermann")
    data.add_new(0x60000040, "CS", "G")
    data.add_new(0x60000050, "SS", [1, 1])
    data.add_new(0x60000100, "US", 1)
    data.add_new(0x60000102, "US", 0)
    data.add_new(0x60003000, "OW", b"\xff" * (data.Rows * data.Columns // 8))


class Result(NamedTuple):
    """What a run wrote and said."""

    out: Path
    said: str


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Prepare a person's series under personal names, beside some that cannot be."""
    root, out = (tmp_path_factory.mktemp(name) for name in ("Erika Mustermann", "out"))
    whole = ct(tags=dict(PERSONAL), edit=mark)
    for place, folder in enumerate(FOLDERS):
        series = ct(16, tags={**PERSONAL, "SeriesNumber": 5 + place}, edit=mark)
        (whole if place == 0 else series).write(root / folder)
    for file in (root / FOLDERS[0]).iterdir():
        file.rename(file.with_name(f"Erika {file.name}"))
    broken = ct(8, tags=dict(PERSONAL), edit=mark).write(root / "Mustermann broken")
    for file in broken.iterdir():
        file.write_bytes(file.read_bytes()[:-3000])
    ct(8, tags={**PERSONAL, "PixelSpacing": [0, 0]}, edit=mark).write(root / "ERIKA flat")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        found = find_sources(root)
        settings = Settings(size=32, spacing_mm=7.0)
        plan = plan_run(found, root, out, {"size": 32})
        step = partial(prepare_scan, settings=settings, template=None)
        outcome = prepare_folder(plan, step, workers=0)
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
    return Result(out, f"{stream.getvalue()} {outcome.records!r} {plan!r}".replace(str(root), ""))


@pytest.mark.slow
def test_no_file_holds_anything_personal(result: Result) -> None:
    paths = [path for path in result.out.rglob("*") if path.is_file()]
    assert len([path for path in paths if path.suffix == ".gz"]) == len(FOLDERS)
    for path in paths:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        text = f"{path.relative_to(result.out)} {content.decode('latin-1')}".casefold()
        assert [secret for secret in SECRETS if secret in text] == [], path.name
        assert "1.2.4711" not in text


@pytest.mark.slow
def test_no_message_holds_anything_personal(result: Result) -> None:
    # The plan itself names the files that are to be read; what is shown of it must not.
    said = result.said.split("Plan(")[0].casefold()
    assert "cannot be decoded" in said or "cut short" in said
    assert [secret for secret in SECRETS if secret in said] == []
    assert "1.2.4711" not in said


@pytest.mark.slow
def test_overlays_are_in_no_image(result: Result, tmp_path: Path) -> None:
    ct().write(tmp_path / "plain")
    settings = Settings(size=32, spacing_mm=7.0)
    plan = plan_run(find_sources(tmp_path / "plain"), tmp_path / "plain", tmp_path / "out", {})
    prepare_folder(plan, partial(prepare_scan, settings=settings, template=None), workers=0)
    plain = Image.open(tmp_path / "out" / "thumbnails" / "plain.png").convert("RGB")
    marked = [Image.open(path).convert("RGB") for path in (result.out / "thumbnails").iterdir()]
    assert [image.tobytes() == plain.tobytes() for image in marked].count(True) == 1
