from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import stand_ins  # found through the line above, here and in the processes
from stand_ins import found, steps

from famseg.datasets import read_manifest, write_manifest
from famseg.messages import InputError
from famseg.preparation import Outcome, Record, Scan, plan_run, prepare_folder
from famseg.volumes import read_volume

SETTINGS = {"size": 32, "holes": "keep"}


def prepare(
    root: Path,
    out: Path,
    names: list[str],
    *,
    settings: dict[str, object] = SETTINGS,
    workers: int = 0,
    force: bool = False,
    refused: tuple[str, ...] = (),
    step: Callable[..., object] = steps,
    **options: object,
) -> Outcome:
    plan = plan_run(found(root, names, refused=refused), root, out, settings, force=force)
    return prepare_folder(plan, step, workers=workers, force=force, **options)


def files(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "skulls").iterdir()}


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The source and the folder of the prepared skulls."""
    return tmp_path / "scans", tmp_path / "out"


def test_a_run_writes_all_that_a_data_set_needs(places: tuple[Path, Path]) -> None:
    root, out = places
    outcome = prepare(root, out, ["a", "holed", "bad"], refused=("scout",))
    assert [(r.subject, r.status) for r in outcome.records] == [
        ("a", "done"),
        ("bad", "failed"),
        ("holed", "done"),
        ("scout", "refused"),
    ]
    assert set(files(out)) == {
        "manifest.csv",
        "prepare.json",
        "report.csv",
        "report.html",
        "records/a.json",
        "records/holed.json",
        "skulls/a.nii.gz",
        "skulls/holed.nii.gz",
        "defective/bilateral/holed.nii.gz",
        "implant/bilateral/holed.nii.gz",
        "thumbnails/a.png",
        "thumbnails/holed.png",
    }
    subjects = read_manifest(out / "manifest.csv")  # hashes are checked
    assert [s.id for s in subjects] == ["a", "holed"]
    assert [s.split for s in subjects] == [None, None]
    for subject in ("a", "holed"):
        volume = read_volume(out / "skulls" / f"{subject}.nii.gz")
        np.testing.assert_array_equal(volume.array, np.load(root / f"{subject}.npy"))
        np.testing.assert_array_equal(volume.affine, stand_ins.AFFINE)
    parts = [read_volume(out / p / "bilateral/holed.nii.gz") for p in ("defective", "implant")]
    np.testing.assert_array_equal(parts[0].array + parts[1].array, volume.array)


def test_originals_stay_as_they_are(places: tuple[Path, Path]) -> None:
    root, out = places
    found(root, ["a", "bad", "holed"])
    before = files(root)
    prepare(root, out, ["a", "bad", "holed"])
    assert files(root) == before


def test_results_are_the_same_bytes_in_any_number_of_processes(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    names = ["a", "b", "holed"]
    prepare(root, tmp_path / "one", names)
    prepare(root, tmp_path / "two", names, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_what_is_unchanged_is_not_done_again(places: tuple[Path, Path]) -> None:
    root, out = places
    prepare(root, out, ["a", "b"])
    before, content = times(out), files(out)
    plan = plan_run(found(root, ["a", "b", "c"]), root, out, SETTINGS)
    assert [s.subject for s in plan.todo] == ["c"]
    assert [r.subject for r in plan.unchanged] == ["a", "b"]
    outcome = prepare(root, out, ["a", "b"])
    assert [r.status for r in outcome.records] == ["done", "done"]
    assert (times(out), files(out)) == (before, content)


@pytest.mark.parametrize("lost", ["skulls/a.nii.gz", "thumbnails/a.png", "records/a.json"])
def test_what_was_lost_or_spoilt_is_done_again(places: tuple[Path, Path], lost: str) -> None:
    root, out = places
    prepare(root, out, ["a"])
    content = files(out)
    (out / lost).write_bytes(b"{}")
    prepare(root, out, ["a"])
    assert files(out) == content


@pytest.mark.parametrize(
    "content",
    [
        "{" * 10**5,
        '{"status": "done"}',
        {"files": ["a"]},
        {"files": {"skulls/a.nii.gz": 1}},
        {"notes": "x"},
        {"notes": [1]},
        {"quality": []},
        {"quality": {"volume_ml": 1}},
        {"to_source": ["x"]},
        {"status": "famous"},
        {"subject": None},
        {"more": 1},
    ],
    ids=lambda content: str(content)[:30],
)
def test_a_hostile_record_is_prepared_again(
    content: str | dict[str, object], places: tuple[Path, Path]
) -> None:
    root, out = places
    prepare(root, out, ["a"])
    path = out / "records" / "a.json"
    honest = files(out)
    changed = content if isinstance(content, str) else json.loads(path.read_text()) | content
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    prepare(root, out, ["a"])
    assert files(out) == honest


@pytest.mark.parametrize("text", ["[]", '{"settings": 1}', '{"settings": [[1]]}', "[" * 10**5])
def test_hostile_settings_are_one_line(text: str, places: tuple[Path, Path]) -> None:
    root, out = places
    prepare(root, out, ["a"])
    (out / "prepare.json").write_text(text)
    with pytest.raises(InputError, match=r"prepare\.json: is damaged: choose another folder"):
        prepare(root, out, ["a"])


def test_a_changed_original_is_prepared_again_and_a_touched_one_is_not(
    places: tuple[Path, Path],
) -> None:
    root, out = places
    prepare(root, out, ["a", "b"])
    before = times(out)
    np.save(root / "a.npy", stand_ins.phantom(7, 0, 32))
    os.utime(root / "b.npy", ns=(1, 1))
    prepare(root, out, ["a", "b"])
    after = times(out)
    assert after["a.nii.gz"] != before["a.nii.gz"]
    assert after["b.nii.gz"] == before["b.nii.gz"]
    volume = read_volume(out / "skulls" / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, stand_ins.phantom(7, 0, 32))
    plan = plan_run(found(root, ["a", "b"]), root, out, SETTINGS)
    assert not plan.todo, "the new times are noted"


def test_other_settings_are_refused_with_what_differs(places: tuple[Path, Path]) -> None:
    root, out = places
    prepare(root, out, ["a"])
    other = {"size": 64, "holes": "keep", "crop": "vault"}
    message = (
        rf'{out}: was prepared with crop null \(now "vault"\), size 32 \(now 64\): give the same '
        "settings, "
        r"choose another --out, or prepare everything again with --force"
    )
    with pytest.raises(InputError, match=f"^{message}$"):
        prepare(root, out, ["a"], settings=other)
    before = times(out)
    outcome = prepare(root, out, ["a"], settings=other, force=True)
    assert len(outcome.done) == 1
    assert times(out) != before
    assert json.loads((out / "prepare.json").read_text())["settings"] == other


def test_a_subject_that_fails_now_leaves_nothing_of_before(places: tuple[Path, Path]) -> None:
    root, out = places
    prepare(root, out, ["a", "b"])
    prepare(root, out, ["a", "b"], force=True, step=partial(_fail_on, file=str(root / "b.npy")))
    assert not [name for name in files(out) if "b." in name.rpartition("/")[2]]
    assert [s.id for s in read_manifest(out / "manifest.csv")] == ["a"]


def _fail_on(scan: Scan, *, companions: object, file: str) -> object:
    if str(scan.volume.path) == file:
        raise InputError("the head does not fit")
    return steps(scan, companions={})


def test_subjects_that_are_gone_keep_their_files_but_leave_the_manifest(
    places: tuple[Path, Path],
) -> None:
    root, out = places
    prepare(root, out, ["a", "b"])
    outcome = prepare(root, out, ["a"])
    assert outcome.plan.gone == ("b",)
    assert [s.id for s in read_manifest(out / "manifest.csv")] == ["a"]
    before = times(out)
    prepare(root, out, ["a", "b"])
    assert times(out) == before


def test_a_split_survives_another_run(places: tuple[Path, Path]) -> None:
    root, out = places
    prepare(root, out, ["a", "b"])
    subjects = read_manifest(out / "manifest.csv")
    given = [
        type(s)(s.id, s.file, s.sha256, split)
        for s, split in zip(subjects, ("train", "test"), strict=True)
    ]
    write_manifest(given, out / "manifest.csv")
    prepare(root, out, ["a", "b", "c"])
    splits = {s.id: s.split for s in read_manifest(out / "manifest.csv")}
    assert splits == {"a": "train", "b": "test", "c": None}


def test_who_is_excluded_stays_so_after_another_run(places: tuple[Path, Path]) -> None:
    root, out = places
    prepare(root, out, ["a", "b"])
    first, second = read_manifest(out / "manifest.csv")
    write_manifest(
        [replace(first, split="train"), replace(second, excluded=True)], out / "manifest.csv"
    )
    prepare(root, out, ["a", "b", "c"])
    left = [(s.split, s.excluded) for s in read_manifest(out / "manifest.csv")]
    assert left == [("train", False), (None, True), (None, False)]
    assert (out / "report.html").read_text().count("data-subject=") == 3


@pytest.mark.parametrize(
    ("stated", "written"),
    [
        (("train", "test"), ["train", "test"]),
        (("train", None), [None, None]),  # a data set has a split for all or for none
        (("test", "test"), [None, None]),  # nothing to train on
    ],
)
def test_the_split_of_a_collection_is_taken_over(
    places: tuple[Path, Path], stated: tuple[str | None, ...], written: list[str | None]
) -> None:
    root, out = places
    sources = found(root, ["a", "b"])
    pairs = zip(sources.sources, stated, strict=True)
    sources = replace(sources, sources=tuple(replace(s, split=split) for s, split in pairs))
    plan = plan_run(sources, root, out, SETTINGS)
    prepare_folder(plan, steps, workers=0)
    assert [s.split for s in read_manifest(out / "manifest.csv")] == written


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("scans/out", "overlaps with the source"),
        ("scans", "overlaps with the source"),
        (".", "overlaps with the source"),
        ("other", "is not empty and was not written by famseg prepare: choose a new folder"),
        ("file", "is a file: give a folder"),
    ],
)
def test_a_folder_that_must_not_be_written_to_is_refused(
    tmp_path: Path, place: str, message: str
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.csv").write_text("mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=message):
        prepare(tmp_path / "scans", tmp_path / place, ["a"])
    assert (tmp_path / "other" / "manifest.csv").read_text() == "mine"


def test_two_runs_in_one_folder_are_refused(places: tuple[Path, Path]) -> None:
    root, out = places

    def again(record: Record, count: int, of: int) -> None:
        with pytest.raises(InputError, match="another famseg prepare is running there"):
            prepare(root, out, ["a"])

    assert prepare(root, out, ["a"], progress=again).done


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad", "bad.npy: no bone above 226 HU: check the scan"),
        ("large", "out of memory: use fewer --workers, or resample the scan first"),
        (
            "defect",
            "ZeroDivisionError: division by zero: this is a bug in famseg, please report it",
        ),
    ],
)
def test_each_failure_has_its_reason_and_the_rest_goes_on(
    places: tuple[Path, Path], name: str, reason: str
) -> None:
    root, out = places
    failed = {r.subject: r for r in prepare(root, out, ["a", name, "z"]).records}
    assert failed[name].reason == reason
    assert [r.status for r in failed.values()].count("done") == 2


def test_a_missing_file_is_a_failure_of_one_subject(places: tuple[Path, Path]) -> None:
    root, out = places
    sources = found(root, ["a", "b"])
    (root / "a.npy").unlink()
    plan = plan_run(sources, root, out, SETTINGS)
    first, second = prepare_folder(plan, steps, workers=0).records
    assert (first.status, first.reason) == ("failed", "No such file or directory")
    assert second.status == "done"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "killed",
            "the process that prepared it was killed, most likely because memory ran out: free "
            "some, or resample the scan first",
        ),
        (
            "crash",
            "the process that prepared it crashed (SIGSEGV): this is a bug in famseg, please "
            "report it",
        ),
    ],
)
def test_a_process_that_dies_costs_its_subject_alone(
    places: tuple[Path, Path], name: str, reason: str
) -> None:
    root, out = places
    seen: list[tuple[int, int]] = []
    names = ["a", "b", name, "c"]
    outcome = prepare(
        root, out, names, workers=2, progress=lambda r, count, of: seen.append((count, of))
    )
    assert {r.subject: r.status for r in outcome.records} == {
        "a": "done",
        "b": "done",
        "c": "done",
        name: "failed",
    }
    assert outcome.undone[0].reason == reason
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_run_and_keeps_what_is_done(
    places: tuple[Path, Path], workers: int
) -> None:
    root, out = places
    if workers == 0:
        with pytest.raises(OSError, match="No space left") as caught:
            prepare(root, out, ["a", "full", "z"])
        assert (out / "records" / "a.json").exists()
        assert not (out / "records" / "z.json").exists()
    else:
        with pytest.raises(OSError, match="No space left") as caught:
            prepare(root, out, ["a", "full", "z"], workers=workers)
    assert caught.value.errno == errno.ENOSPC
    assert not (out / "manifest.csv").exists()


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from stand_ins import found, steps
from famseg.preparation import plan_run, prepare_folder

if __name__ == "__main__":
    root, out = Path({root!r}), Path({out!r})
    plan = plan_run(found(root, ["a", "b", "slow"]), root, out, {settings!r})
    prepare_folder(plan, steps, workers=1, progress=lambda *_: print("ready", flush=True))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on(places: tuple[Path, Path], tmp_path: Path) -> None:
    root, out = places
    script = tmp_path / "script.py"
    here = str(Path(__file__).parents[1])
    script.write_text(SCRIPT.format(here=here, root=str(root), out=str(out), settings=SETTINGS))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert [run.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        children = _children(run.pid)
        assert children
        run.kill()
    _wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    before = times(out)
    assert set(before) == {"a.nii.gz", "b.nii.gz"}
    plan = plan_run(found(root, ["a", "b", "c"]), root, out, SETTINGS)
    assert [s.subject for s in plan.todo] == ["c"]
    assert len(prepare_folder(plan, steps, workers=0).done) == 3
    assert times(out).items() > before.items()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("the processes of a killed run are still there")


@pytest.mark.slow
def test_an_interrupt_ends_the_processes_at_once(places: tuple[Path, Path]) -> None:
    root, out = places

    def interrupt(record: Record, count: int, of: int) -> None:
        signal.raise_signal(signal.SIGINT)

    before = set(_children(os.getpid()))
    # A shell that starts this in the background may have the signal ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            prepare(root, out, ["a", "slow"], workers=2, progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not (out / "skulls" / "slow.nii.gz").exists()
    _wait_until(lambda: not _working(set(_children(os.getpid())) - before))


def _working(children: set[int]) -> list[int]:
    """The worker processes, without the resource tracker, which remains with its parent."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, command in commands.items() if b"spawn_main" in command]


