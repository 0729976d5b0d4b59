"""Objects next to or in a head, and scans without a head: kinds, flags, use in training."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from famseg.datasets import read_manifest
from famseg.preparation import (
    Prepared,
    Scan,
    Settings,
    find_sources,
    plan_run,
    prepare_folder,
    prepare_scan,
)
from famseg.preparation.steps._clean import head_envelope
from famseg.preparation.steps._plates import Body, surroundings
from famseg.preparation.steps._vertex import vault_top
from famseg.volumes import Volume, write_volume

MM = 4.0
SHAPE = (64, 72, 60)
SETTINGS = Settings(size=None, spacing_mm=MM)
X, Y, Z = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * MM for n in SHAPE], indexing="ij")


def head(x0: float = 0.0, y0: float = 0.0) -> np.ndarray:
    """HU of a head: a shell of bone of 8 mm with a base, brain, a scalp of 8 mm."""
    radius = np.sqrt(((X - x0) / 66) ** 2 + ((Y - y0) / 84) ** 2 + (Z / 72) ** 2)
    outer = np.sqrt(((X - x0) / 74) ** 2 + ((Y - y0) / 92) ** 2 + (Z / 80) ** 2)
    values = np.where(outer < 1, 40.0, -1000.0)
    values[(radius < 1) & ((radius > 0.88) | (np.abs(Z + 48) < 5)) & (Z > -54)] = 1000
    return values


def prepared(values: np.ndarray, *, kind: str = "hounsfield") -> Prepared:
    affine = np.diag([MM, MM, MM, 1.0])
    return prepare_scan(Scan(Volume(values.astype(np.int16), affine), kind), SETTINGS)


def body_of(values: np.ndarray) -> Body:
    return Body.of(values, -500.0, (MM, MM, MM))


@pytest.fixture(scope="module")
def plain() -> Prepared:
    return prepared(head())


def dice(one: Prepared, other: Prepared) -> float:
    a, b = one.skull.array, other.skull.array
    if a.shape != b.shape:
        return 0.0
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def kinds(found: Prepared) -> tuple[str, ...]:
    assert [f.text for f in found.quality.findings] == [
        text for text in found.quality.warnings if text in {f.text for f in found.quality.findings}
    ]
    return found.quality.flags


def test_a_plain_head_has_no_flags(plain: Prepared) -> None:
    assert kinds(plain) == ()
    assert plain.quality.usable


def table(values: np.ndarray, *, gap_mm: float) -> np.ndarray:
    """A head on the shell of a couch, which bends up at both sides, foam below."""
    values = values.copy()
    back = -92 - gap_mm
    plate = np.abs(Y - (back + (X / 40) ** 2)) < 3
    values[plate & (values < 0)] = 500
    values[(back - 4 > Y) & (values < 0)] = -950
    return values


@pytest.mark.parametrize("gap_mm", [-4.0, 0.0, 4.0])
def test_a_table_goes_though_the_head_lies_on_it(gap_mm: float, plain: Prepared) -> None:
    found = prepared(table(head(), gap_mm=gap_mm))
    assert dice(found, plain) > 0.99
    assert found.quality.removed_ml["table and holder"] > 20


def test_a_table_that_meets_the_bone_is_flagged(plain: Prepared) -> None:
    values = head()
    values[(np.abs(Y + 88) < 5) & (np.abs(X) < 110) & (np.abs(Z) < 30)] = 500
    found = prepared(values)
    assert "table" in kinds(found)
    assert found.quality.usable
    assert found.skull.array.sum() < 1.05 * plain.skull.array.sum()


def test_a_holder_above_the_head_does_not_lift_the_vertex(plain: Prepared) -> None:
    """A plate behind the head reaches higher than the vault: the cut is measured from the vault."""
    values = table(head(), gap_mm=-4.0)
    values[(np.abs(Y + 96) < 3) & (np.abs(X) < 60) & (Z > 0)] = 500
    found = prepared(values)
    assert found.quality.box_mm[2] == pytest.approx(plain.quality.box_mm[2], abs=MM)
    assert dice(found, plain) > 0.98


def test_the_front_wall_of_a_large_frontal_sinus_belongs_to_the_head() -> None:
    """6 mm of bone and skin in front of 20 mm of air: no solid body, and 14 mm or more from one."""
    x, y, z = np.meshgrid(*[(np.arange(n) - n // 2) * 2.0 for n in (70, 90, 70)], indexing="ij")
    head = (x / 60) ** 2 + (y / 80) ** 2 + (z / 60) ** 2 < 1
    sinus = (np.abs(x) < 16) & (np.abs(z) < 12) & (y > 50)
    inner = (x / 54) ** 2 + (y / 74) ** 2 + (z / 54) ** 2 < 1
    values = np.where(head & ~(sinus & inner), 40, -1000).astype(np.int16)
    envelope = head_envelope(Body.of(values, -500.0, (2.0, 2.0, 2.0)), values.shape)
    assert envelope is not None
    assert envelope[35, 45:85, 35].all(), "from the middle to the skin of the forehead"


def on_the_vault() -> np.ndarray:
    """A plate of 8 mm on the vault, 28 mm high: without soft tissue it is not detectable."""
    mask = (head() > 226).astype(float)
    mask[(np.abs(Y + 20) < 5) & (np.abs(X) < 40) & (Z > 40) & (Z < 98)] = 1
    mask[np.sqrt((X / 57) ** 2 + (Y / 73) ** 2 + (Z / 62) ** 2) < 1] = 0
    return mask


def test_what_stands_on_the_vault_does_not_lift_the_vertex() -> None:
    bare = prepared(np.minimum(on_the_vault(), head() > 226), kind="mask")
    found = prepared(on_the_vault(), kind="mask")
    assert found.quality.box_mm[2] == pytest.approx(bare.quality.box_mm[2], abs=MM)
    assert found.quality.volume_ml == pytest.approx(bare.quality.volume_ml, rel=0.03)
    assert found.quality.flags == ("table",)
    assert found.quality.removed_ml["above the vault"] > 10
    assert "stood on the vault and were removed" in found.quality.findings[0].text


@pytest.mark.parametrize("missing", ["nothing", "side", "top", "cut"])
def test_the_vertex_is_the_highest_bone_of_the_vault(missing: str) -> None:
    mask = head() > 226
    if missing == "side":
        mask[(X > 20) & (np.abs(Y) < 50) & (Z > -10)] = False
    elif missing == "top":
        mask[(X**2 + Y**2 < 45**2) & (Z > 0)] = False
    elif missing == "cut":
        mask[:, :, 40:] = False
    top = int(np.flatnonzero(mask.any(axis=(0, 1)))[-1])
    found = vault_top(mask, (MM, MM, MM))
    assert found is None if missing in ("top", "cut") else abs(found - top) <= 1
    assert prepared(mask, kind="mask").quality.removed_ml.get("above the vault", 0) == 0


def test_bones_in_the_open_nasal_cavity_are_no_plates(plain: Prepared) -> None:
    """They stand in air that leads outside, far from the solid body, and not outside the head."""
    nose = (np.abs(X) < 18) & (Y > 10) & (Y < 100) & (Z < -8) & (Z > -46)
    inside = (X / 66) ** 2 + (Y / 84) ** 2 + (Z / 72) ** 2 < 1
    septum = nose & (np.abs(X) < 3) & inside
    values = head()
    values[nose] = -1000
    values[septum] = 1000
    found = surroundings(values > 226, values, body_of(values), hounsfield=True)
    assert found is not None
    assert not found.plates.any()
    beside = table(values, gap_mm=-4.0)
    found = surroundings(beside > 226, beside, body_of(beside), hounsfield=True)
    assert found is not None
    assert found.plates.any()
    assert found.without_plates(septum).sum() == septum.sum()


def test_a_frame_is_named_and_goes(plain: Prepared) -> None:
    values = head()
    ring = (np.abs(np.maximum(np.abs(X) / 100, np.abs(Y) / 118) - 1) < 0.03) & (np.abs(Z) < 9)
    pins = (np.abs(Y - 20) < 3) & (np.abs(Z) < 3) & (np.abs(X) > 62) & (np.abs(X) < 102)
    values[ring | pins] = 3000
    found = prepared(values)
    assert "frame" in kinds(found)
    assert found.quality.box_mm[0] == pytest.approx(plain.quality.box_mm[0], abs=2 * MM)
    assert found.quality.volume_ml == pytest.approx(plain.quality.volume_ml, rel=0.02)


def test_metal_in_the_bone_is_flagged(plain: Prepared) -> None:
    values = head()
    values[(values == 1000) & (X > 20) & (Y > 0) & (Z > 20)] = 3071
    found = prepared(values)
    assert kinds(found) == ("metal",)
    assert dice(found, plain) == 1
    (finding,) = found.quality.findings
    assert "above 3000 HU, 0 to 50 mm below the vertex" in finding.text


def streaked(*, streaks: bool) -> np.ndarray:
    """A clip in the wall on the right, with or without bands across the brain of its slices."""
    values = head()
    near = np.abs(Z - 20) < 10
    values[(np.abs(X - 60) < 5) & (np.abs(Y) < 5) & near] = 3071
    if streaks:
        bands = (np.abs(Y - 0.2 * (X - 60)) < 5) | (np.abs(Y + 0.3 * (X - 60)) < 5)
        values[bands & near & (values == 40)] = -400
    return values


def test_streaks_of_metal_are_named() -> None:
    found = prepared(streaked(streaks=True))
    assert kinds(found) == ("metal", "streaks")
    (text,) = (f.text for f in found.quality.findings if f.kind == "streaks")
    assert text.startswith("Streaks of metal cross the head 44 to 56 mm below the vertex: ")
    assert kinds(prepared(streaked(streaks=False))) == ("metal",)


def test_metal_is_not_told_without_hu() -> None:
    values = head() + 1000
    values[(values == 2000) & (X > 20) & (Y > 0) & (Z > 20)] = 4071
    assert kinds(prepared(values, kind="intensity")) == ()


def test_a_second_head_is_named(plain: Prepared) -> None:
    values = np.concatenate([head(), head()])
    found = prepared(values)
    assert kinds(found) == ("second_head",)
    assert found.quality.volume_ml == pytest.approx(plain.quality.volume_ml, rel=0.01)


def test_a_second_skull_of_a_mask_is_named() -> None:
    mask = np.concatenate([head() > 226, head() > 226])
    assert kinds(prepared(mask, kind="mask")) == ("second_head",)


def test_vessels_in_the_cavity_are_named() -> None:
    values = head()
    values[((X - 8) ** 2 + Y**2 < 100) & (Z > -48) & (Z < 48)] = 350
    found = prepared(values)
    assert kinds(found) == ("vessels",)
    assert found.quality.usable


def test_a_frontal_sinus_is_no_vessel() -> None:
    values = head()
    radius = np.sqrt((X / 66) ** 2 + (Y / 84) ** 2 + (Z / 72) ** 2)
    values[(radius < 0.82) & (radius > 0.75) & (Y > 40) & (np.abs(X) < 24) & (Z < 30)] = 1000
    assert "vessels" not in kinds(prepared(values))


def chest() -> np.ndarray:
    values = np.where((X / 110) ** 2 + (Y / 80) ** 2 < 1, 40.0, -1000.0)
    values[((np.abs(X) - 50) / 36) ** 2 + (Y / 55) ** 2 < 1] = -850
    values[X**2 + (Y + 50) ** 2 < 24**2] = 600
    return values


def test_a_chest_is_no_skull() -> None:
    found = prepared(chest())
    assert "implausible" in kinds(found)
    assert not found.quality.usable


def test_an_open_tube_is_no_skull() -> None:
    """A test phantom may have the size of a head: its rays to the top meet nothing."""
    mask = (X / 70) ** 2 + (Y / 90) ** 2 < 1
    mask &= (X / 60) ** 2 + (Y / 80) ** 2 > 1
    mask &= (np.abs(Z) < 80) & ((np.abs(X) > 20) | (np.abs(Y) < 50))
    found = prepared(mask, kind="mask")
    assert "implausible" in kinds(found)


def test_implausible_subjects_are_not_in_the_manifest(tmp_path: Path) -> None:
    root, out = tmp_path / "scans", tmp_path / "out"
    root.mkdir()
    metal = head()
    metal[(metal == 1000) & (X > 20) & (Y > 0) & (Z > 20)] = 3071
    for name, values in (("head", head()), ("metal", metal), ("chest", chest())):
        volume = Volume(values.astype(np.int16), np.diag([MM, MM, MM, 1.0]))
        write_volume(volume, root / f"{name}.nii")

    def run(*, keep: bool) -> list[tuple[str, tuple[str, ...]]]:
        plan = plan_run(find_sources(root), root, out, {}, keep_implausible=keep)
        outcome = prepare_folder(plan, partial(prepare_scan, settings=SETTINGS), workers=0)
        assert [r.subject for r in outcome.unusable] == ([] if keep else ["chest"])
        return [(s.id, s.flags) for s in read_manifest(out / "manifest.csv")]

    assert run(keep=False) == [("head", ()), ("metal", ("metal",))]
    assert [name for name, _ in run(keep=True)] == ["chest", "head", "metal"]
    assert "flags" in (out / "report.csv").read_text().splitlines()[0]


def test_surroundings_of_shells_are_none() -> None:
    values = np.where(head() > 226, 1000, -1000)
    assert surroundings(values > 226, values, body_of(values), hounsfield=True) is None
    assert head_envelope(body_of(values), values.shape) is None
