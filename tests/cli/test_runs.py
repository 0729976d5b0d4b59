"""``famseg runs``: listing runs, and deleting them from folder and store."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reporting"))

from made_runs import FAM, make_run  # found through the line above

from famseg.cli import app
from famseg.files import write_json
from famseg.messages import InputError
from famseg.runs import lease
from famseg.tracking import prepare_store

SKULL, IMPLANT = "test/set1/skull/dsc", "test/set1/implant/dsc"


def famseg(*arguments: str, answer: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(app, ["runs", *arguments], input=answer, catch_exceptions=False)
    return done.exit_code, done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_run(
        tmp_path, "b", metrics={SKULL: 0.75, IMPLANT: 0.5}, created="2026-01-02T00:00:00+00:00"
    )
    make_run(tmp_path, "a", seed=1, settings=FAM, epochs=1)
    return tmp_path


def test_the_list_has_state_method_and_main_metrics(folder: Path) -> None:
    status, text = famseg("--in", str(folder))
    header, first, second = text.splitlines()
    assert status == 0
    assert header.split() == ["run", "state", "method", "seed", SKULL, IMPLANT]
    assert first.startswith(str(folder / "a"))  # the older one
    assert "FAM lambda=0.1" in first
    assert first.split()[-3:] == ["1", "-", "-"]
    assert "finished" in second
    assert second.split()[-3:] == ["0", "0.7500", "0.5000"]


def test_json_has_every_metric(folder: Path) -> None:
    status, text = famseg("--in", str(folder), "--json")
    unfinished, finished = json.loads(text)
    assert (status, finished["seed"], finished["state"]) == (0, 0, "finished")
    assert finished["metrics"][SKULL] == 0.75
    assert unfinished["state"] != "finished"


def test_a_run_is_deleted_after_a_yes_only(folder: Path) -> None:
    status, text = famseg("delete", str(folder / "a"), answer="n\n")
    assert status == 1
    assert "Delete 1 run folder and in MLflow?" in text
    assert (folder / "a").is_dir()
    status, text = famseg("delete", str(folder / "a"), answer="y\n")
    assert (status, (folder / "a").exists(), (folder / "b").exists()) == (0, False, True)
    assert "deleted (it was not tracked in MLflow)" in text


def test_the_run_in_mlflow_is_deleted_with_it(folder: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder}/mlflow.db"
    prepare_store(uri)
    client = MlflowClient(uri, uri)
    run_id = client.create_run(client.create_experiment("e")).info.run_id
    write_json(folder / "a" / "tracking.json", {"run_id": run_id, "uri": uri})
    status, text = famseg("delete", str(folder / "a"), "--yes")
    assert (status, (folder / "a").exists()) == (0, False)
    assert "deleted, and its run in MLflow" in text
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"


@pytest.mark.parametrize("uri", ["sqlite:////{folder}/gone.db", "http://127.0.0.1:9"])
def test_a_store_that_is_gone(folder: Path, uri: str) -> None:
    """A missing database has no run; if a server is down, the folder is kept."""
    identity = {"run_id": "0" * 32, "uri": uri.format(folder=folder)}
    write_json(folder / "a" / "tracking.json", identity)
    if uri.startswith("http"):
        with pytest.raises(InputError, match="--keep-mlflow"):
            famseg("delete", str(folder / "a"), "--yes")
        assert (folder / "a").is_dir()
        status, text = famseg("delete", str(folder / "a"), "--yes", "--keep-mlflow")
        assert (status, text.endswith("a: deleted\n")) == (0, True)
    else:
        status, text = famseg("delete", str(folder / "a"), "--yes")
        assert "(MLflow has no such run)" in text
    assert not (folder / "a").exists()


def test_a_store_without_the_run_and_a_server_that_is_no_store(folder: Path) -> None:
    """Only MLflow's "does not exist" counts; with any other "not found" the folder is kept."""

    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404, "Not Found")

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        write_json(folder / "a" / "tracking.json", {"run_id": "0" * 32, "uri": uri})
        with pytest.raises(InputError, match="cannot be deleted there"):
            famseg("delete", str(folder / "a"), "--yes")
        server.shutdown()
    assert (folder / "a").is_dir()
    uri = f"sqlite:///{folder}/mlflow.db"
    prepare_store(uri)
    write_json(folder / "a" / "tracking.json", {"run_id": "0" * 32, "uri": uri})
    status, text = famseg("delete", str(folder / "a"), "--yes")
    assert (status, (folder / "a").exists()) == (0, False)
    assert "(MLflow has no such run)" in text


def test_a_run_that_is_in_use_is_not_deleted(folder: Path) -> None:
    with lease(folder / "a", purpose="train"), pytest.raises(InputError, match="is in use by"):
        famseg("delete", str(folder / "a"), "--yes")
    assert (folder / "a").is_dir()


def test_what_is_no_run_folder_is_not_deleted(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "a")
    for name, words in (("link", "is a symbolic link"), ("gone", "gone"), (".", "run")):
        with pytest.raises(InputError, match=words):
            famseg("delete", str(folder / "b"), str(folder / name), "--yes")
    assert (folder / "a").is_dir()
    assert (folder / "b").is_dir()  # nothing is deleted if one of them is wrong
