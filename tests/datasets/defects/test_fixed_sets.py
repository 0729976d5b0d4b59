"""Fixed sets of defects: written and read defects are equal, and changes are reported."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from famseg.datasets import (
    EvaluationDefectConfig,
    EvaluationSet,
    PreparedSkull,
    RegionDefect,
    SkullSubject,
    inject,
    phantom,
    read_fixed_set,
    scan_folder,
    write_fixed_set,
)
from famseg.messages import InputError
from famseg.volumes import Volume, read_volume, write_volume

AFFINE = np.diag([3.5, 3.5, 3.5, 1.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("skulls")
    for k in range(2):
        write_volume(Volume(phantom(k, 0), AFFINE), root / f"s{k}.nii.gz")
    return root


def write(folder, root, **options):
    return write_fixed_set(
        scan_folder(folder), root, classes=("bilateral", "random_1"), seed=1, **options
    )


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("holes")
    return write(folder, root)


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_parts_are_disjoint_and_make_up_the_skull(written):
    assert len(written.cases) == 4
    assert not written.failed
    for case in written.cases:
        complete, defective, implant, region = (
            read_volume(written.root / getattr(case, role)).array
            for role in ("complete", "defective", "implant", "region")
        )
        assert ((defective | implant) == complete).all()
        assert not (defective & implant).any()
        assert (implant == complete * region).all()
        assert case.volume_ml == pytest.approx(implant.sum() * 3.5**3 / 1000, abs=1e-3)
        assert case.area_cm2 == pytest.approx(case.area_target_cm2, rel=0.1)


def test_the_same_call_writes_the_same_bytes(folder, written, tmp_path):
    assert digests(tmp_path / "again") == {}
    again = write(folder, tmp_path / "again")
    assert again.sha256 == written.sha256
    assert digests(tmp_path / "again") == digests(written.root)


def test_an_interrupted_call_is_gone_on_with(folder, written, tmp_path):
    root = tmp_path / "set"
    write_fixed_set(scan_folder(folder)[:1], root, classes=("bilateral", "random_1"), seed=1)
    whole = write(folder, root)
    assert whole.kept == 2
    assert digests(root) == digests(written.root)


def test_other_settings_are_refused(folder, tmp_path):
    write(folder, tmp_path)
    with pytest.raises(InputError, match=r"roughness_mm"):
        write(folder, tmp_path, roughness_mm=2.0)


def test_a_subject_that_fails_is_listed_and_the_rest_goes_on(folder, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    write_volume(Volume(np.zeros((16, 16, 16), np.uint8), AFFINE), bad)
    subjects = [SkullSubject("bad", bad, "0"), *scan_folder(folder)[:1]]
    report = write_fixed_set(subjects, tmp_path / "set", classes=("random_1",))
    assert [case.subject for case in report.cases] == ["s0"]
    assert report.failed[0].subject == "bad"
    assert "all zero" in report.failed[0].reason


def test_files_that_changed_are_named(folder, tmp_path):
    report = write(folder, tmp_path)
    file = tmp_path / report.cases[0].implant
    file.write_bytes(file.read_bytes() + b"0")
    with pytest.raises(InputError, match=rf"{file.name}: its SHA-256 is .* the file has changed"):
        read_fixed_set(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match="there is no such file"):
        read_fixed_set(tmp_path)


def test_another_set_is_refused(written):
    with pytest.raises(InputError, match="this is another set"):
        read_fixed_set(written.root, sha256="0" * 64)


def test_an_evaluation_set_uses_exactly_these_holes(written):
    section = {"kind": "files", "root": str(written.root), "sha256": written.sha256}
    fixed = TypeAdapter(EvaluationDefectConfig).validate_python(section).build()
    skulls = [PreparedSkull(f"s{k}", phantom(k, 0), AFFINE) for k in range(2)]
    cases = EvaluationSet(skulls, fixed, seed=0)
    assert len(cases) == 4
    assert [item["subject"] for item in cases] == list(fixed.names())
    for item, case in zip(cases, fixed.cases, strict=True):
        defective = read_volume(written.root / case.defective).array
        assert (item["image"][0].numpy() == defective).all()


def test_every_hole_comes_from_the_seed_in_its_row(written):
    case = written.cases[1]
    skull = read_volume(written.root / case.complete).array
    rng = np.random.default_rng(case.seed)
    _, region = inject(skull, RegionDefect(case.where), (3.5,) * 3, rng)
    assert (read_volume(written.root / case.region).array == region).all()


def test_files_hold_no_time_and_are_whole(written):
    for path in written.root.rglob("*"):
        assert ".part" not in path.name
        if path.suffix == ".gz":
            assert path.read_bytes()[4:8] == bytes(4), "the time in a gzip header"


def test_several_holes_of_a_class_have_names_of_their_own(folder, tmp_path):
    report = write_fixed_set(
        scan_folder(folder)[:1], tmp_path, classes=("random_1",), per_subject=2, seed=3
    )
    assert [case.region for case in report.cases] == [
        "region/random_1/s0-1.nii.gz",
        "region/random_1/s0-2.nii.gz",
    ]
    assert report.cases[0].region_sha256 != report.cases[1].region_sha256
    assert read_fixed_set(tmp_path).names() == ("s0/random_1-1", "s0/random_1-2")


def test_one_hole_a_subject_is_named_by_the_subject(written):
    assert read_fixed_set(written.root, classes=("random_1",)).names() == ("s0", "s1")
    with pytest.raises(
        InputError, match=r"no defect of the classes \['random_2'\]: it has bilateral"
    ):
        read_fixed_set(written.root, classes=("random_2",))


def test_a_changed_source_is_cut_again(folder, written, tmp_path):
    subjects = scan_folder(folder)
    write(folder, tmp_path)
    changed = [replace(subjects[0], sha256="f" * 64), subjects[1]]
    report = write_fixed_set(changed, tmp_path, classes=("bilateral", "random_1"), seed=1)
    assert report.kept == 2
    assert {case.source_sha256 for case in report.cases if case.subject == "s0"} == {"f" * 64}


def test_a_class_that_a_skull_has_no_place_for_is_listed(tmp_path):
    cut = phantom(0, 0)
    cut[:, :, 40:] = 0
    write_volume(Volume(cut, AFFINE), tmp_path / "cut.nii.gz")
    report = write_fixed_set(
        scan_folder(tmp_path),
        tmp_path / "set",
        classes=("frontoorbital", "parietotemporal"),
        area_cm2=(60.0, 70.0),
    )
    assert [f"{f.subject} {f.where}" for f in report.failed] == ["cut frontoorbital"]
    assert report.failed[0].reason.startswith("no frontoorbital defect of 60 to 70 cm2 in 32")
    assert [case.where for case in report.cases] == ["parietotemporal"]


def test_a_source_in_other_axes_is_turned(folder, tmp_path):
    """Stored with other axes, the defects are the same."""
    source = read_volume(folder / "s0.nii.gz")
    turned = source.affine @ np.diag([-1.0, 1.0, -1.0, 1.0])
    turned[:3, 3] = source.affine[:3] @ [63, 0, 63, 1]
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / "s0.nii.gz"
    write_volume(Volume(source.array[::-1, :, ::-1] * 255, turned), path)
    one = write_fixed_set(scan_folder(folder)[:1], tmp_path / "one", classes=("random_1",))
    two = write_fixed_set(scan_folder(path.parent), tmp_path / "two", classes=("random_1",))
    assert one.cases[0].files() == two.cases[0].files()


def test_the_grid_may_be_larger_by_whole_voxels(written):
    fixed = read_fixed_set(written.root, classes=("random_1",))
    larger = AFFINE.copy()
    larger[:3, 3] = [-7.0, -3.5, 0.0]
    skulls = [
        PreparedSkull(f"s{k}", np.pad(phantom(k, 0), ((2, 2), (1, 3), (0, 4))), larger)
        for k in range(2)
    ]
    item = EvaluationSet(skulls, fixed, seed=0)[1]
    region = read_volume(written.root / fixed.cases[1].region).array
    assert (item["region"][0, 2:-2, 1:-3, :-4].numpy() == region).all()
    assert item["region"].sum() == region.sum()


def test_a_coarser_grid_takes_the_nearest_voxels(written):
    fixed = read_fixed_set(written.root, classes=("random_1",))
    skulls = [PreparedSkull(f"s{k}", phantom(k, 0, 32), np.diag([7.0] * 3 + [1.0])) for k in (0, 1)]
    for skull in skulls:  # grids share a corner, but their voxel centers differ
        skull.affine[:3, 3] = 1.75
    for item, case in zip(EvaluationSet(skulls, fixed, seed=0), fixed.cases, strict=True):
        region = read_volume(written.root / case.region).array
        assert int(item["region"].sum()) * 8 == pytest.approx(int(region.sum()), rel=0.05)
        assert (item["image"] < item["label"]).any()


def test_a_subject_without_a_hole_is_named(written):
    fixed = read_fixed_set(written.root)
    with pytest.raises(
        InputError,
        match=r"subject s7: .*defects\.csv has no defect for it: write a set with `famseg defects`",
    ):
        EvaluationSet([PreparedSkull("s7", phantom(7, 0), AFFINE)], fixed, seed=0)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"implant": "region"}, r"region/\S+: is not complete/\S+ inside region/\S+: write the"),
        ({"defective": "complete"}, r"complete/\S+: is not complete/\S+ outside region/\S+"),
    ],
)
def test_parts_that_do_not_belong_together_are_named(written, changes, fault):
    fixed = read_fixed_set(written.root, classes=("random_1",))
    case = fixed.cases[0]
    wrong = replace(case, **{role: getattr(case, other) for role, other in changes.items()})
    skulls = [PreparedSkull("s0", phantom(0, 0), AFFINE)]
    with pytest.raises(InputError, match=f"subject s0: .*{fault}"):
        EvaluationSet(skulls, replace(fixed, cases=(wrong,)), seed=0)


def rewrite(written, tmp_path, change):
    table = tmp_path / "defects.csv"
    table.write_text(change((written.root / "defects.csv").read_text()))
    return table


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda text: text.replace("subject,", "who,"),
            r"defects\.csv:1: the columns are not subj",
        ),
        (
            lambda text: text.replace(",1,", ",one,", 1),
            r"csv:2: number is 'one', not a number",
        ),
        (lambda text: text + text.splitlines()[1] + "\n", "2 rows for s0 bilateral 1: keep one"),
        (lambda text: text + "s9\n", r"defects\.csv:6: does not have 16 cells"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(written, tmp_path, change, fault):
    rewrite(written, tmp_path, change)
    with pytest.raises(InputError, match=fault):
        read_fixed_set(tmp_path)


def test_a_folder_without_a_set(tmp_path):
    with pytest.raises(InputError, match=r"defects\.csv: there is no such file: give the folder"):
        read_fixed_set(tmp_path)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"classes": ("top",)}, "classes: top: choose from bilateral, frontoorbital"),
        ({"classes": ()}, "classes: none: choose from"),
        ({"classes": ("random_1", "random_1")}, "classes: random_1, random_1: name each once"),
        ({"seed": -1}, "seed -1 must be 0 or more, per_subject 1 1 or more"),
        (
            {"area_cm2": (5.0, 1.0)},
            r"area_cm2 \[5\.0, 1\.0\] must be two areas above 0 in rising "
            "order",
        ),
    ],
)
def test_faulty_options(folder, tmp_path, options, fault):
    with pytest.raises(InputError, match=fault):
        write_fixed_set(scan_folder(folder), tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


def test_names_that_leave_the_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"subject '\.\./x': is not a file name: use only letters"):
        write_fixed_set([SkullSubject("../x", None, "")], tmp_path)


def test_a_folder_that_is_something_else_is_left_alone(folder, tmp_path):
    (tmp_path / "defects.csv").write_text("mine")
    with pytest.raises(InputError, match=r"defects\.json: is missing beside defects\.csv"):
        write(folder, tmp_path)
    (tmp_path / "defects.json").write_text("{")
    with pytest.raises(InputError, match=r"defects\.json: cannot be read \(Expecting property"):
        write(folder, tmp_path)
    assert (tmp_path / "defects.csv").read_text() == "mine"


def test_a_skull_that_is_not_the_one_of_the_set_is_refused(written):
    fixed = read_fixed_set(written.root, classes=("random_1",))
    skulls = [
        PreparedSkull("s0", phantom(5, 0), AFFINE),
        PreparedSkull("s1", phantom(1, 0), AFFINE),
    ]
    with pytest.raises(
        InputError,
        match=r"subject s0: .*complete/s0\.nii\.gz: is not the skull of the data, or "
        "is at another",
    ) as caught:
        EvaluationSet(skulls, fixed, seed=0)
    assert len(caught.value.faults) == 1
