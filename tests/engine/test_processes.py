from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import warm

import famseg
from famseg.engine import Processes, processes
from famseg.engine._meter import Meter
from famseg.engine._processes import LostProcessError, group_for, lost_named
from famseg.messages import InputError

HERE = Path(__file__).parent
COLLECTIVE = r"dist\.(all_|broadcast|reduce|gather|scatter|barrier|send|recv|new_group|init_)"


@pytest.fixture
def group_without_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("cuda:gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_without_cpu")
def test_a_group_without_a_backend_for_the_cpu_sums_what_lies_there() -> None:
    with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
        dist.all_reduce(torch.ones(1))  # as NCCL does
    ranks = Processes(rank=0, world=2)
    meter = Meter()
    meter.add({"samples": 2, "loss": 1.5, "penalty": float("nan"), "seconds": 0.1})
    assert meter.metrics(ranks)["train/loss"] == 1.5
    assert ranks.sum([1.0, 2.0]) == [1.0, 2.0]
    assert ranks.gather("x") == ["x"]
    assert ranks.from_main({"a": 1}) == {"a": 1}
    ranks.copy_from_main([torch.ones(2)])
    assert group_for("cpu") is group_for("cpu") is not group_for("cuda")


def test_collectives_are_in_one_place() -> None:
    # A flatness penalty's own one is of a tensor on the device that the group was made for.
    allowed = {"engine/_processes.py"}
    root = Path(famseg.__file__).parent
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(COLLECTIVE, path.read_text())
    }
    assert found == allowed


@pytest.mark.parametrize(
    ("ranks", "gpus", "message"),
    [
        (4, 2, r"4 processes were started on a machine with 2 GPUs\. .*--nproc-per-node 2, or set"),
        (2, 1, r"training\.device: 2 processes .* with 1 GPU\. .* set training\.device=cpu\."),
    ],
)
def test_more_processes_than_gpus_are_refused_by_the_first(
    monkeypatch: pytest.MonkeyPatch, ranks: int, gpus: int, message: str
) -> None:
    started(monkeypatch, ranks, gpus)
    with pytest.raises(InputError, match=message), processes():
        pass


def started(monkeypatch: pytest.MonkeyPatch, ranks: int, gpus: int) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, str(ranks))
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("device", "backend", "gpu"),
    [("auto", "cpu:gloo,cuda:nccl", torch.device("cuda", 0)), ("cpu", "gloo", None)],
)
def test_the_group_serves_the_devices_that_are_used(
    monkeypatch: pytest.MonkeyPatch, device: str, backend: str, gpu: torch.device | None
) -> None:
    started(monkeypatch, 2, 2)
    asked, current = {}, []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(dist, "init_process_group", lambda b, **rest: asked.update(rest, b=b))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    with processes(device) as ranks:
        assert ranks == Processes(rank=0, world=2)
    assert asked["b"] == backend
    assert asked["device_id"] == gpu
    assert current == ([] if gpu is None else [gpu])
    assert asked["timeout"].total_seconds() >= 3600  # rank 0 may draw and write for long


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:44252"), True),
        (dist.DistBackendError("NCCL error: remote process exited or there was a network"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_lost_process_is_called_so(error: RuntimeError, lost: bool) -> None:
    kind = LostProcessError if lost else RuntimeError
    with pytest.raises(RuntimeError if not lost else kind) as raised, lost_named():
        raise error
    assert type(raised.value) is (kind if lost else type(error))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "fails"])
@pytest.mark.parametrize("backend", ["gloo", "cuda:gloo"])
def test_the_others_of_a_lost_process_end_with_one_line(
    tmp_path: Path, backend: str, how: str
) -> None:
    command = [str(HERE / "lose_a_process.py"), str(tmp_path), backend, how, "1"]
    first, second = warm.run_ranks(2, *command)
    assert second.returncode == (-signal.SIGKILL if how == "killed" else 1)
    said = "" if how == "killed" else "famseg: rank 1: out of memory."
    assert said in second.stderr
    assert first.returncode == 1, first.stderr
    assert (
        first.stderr.strip()
        .splitlines()[-1]
        .startswith("famseg: another process of this run ended or cannot be reached any more.")
    )


@pytest.mark.slow
def test_that_the_first_process_is_lost_is_said_by_the_others(tmp_path: Path) -> None:
    command = [str(HERE / "lose_a_process.py"), str(tmp_path), "gloo", "killed", "0"]
    first, second = warm.run_ranks(2, *command)
    assert (first.returncode, second.returncode) == (-signal.SIGKILL, 1)
    said = second.stderr.strip().splitlines()[-1]
    assert said.startswith("famseg: rank 1: another process of this run ended or cannot be")
