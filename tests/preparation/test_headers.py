"""Volumes whose headers are unusual, as ``famseg prepare`` reads them."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from famseg.messages import InputError
from famseg.preparation import Scan, Settings, find_sources, prepare_scan
from famseg.volumes import Volume

N, MM = 48, 4.0
AFFINE = np.diag([MM, MM, MM, 1.0])


def ball(levels: tuple[float, float, float] = (-1000, 40, 1000)) -> np.ndarray:
    """A hollow ball of bone, soft tissue in and around it, with a lump that points right."""
    x, y, z = np.meshgrid(*[np.arange(N) - (N - 1) / 2] * 3, indexing="ij")
    distance = np.sqrt(x**2 + y**2 + z**2)
    values = np.where(distance < 20, levels[1], levels[0])
    values[((distance < 18) & (distance > 14)) | ((x - 14) ** 2 + y**2 + z**2 < 25)] = levels[2]
    return values


def read(path: Path) -> Scan:
    (source,) = find_sources(path.parent).sources
    return source.read()


def without_qform(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into("<h", content, 252, 0)
    path.write_bytes(content)
    return path


def tilted(values: np.ndarray, degrees: float, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Values on a grid whose slices are moved along y as by a tilted gantry, and its affine."""
    affine = AFFINE.copy()
    affine[1, 2] = np.tan(np.deg2rad(degrees)) * MM
    affine[1, 3] = -affine[1, 2] * (N - 1) / 2
    to_index = np.linalg.inv(AFFINE) @ affine
    moved = ndimage.affine_transform(
        values, to_index[:3, :3], to_index[:3, 3], order=order, cval=float(values.min())
    )
    return moved, affine


def bone_dice(scan: Scan, reference: np.ndarray, above: float) -> float:
    """Dice with the reference on the grid of the scan."""
    to_index = np.linalg.inv(AFFINE) @ scan.volume.affine
    expected = ndimage.affine_transform(
        (reference > above).astype(float),
        to_index[:3, :3],
        to_index[:3, 3],
        output_shape=scan.volume.array.shape,
        order=1,
    )
    a, b = scan.volume.array > above, expected > 0.5
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("degrees", [0.2, 15.0, -25.0])
def test_sheared_axes_are_resampled(degrees: float, tmp_path: Path) -> None:
    values, affine = tilted(ball(), degrees, 1)
    path = tmp_path / "head.nii"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), affine), path)
    result = read(without_qform(path))
    axes = result.volume.affine[:3, :3] / MM
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-3)
    assert result.kind == "hounsfield"
    assert result.volume.array.dtype == np.int16
    assert result.notes == (
        f"The header's axes are up to {abs(degrees):.1f} degrees off right angles (a tilted "
        "gantry, or a registration): resampled onto a grid at right angles.",
    )
    assert bone_dice(result, ball(), 226) > 0.95


def test_a_sheared_mask_stays_a_mask(tmp_path: Path) -> None:
    values, affine = tilted(ball((0, 0, 1)), 15, 0)
    path = tmp_path / "head.nii"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.uint8), affine), path)
    result = read(without_qform(path))
    assert result.kind == "mask"
    assert np.unique(result.volume.array).tolist() == [0, 1]
    assert bone_dice(result, ball((0, 0, 1)), 0.5) > 0.85


def test_matrices_that_disagree_are_noted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ball().astype(np.int16), AFFINE)
    image.set_qform(AFFINE, 1)
    nibabel.save(image, tmp_path / "head.nii")
    assert read(tmp_path / "head.nii").notes == ()
    image.set_sform(np.diag([-1.0, 1, 1, 1]) @ AFFINE, 2)
    nibabel.save(image, tmp_path / "head.nii")
    (note,) = read(tmp_path / "head.nii").notes
    assert note.startswith("The two matrices of the header disagree (sform and qform)")


@pytest.mark.parametrize(
    ("space", "anatomical"),
    [
        ("space: 3D-right-handed", False),
        ("space: scanner-xyz", False),
        ("space dimension: 3", False),
        ("space: left-posterior-superior", True),
        ("space: RAS", True),
    ],
)
def test_axes_without_anatomy_are_noted(space: str, anatomical: bool, tmp_path: Path) -> None:
    (tmp_path / "head.nrrd").write_bytes(
        f"NRRD0004\ntype: short\ndimension: 3\n{space}\nsizes: {N} {N} {N}\nspace directions: "
        f"(4,0,0) (0,4,0) (0,0,4)\nspace origin: (0,0,0)\nendian: little\n"
        "encoding: raw\n\n".encode()
        + ball().astype(np.int16).tobytes("F")
    )
    notes = read(tmp_path / "head.nrrd").notes
    assert [n.startswith("The header does not say where right, front and top") for n in notes] == (
        [] if anatomical else [True]
    )


def test_a_pair_is_one_subject(tmp_path: Path) -> None:
    values = ball().astype(np.int16)
    nibabel.save(nibabel.Nifti1Pair(values, AFFINE), tmp_path / "head.img")
    found = find_sources(tmp_path)
    assert [source.subject for source in found.sources] == ["head"]
    assert {file.name for file in found.sources[0].files} == {"head.hdr", "head.img"}
    np.testing.assert_array_equal(found.sources[0].read().volume.array, values)


def test_analyze_is_refused_once(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(ball().astype(np.int16), AFFINE), tmp_path / "head.img")
    found = find_sources(tmp_path)
    assert [refused.reason for refused in found.refused] == [
        "Analyze files do not tell left from right: convert to NIfTI or NRRD"
    ]


def test_a_grid_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    scan = Scan(Volume(ball((0, 0, 1)).astype(np.uint8), np.diag([4e3, 4e3, 4e3, 1.0])), "mask")
    with pytest.raises(
        InputError, match=r"the grid would have .* is the spacing of the scan in mm"
    ):
        prepare_scan(scan, Settings(size=None, spacing_mm=2.0, crop="none"))
