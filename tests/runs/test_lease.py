from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from famseg.messages import InputError
from famseg.runs import BusyError, LostLeaseError, Owner, lease, owner_of
from famseg.runs import _lease as module
from famseg.runs._lease_file import leases

HOLD = """
import sys, time
from pathlib import Path
from famseg.runs import lease
with lease(Path(sys.argv[1]), purpose="train"):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def leave(folder: Path, name: str = "lease-1.json", **fields: Any) -> Path:
    """Leave the lease of a process with other properties than this one."""
    path = folder / name
    path.write_text(json.dumps(Owner.this_process("train").as_dict() | fields))
    return path


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an owner of elsewhere silent after 0.6 s."""
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(module, "SILENT_S", 0.6)


def test_a_folder_has_one_owner_and_is_given_back(tmp_path: Path) -> None:
    with lease(tmp_path, purpose="train") as held:
        assert owner_of(tmp_path) == held.owner
        message = rf"{tmp_path}: is in use by process {os.getpid()} \(train, since .*\)\. Wait"
        with pytest.raises(BusyError, match=message) as caught:
            lease(tmp_path)
        assert len(caught.value.faults) == 1
    assert owner_of(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_an_exception_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no"), lease(tmp_path):
        raise RuntimeError("no")
    assert not list(tmp_path.iterdir())


def test_a_living_process_keeps_it_and_a_killed_one_loses_it(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with process:
        process.send_signal(signal.SIGSTOP)  # stopped is not dead
        with pytest.raises(BusyError, match=f"process {process.pid}"):
            lease(tmp_path)
        process.kill()
        # Until its parent, this process, waits for it, it is still in the table of processes.
        deadline = time.monotonic() + 10
        while owner_of(tmp_path) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        with lease(tmp_path) as held:
            assert held.path == tmp_path / "lease-2.json"
            assert [path.name for path in tmp_path.iterdir()] == ["lease-2.json"]


@pytest.mark.parametrize("fields", [{"started": 1.0}, {"pid": 2**31 - 1}])
def test_a_number_given_anew_is_another_process(tmp_path: Path, fields: dict[str, Any]) -> None:
    leave(tmp_path, **fields)
    with lease(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("fields", [{"boot": "other"}, {"namespace": "pid:[1]"}])
def test_a_silent_owner_of_elsewhere_is_taken_over(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = leave(tmp_path, **fields)
    began = time.monotonic()
    with lease(tmp_path):
        assert time.monotonic() - began > 0.5
        assert not path.exists()


@pytest.mark.usefixtures("fast")
def test_one_long_silent_is_watched_for_a_moment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_S", 60.0)
    path = leave(tmp_path, boot="other")
    old = path.stat().st_mtime - 1000
    os.utime(path, (old, old))
    began = time.monotonic()
    with lease(tmp_path):
        assert 0.1 < time.monotonic() - began < 30


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("ahead", [-1000.0, 0.0, 1000.0])
def test_an_owner_of_elsewhere_that_gives_signs_of_life_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    # Whatever the clock of the disk says, a sign of life is one.
    with lease(tmp_path) as held:  # its thread goes on with the file that is now of elsewhere
        assert held.path is not None
        monkeypatch.setattr(module, "time_of", lambda folder: time.time() + ahead)
        leave(tmp_path, boot="other", host="gpu7", pid=4711)
        with pytest.raises(BusyError, match=r"is in use by process 4711 on gpu7 \(train"):
            lease(tmp_path)


def test_another_owner_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    with lease(tmp_path) as held:
        held.check()
        assert held.path is not None
        held.path.unlink()
        with pytest.raises(LostLeaseError, match="was taken over by another process"):
            held.check()
        taken = leave(tmp_path)
        with pytest.raises(LostLeaseError):
            held.check()
    assert taken.exists()  # of the other one nothing is removed


def test_a_forked_process_does_not_give_it_back(tmp_path: Path) -> None:
    with lease(tmp_path) as held:
        child = multiprocessing.get_context("fork").Process(target=held.release)
        child.start()
        child.join()
        assert child.exitcode == 0
        held.check()


def test_the_highest_number_is_refused(tmp_path: Path) -> None:
    """A longer one would be seen by nobody: two processes would own the folder."""
    last = leave(tmp_path, "lease-999999999.json", pid=2**31 - 1)
    with pytest.raises(
        InputError, match=r"lease-999999999\.json was not written by famseg\. Remove it"
    ):
        lease(tmp_path)
    assert list(tmp_path.iterdir()) == [last]


def test_a_link_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / "lease-1.json").symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match=r"lease-1\.json: is a link in place of the lease"):
        lease(tmp_path)
    assert (tmp_path / "other").read_text() == "mine"


def test_a_pipe_in_the_way_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lease-1.json")
    with pytest.raises(InputError, match=r"lease-1\.json: cannot be read"):
        lease(tmp_path)


HOSTILE = (
    b"",
    b"[]",
    b"\xff",
    b"[" * 9000,
    b'{"pid": 1}',
    b" " * 20_000,
    json.dumps(Owner.this_process("x").as_dict() | {"pid": -1}).encode(),
    json.dumps(Owner.this_process("x").as_dict() | {"pid": 10**40}).encode(),
    json.dumps(Owner.this_process("x").as_dict() | {"started": "1"}).encode(),
)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_lease_is_silent_and_then_none(tmp_path: Path, number: int) -> None:
    (tmp_path / "lease-1.json").write_bytes(HOSTILE[number])
    assert owner_of(tmp_path) is None
    with lease(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_or_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lease(tmp_path / "none")
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        lease(tmp_path)
    with lease(tmp_path, read_only=True) as held:
        assert held.path is None
        held.check()


def test_a_disk_without_hard_links_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr("os.link", refuse)
    with lease(tmp_path), pytest.raises(BusyError, match="is in use"):
        lease(tmp_path)
    assert not list(tmp_path.iterdir())


def contend(folder: Path, start: Any, rounds: int, found: Any) -> None:
    """Take the lease again and again, all at once; say who held it together with whom."""
    for number in range(rounds):
        start.wait()
        got = "busy"
        try:
            with lease(folder):
                mark = folder / f"in-{number}"
                try:
                    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                    got = "held"
                except FileExistsError:
                    got = "held again"  # after another one, for it waits below
                (folder / f"of-{os.getpid()}").touch()
                others = [p.name for p in folder.glob("of-*") if p.name != f"of-{os.getpid()}"]
                time.sleep(0.005)
                others += [p.name for p in folder.glob("of-*") if p.name != f"of-{os.getpid()}"]
                if others:
                    got = "together"
                (folder / f"of-{os.getpid()}").unlink()
        except BusyError:
            pass
        found.put((number, got))
        start.wait()


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_that_start_at_once_one_gets_it(tmp_path: Path, dead: bool) -> None:
    context, world, rounds = multiprocessing.get_context("fork"), 4, 25
    start, found = context.Barrier(world + 1), context.SimpleQueue()
    processes = [
        context.Process(target=contend, args=(tmp_path, start, rounds, found)) for _ in range(world)
    ]
    for process in processes:
        process.start()
    results = []
    for _ in range(rounds):
        if dead:
            leave(tmp_path, started=1.0)
        start.wait()
        results += [found.get() for _ in range(world)]
        start.wait()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    counts = Counter(got for _, got in results)
    assert counts["together"] == 0
    assert counts["held"] == rounds
    assert not [path for path in tmp_path.iterdir() if re.match(r"\.?lease", path.name)]


def test_who_looked_too_early_steps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process took a dead lease over, and removed it, between our look and our own file."""
    looks = []

    def late(folder: Path) -> list[Any]:
        looks.append(folder)
        return [] if len(looks) == 1 else leases(folder)

    other = leave(tmp_path, "lease-2.json")  # of this process, which lives
    monkeypatch.setattr(module, "leases", late)
    with pytest.raises(BusyError, match="is in use by process"):
        lease(tmp_path)
    assert list(tmp_path.iterdir()) == [other]
    assert len(looks) == 3  # with our own file; and once more, to say who has it
