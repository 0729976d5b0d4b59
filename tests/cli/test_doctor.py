from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import sys
import time
from collections import namedtuple
from importlib import metadata

import pytest
import typer
from typer.testing import CliRunner

from famseg.cli import _checks
from famseg.cli._doctor import doctor

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A working folder with its own cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAMSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(doctor)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def by_name(result):
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def test_it_is_well_here(command):
    result = command()
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(line.split()[0] in ("ok", "warning") for line in lines)
    for name in ("famseg", "torch", "mlflow store", "working folder", "memory"):
        assert sum(line[9:].startswith(name) for line in lines) == 1
    assert "\x1b" not in result.stdout  # no colors outside a terminal


def test_it_leaves_nothing_behind(command, place):
    command()
    assert list(place.iterdir()) == []


def test_json_holds_the_same(command):
    result = command("--json")
    found = json.loads(result.stdout)
    assert found["ok"] is True
    assert by_name(result)["torch"]["text"] == metadata.version("torch")
    assert set(found["checks"][0]) == {"status", "name", "text", "advice"}


def test_a_fault_is_exit_1_with_what_to_do(command, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///old")
    result = command("--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False
    check = by_name(result)["mlflow store"]
    assert check["status"] == "fault"
    assert "Write sqlite:////old/mlflow.db" in check["text"]


def test_a_missing_package_is_a_fault(monkeypatch):
    def version(name):
        if name == "SimpleITK":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("famseg.cli._checks.metadata.version", version)
    found = {check.name: check for check in _checks.versions()}
    assert found["SimpleITK"] == _checks.Check(
        "fault", "SimpleITK", "is missing", "Run: pip install 'SimpleITK'"
    )


def test_a_torch_that_does_not_load_is_a_fault_said_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (_, check) = _checks.processor()
    assert (check.status, check.advice) == ("fault", "Install torch anew.")
    assert list(_checks.graphics()) == []


def test_more_threads_than_cores_is_a_warning(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(_checks, "processor_quota", lambda: 1.5)
    cpu, threads = _checks.processor()
    assert cpu.text.endswith("limited to 1.5")
    assert threads.status == "warning"
    assert threads.text == "torch uses 64 on 1 cores"
    assert threads.advice.startswith("Set OMP_NUM_THREADS=1:")


@pytest.mark.parametrize(
    ("built_for", "driver", "status", "text", "advice"),
    [
        (None, None, "ok", "no NVIDIA driver: training runs on the CPU", ""),
        ("13.0", None, "ok", "no NVIDIA driver: training runs on the CPU", ""),
        (None, "580.1", "warning", "driver 580.1, but torch is built without CUDA", "pip install"),
        ("13.0", "535.2", "warning", "driver 535.2 and torch for CUDA 13.0", "torch==2.10.0"),
        ("13.0", "470.9", "warning", "driver 470.9 and torch for CUDA 13.0", "needs 580 or later."),
        ("12.8", "470.9", "warning", "driver 470.9 and torch for CUDA 12.8", "needs 525 or later."),
        ("12.8", "535.2", "warning", "driver 535.2 and torch for CUDA 12.8", "Run nvidia-smi"),
        ("13.0", "N/A", "warning", "driver N/A and torch for CUDA 13.0", "needs 580 or later."),
    ],
)
def test_no_graphics_card_says_why(built_for, driver, status, text, advice, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    check = _checks._no_graphics(built_for, driver)
    assert (check.status, check.text.startswith(text)) == (status, True)
    assert advice in check.advice
    assert bool(check.advice) == (status == "warning")
    assert ("torch==2.10.0" in check.advice) == ("2.10" in advice)  # no driver below 525 runs it


def test_graphics_cards_that_are_hidden_by_a_variable(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "CUDA_VISIBLE_DEVICES is '7'" in _checks._no_graphics("13.0", "580.1").advice


@pytest.mark.parametrize("driver", [None, "550.54"])
def test_a_cuda_image_without_a_visible_gpu_names_the_option_that_shows_it(
    driver, monkeypatch, tmp_path
):
    monkeypatch.setenv("FAMSEG_VARIANT", "cuda12")
    monkeypatch.setattr(_checks, "_GPU_NODES", (tmp_path / "nvidiactl",))
    check = _checks._no_graphics("12.8", driver)
    assert check.status == "warning"
    assert check.text.startswith("no GPU is visible in this container")
    assert "--gpus all" in check.advice
    assert ("driver 550.54" in check.text) == (driver is not None)
    (tmp_path / "nvidiactl").touch()
    assert "--gpus all" not in _checks._no_graphics("12.8", driver).advice


def test_the_cpu_image_on_a_machine_with_a_driver_is_not_told_to_use_pip(monkeypatch):
    monkeypatch.setenv("FAMSEG_VARIANT", "cpu")
    assert "VARIANT=cuda" in _checks._no_graphics(None, "580.1").advice


def test_a_graphics_card_is_described(monkeypatch):
    import torch

    card = namedtuple("Card", "name major minor")("NVIDIA H100", 9, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (70 * 1024**3, 80 * 1024**3))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    _, gpu = _checks.graphics()
    assert gpu.text == "NVIDIA H100, 70.0 of 80.0 GiB free, compute capability 9.0, bf16"


def test_a_containers_limit_counts(monkeypatch):
    monkeypatch.setattr(_checks, "memory_limit", lambda: (2 * 1024**3, 1024**3))
    (check,) = _checks.memory()
    assert check.status == "warning"
    assert "the container's limit leaves 1.0 of 2.0 GiB" in check.text


def test_a_small_shared_memory_is_a_warning_with_dockers_option(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 << 20, 0, 64 << 20))
    (check,) = _checks.shared_memory(tmp_path)
    assert check.status == "warning"
    assert check.text == "0.06 of 0.06 GiB free"
    assert "--shm-size=2g" in check.advice


def test_no_shared_memory_is_no_line(tmp_path):
    assert list(_checks.shared_memory(tmp_path / "none")) == []


def test_a_store_to_be_made_is_well_and_not_made(place):
    check = _checks.store()
    assert (check.status, check.text) == (
        "ok",
        f"sqlite:///{place}/mlflow.db (made by the first run)",
    )


def test_a_store_where_nothing_can_be_made_is_a_fault(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/mlflow.db")
    check = _checks.store()
    assert (check.status, check.text) == ("fault", "/proc cannot be written")


def test_a_store_that_is_no_database_is_a_fault(place):
    (place / "mlflow.db").write_bytes(b"no database " * 100)
    check = _checks.store()
    assert check.status == "fault"
    assert check.text.endswith("file is not a database")


@pytest.mark.slow
def test_a_half_made_store_is_a_fault_with_the_way_out(place):
    with contextlib.closing(sqlite3.connect(place / "mlflow.db")) as base, base:
        base.execute("CREATE TABLE _alembic_tmp_params (key VARCHAR)")  # as left by a killed MLflow
    check = _checks.store()
    assert check.status == "fault"
    assert check.text.endswith("mlflow.db: a program was killed while it created the tables")
    assert f"mv {place}/mlflow.db {place}/mlflow.db.broken" in check.advice


def test_a_store_with_options_in_its_address_is_found(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db?timeout=5")
    sqlite3.connect(place / "mlflow.db").close()
    (place / "mlflow.db").touch()
    assert _checks.store().text.endswith("can be written")


def test_a_locked_store_is_a_warning(place):
    other = sqlite3.connect(place / "mlflow.db", isolation_level=None)
    other.execute("CREATE TABLE a (b)")
    other.execute("BEGIN EXCLUSIVE")
    check = _checks.store()
    other.close()
    assert check.status == "warning"
    assert check.text.endswith("database is locked")


def test_a_server_that_does_not_answer_is_a_warning(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began = time.monotonic()
    check = _checks.store()
    assert time.monotonic() - began < 60  # MLflow by itself tries for four minutes
    assert check.status == "warning"
    assert "Connection refused" in check.text


def test_a_folder_that_cannot_be_written_is_a_fault(monkeypatch):
    monkeypatch.chdir("/proc")
    work, cache = _checks.folders()
    assert (work.status, cache.status) == ("fault", "ok")
    assert work.text.startswith("/proc cannot be written (")


def test_a_cache_that_cannot_be_written_is_a_warning(monkeypatch):
    monkeypatch.setenv("FAMSEG_CACHE", "/proc/cache")
    assert [check.status for check in _checks.folders()] == ["ok", "warning"]


@pytest.mark.parametrize(("free_gib", "status"), [(0.1, "fault"), (2.0, "warning"), (50.0, "ok")])
def test_little_room_on_the_disk(monkeypatch, free_gib, status):
    free = int(free_gib * 1024**3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free, 0, free))
    assert {check.status for check in _checks.folders()} == {status}


def test_few_open_files_is_a_warning(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 4096))
    assert _checks.open_files() == _checks.Check(
        "warning", "open files", "at most 256", "Run: ulimit -n 1024"
    )


def test_a_working_folder_is_not_written_to_where_runs_is_there(place):
    names = [check.name for check in _checks.folders()]
    assert names == ["working folder", "cache"]
    (place / "runs").mkdir()
    first, _ = _checks.folders()
    assert (first.name, first.status) == ("runs", "ok")
    assert first.text.startswith(f"{place / 'runs'}, ")
