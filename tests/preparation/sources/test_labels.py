"""Label maps: which of their labels is the skull."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from famseg.messages import InputError
from famseg.preparation import Scan, Settings, find_sources
from famseg.preparation.sources._labels import chosen_labels
from famseg.preparation.sources._read import understand
from famseg.preparation.steps._bone import find_bone

LABELS = np.zeros((20, 20, 20), np.uint8)
LABELS[2:18, 2:18, 2:18] = 3
LABELS[3:17, 3:17, 3:17] = 2
LABELS[6:14, 6:14, 6:14] = 1
NAMES = {1: "Brain", 2: "Skull", 3: "Skin"}


def slicer(path: Path, names: dict[int, str], array: np.ndarray = LABELS) -> Path:
    """Write a segmentation as 3D Slicer does."""
    segments = "".join(
        f"Segment{i}_ID:=Segment_{i}\nSegment{i}_Name:={name}\nSegment{i}_LabelValue:={label}\n"
        for i, (label, name) in enumerate(names.items())
    )
    size = " ".join(map(str, array.shape))
    header = (
        f"NRRD0004\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {size}\nspace directions: (4,0,0) (0,4,0) (0,0,4)\nspace origin: (0,0,0)\n"
        f"encoding: raw\n{segments}\n"
    )
    path.write_bytes(header.encode() + array.tobytes("F"))
    return path


def total_segmentator(path: Path, names: dict[int, str]) -> Path:
    """Write a label map with names in the header, as TotalSegmentator does."""
    rows = "".join(
        f'<Label Key="{label}" Red="1" Green="1" Blue="1" Alpha="1"><![CDATA[{name}]]></Label>'
        for label, name in names.items()
    )
    image = nibabel.Nifti1Image(LABELS, np.diag([4.0, 4, 4, 1]))
    text = f'<?xml version="1.0"?><CaretExtension><LabelTable>{rows}</LabelTable></CaretExtension>'
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, text.encode()))
    nibabel.save(image, path)
    return path


def read(path: Path) -> Scan:
    return find_sources(path).sources[0].read()


def bone(scan: Scan, label: str | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    found = find_bone(scan.volume.array, scan.kind, (4, 4, 4), Settings(label=label), scan.segments)
    return found.mask, found.notes


def mask_scan(array: np.ndarray = LABELS, segments: dict[int, str] | None = None) -> Scan:
    from famseg.volumes import Volume

    return Scan(Volume(array, np.eye(4)), "mask", segments=segments or {})


def test_several_labels_and_no_choice_are_a_question() -> None:
    with pytest.raises(InputError, match=r"^a label map in .* there are the labels 1, 2, 3; give"):
        bone(mask_scan())
    with pytest.raises(InputError, match=r"labels 1 \(left\), 2 \(right\), 3; give it"):
        bone(mask_scan(segments={1: "left", 2: "right"}))


@pytest.mark.parametrize(
    ("label", "taken"), [("2", [2]), ("skull", [2]), ("SKULL, brain", [1, 2]), ("3,1", [1, 3])]
)
def test_the_choice_is_taken(label: str, taken: list[int]) -> None:
    mask, notes = bone(mask_scan(segments=NAMES), label)
    np.testing.assert_array_equal(mask, np.isin(LABELS, taken))
    assert notes[0].startswith("Of 3 labels ")


def test_a_choice_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"no voxel has the label 7: there are the labels 1, 2, 3"):
        bone(mask_scan(), "7")
    with pytest.raises(InputError, match=r"no label of the name 'bone': there are .*2 \(Skull\)"):
        bone(mask_scan(segments=NAMES), "bone")
    with pytest.raises(InputError, match=r"several labels of the name 'sk': "):
        bone(mask_scan(segments=NAMES), "sk")


@pytest.mark.parametrize("label", [None, "skull"])
def test_segments_of_slicer(label: str | None, tmp_path: Path) -> None:
    scan = read(slicer(tmp_path / "head.seg.nrrd", {2: "Skull", 1: "Brain", 3: "Skin"}))
    assert scan.segments == NAMES
    mask, notes = bone(scan, label)
    np.testing.assert_array_equal(mask, LABELS == 2)
    if label is None:
        assert notes == ("Of 3 labels the one named 'Skull' (2) was taken.",)


def test_two_skulls_are_a_question() -> None:
    with pytest.raises(InputError, match=r"in which the label of the skull is unknown"):
        bone(mask_scan(segments={1: "skull left", 2: "skull right", 3: "Skin"}))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_names_of_total_segmentator(ending: str, tmp_path: Path) -> None:
    scan = read(total_segmentator(tmp_path / f"head{ending}", {1: "brain", 2: "skull"}))
    assert scan.segments == {1: "brain", 2: "skull"}
    np.testing.assert_array_equal(bone(scan)[0], LABELS == 2)


def test_numbers_of_total_segmentator() -> None:
    array = np.where(LABELS == 2, 91, np.where(LABELS == 1, 90, LABELS)).astype(np.uint8)
    np.testing.assert_array_equal(bone(mask_scan(array), "skull")[0], LABELS == 2)
    with pytest.raises(InputError, match=r"; 91 is the skull in the numbering of TotalSegmentator"):
        bone(mask_scan(array))
    with pytest.raises(InputError, match=r"no label of the name 'skull': there are"):
        bone(mask_scan(), "skull")


def test_one_label_needs_no_choice() -> None:
    one = (LABELS == 2) * np.uint8(255)
    for label in (None, "skull", "255"):
        np.testing.assert_array_equal(bone(mask_scan(one), label)[0], one > 0)
    with pytest.raises(InputError, match=r"no voxel has the label 2: there is the label 255"):
        bone(mask_scan(one), "2")


def test_maps_of_many_structures_are_no_scans() -> None:
    many = np.zeros((64, 64, 64), np.uint8)
    for number in range(1, 118):
        i, j = divmod(number - 1, 12)
        many[6 * i : 6 * i + 6, 5 * j : 5 * j + 5, 4:60] = number
    assert understand(many)[0] == "mask"
    noise = np.random.default_rng(0).integers(0, 117, (64, 64, 64)).astype(np.uint8)
    assert understand(noise)[0] == "intensity"


def test_what_is_no_label_map_is_left_alone() -> None:
    for array in (np.float32([[[0, 0.5, 1]]]), np.int16([[[-1, 1, 2]]]), np.zeros((2, 2, 2))):
        assert chosen_labels(array, {}, "2") == (array, ())


def test_labels_that_are_none() -> None:
    with pytest.raises(InputError, match=r"label '2,': give numbers or names, separated by commas"):
        Settings(label="2,")
