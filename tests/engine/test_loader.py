from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from toy import make_experiment

from famseg.engine import Batches
from famseg.engine._loader import PipedLoader, training_loader

HERE = Path(__file__).parent
Usage = namedtuple("Usage", "total used free")
# In a container's stead: a mount namespace whose /dev/shm holds less than a batch.
SMALL = "mount -t tmpfs -o size={} tmpfs /dev/shm && exec "


def test_piped_batches_are_those_of_shared_memory() -> None:
    items = [{"image": torch.full((2,), float(i)), "subject": f"box{i}"} for i in range(3)]
    batches = list(PipedLoader(items, batch_size=2))
    assert [batch["subject"] for batch in batches] == [["box0", "box1"], ["box2"]]
    assert torch.equal(batches[0]["image"], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


@pytest.mark.parametrize(("free", "piped"), [(328_319, True), (328_320, False)])
def test_pipes_are_for_a_shared_memory_smaller_than_the_batches_under_way(
    free: int, piped: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Two volumes of 8^3 float32 and a number a sample, two samples a batch, two batches ready in
    # each of two processes and one in use, in eight trainings: (2 * 2048 + 8) * 2 * 5 * 8 bytes.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free, 0, free))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    batches = Batches(7, 2, epochs=3, seed=0)
    loader = training_loader(make_experiment(), batches, workers=2, pin_memory=False)
    assert isinstance(loader, PipedLoader) is piped
    assert bool(caplog.records) is piped
    if piped:
        assert "batches of 2 workers take 0.3 MB: they go through pipes" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "said"),
    [("256k", "they go through pipes"), ("16k", "batches are loaded by the training itself")],
)
def test_a_small_shared_memory_does_not_end_a_training(size: str, said: str) -> None:
    small = SMALL.format(size)
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare, of Debian's util-linux")
    if subprocess.run([*inside, f"{small} true"], capture_output=True).returncode:
        pytest.skip("this process may not mount another /dev/shm")
    command = f"{small} {sys.executable} {HERE / 'load_large_batches.py'}"
    done = subprocess.run([*inside, command], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert done.stdout.split() == ["0", "100000", "200000", "300000"]