def test_half_written_files_are_swept_up(places: tuple[Path, Path]) -> None:
    root, out = places
    prepare(root, out, ["a"])
    part = out / "skulls" / ".b.nii.gz.4711.part"
    part.write_bytes(b"half")
    prepare(root, out, ["a"])
    assert not part.exists()


def test_nothing_personal_is_written(tmp_path: Path) -> None:
    root, out = tmp_path / "Patient Jane Roe", tmp_path / "out"
    prepare(root, out, ["a", "bad", "noted"], step=partial(steps, warn=True))
    for name in files(out):
        content = (out / name).read_bytes()
        for word in (b"Roe", b"Jane", str(tmp_path).encode(), b"/home/"):
            assert word not in content, name
    image = nibabel.load(out / "skulls" / "a.nii.gz")
    for name in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        assert image.header[name].item() == b""
    assert not image.header.extensions
    state = json.loads((out / "prepare.json").read_text())
    assert set(state) == {"layout", "settings", "versions"}
    assert set(state["versions"]) == {
        "famseg",
        "python",
        "SimpleITK",
        "numpy",
        "scipy",
        "nibabel",
        "pydicom",
        "trimesh",
    }
    record = json.loads((out / "records" / "a.json").read_text())
    assert set(record) == set(Record.__dataclass_fields__)
    assert record["quality"]["warnings"] == ["a.npy: looks strange."]


def test_a_mask_is_written_as_the_same_bytes_and_read_back(tmp_path: Path) -> None:
    from famseg.preparation.batch._subject import nifti
    from famseg.volumes import Volume

    turned = np.array([[0, -1.5, 0, 3], [-2.0, 0, 0, 5], [0, 0, 0.5, -7], [0, 0, 0, 1.0]])
    mask = np.random.default_rng(0).random((5, 6, 7)) > 0.5
    content = nifti(Volume(mask, turned))
    assert content == nifti(Volume(mask.astype(np.int32), turned))
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, mask)
    np.testing.assert_allclose(volume.affine, turned, atol=1e-6)
