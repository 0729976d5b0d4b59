from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import warm
from mlflow.exceptions import MlflowException

from famseg.messages import InputError
from famseg.tracking import Tracker, _database, _store, prepare_store
from famseg.tracking._quiet import quiet
from famseg.tracking._view import share_comparison

FIRST_WRITER = """
import os, sys
from famseg.tracking import Tracker
rank = os.environ["RANK"]
with Tracker.start(uri=sys.argv[1], run_name=rank, parameters={"seed": rank}) as tracker:
    tracker.log_epoch(1, {"train/loss": 1.0})
print(tracker.run_id, tracker.waiting, tracker.problem)
"""


@pytest.mark.slow
def test_several_first_writers_do_not_hurt_each_other(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    (tmp_path / "write.py").write_text(FIRST_WRITER)
    done = warm.run_ranks(3, str(tmp_path / "write.py"), uri, timeout=120)
    assert [writer.returncode for writer in done] == [0] * 3, done
    assert all(writer.stdout.endswith(" 0 None\n") for writer in done), done
    assert all(writer.stderr == "" for writer in done), done
    with quiet():
        client = _store.client(uri, 10)
        (experiment,) = client.search_experiments(filter_string="name = 'famseg'")
        runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.params["seed"] for run in runs) == list("012")


@pytest.mark.slow
def test_a_store_whose_making_is_killed_is_made_anew(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    script = str(Path(__file__).with_name("kill_creation.py"))
    for when in ("1", "700", "rename"):
        assert warm.run(script, uri, when).returncode == -signal.SIGKILL
        left = {path.name for path in tmp_path.iterdir()}
        assert "mlflow.db" not in left
        assert len(left) > 1, "the kill came before anything was made"
    assert prepare_store(uri) == {}
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def half_made(path):
    """State after a kill in the middle of a migration, which copies tables."""
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE _alembic_tmp_params (key VARCHAR)")
        base.commit()


def begun(path):
    """State after a kill between a statement of a migration and the record of its completion."""
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        base.execute("DROP TABLE webhooks")
        base.commit()


def outdated(path):
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        base.commit()


KILLED = "a program was killed while it created the tables. Move the file away (mv {0} "
OTHER = "its tables are from another version of MLflow, or incomplete. Run: mlflow db upgrade "


@pytest.mark.parametrize(
    ("spoil", "said"), [(half_made, KILLED), (begun, KILLED), (outdated, OTHER)]
)
def test_a_store_with_half_made_tables_is_said_with_the_way_out(uri, tmp_path, spoil, said):
    path = tmp_path / "mlflow.db"
    spoil(path)
    with pytest.raises(InputError) as caught:
        prepare_store(uri)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{uri}: {said.format(path)}")
    assert f"(mv {path} {path}.broken). The next start creates a new store, and famseg train " in (
        fault
    )


def test_a_run_goes_on_without_a_half_made_store_and_is_sent_to_the_next(
    uri, empty_database, tmp_path, caplog
):
    path = tmp_path / "mlflow.db"
    begun(path)
    tracker = Tracker.start(uri=uri, run_name="a", parameters={})
    tracker.log_epoch(1, {"a": 1.0})
    assert tracker.run_id is None
    assert caplog.messages[0].startswith(f"MLflow store {uri} cannot be used: a program was killed")
    path.rename(tmp_path / "mlflow.db.broken")
    shutil.copy(empty_database, path)
    tracker.finish()
    client = _store.client(uri, 10)
    assert client.get_run(tracker.run_id).data.metrics == {"a": 1.0}
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_the_journal_of_a_database_that_is_gone_is_not_applied_to_the_new_one(tmp_path):
    path = tmp_path / "mlflow.db"
    path.touch()  # as SQLite leaves it before the first table
    (tmp_path / "mlflow.db-journal").write_bytes(b"of an older file")
    (tmp_path / ".mlflow.db.0123456789abcdef.part-journal").touch()
    with _database.creation_lock(f"sqlite:///{path}") as alone:
        assert alone
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_database, "_make_tables", lambda part: part.write_bytes(b"made"))
            _database.make_database(path, alone=alone)
    assert {each.name for each in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    assert path.read_bytes() == b"made"


def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    reads, writes = os.pipe()
    with _database.creation_lock(uri):
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            os.close(writes)
            os.read(reads, 1)  # until the parent lets go
            os._exit(0)
    os.close(reads)
    with _database.creation_lock(uri) as alone:
        assert alone
    os.close(writes)
    os.waitpid(child, 0)


def test_the_lock_is_held_by_one_at_a_time(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    inside, order = threading.Event(), []

    def other():
        inside.wait()
        with _database.creation_lock(uri):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with _database.creation_lock(uri):
        inside.set()
        time.sleep(0.15)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_a_lock_that_stays_held_is_an_error_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(_database, "_LOCK_SECONDS", 0.1)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with (
        _database.creation_lock(uri),
        pytest.raises(TimeoutError, match=r"mlflow\.db\.lock has been held for a minute"),
        _database.creation_lock(uri),
    ):
        pass


def test_other_stores_need_no_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with _database.creation_lock("http://localhost:5000"):
        assert list(tmp_path.iterdir()) == []


def test_artifacts_lie_beside_the_database(uri, client, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    found = client.get_experiment(_store.experiment_id(client, uri, "a study: 1"))
    path = Path(unquote(urlparse(found.artifact_location).path))
    assert path == tmp_path / "mlruns" / "a_study__1"


def test_an_experiment_is_found_again(uri, client):
    assert _store.experiment_id(client, uri, "x") == _store.experiment_id(client, uri, "x")


def test_a_deleted_experiment_is_refused_with_both_ways_out(uri, client):
    number = _store.experiment_id(client, uri, "old")
    client.delete_experiment(number)
    with pytest.raises(InputError) as caught:
        _store.experiment_id(client, uri, "old")
    assert str(caught.value) == (
        "tracking.experiment: 'old' was deleted. Choose another name, or run "
        f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore -x {number}"
    )


def test_a_users_own_limits_stay(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with quiet():
        _store.client(uri, 5)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"


def test_a_client_does_not_change_the_address_of_others(uri, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with quiet():
        import mlflow

        before = mlflow.get_tracking_uri()
        _store.client(uri, 5)
        assert mlflow.get_tracking_uri() == before
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_prepare_finds_an_experiment_and_makes_none(uri, client):
    assert prepare_store(uri, "x") == {}
    assert client.get_experiment_by_name("x") is None
    number = _store.experiment_id(client, uri, "x")
    assert prepare_store(uri, "x") == {"x": number}
    assert "mlflow.sharedViewState.famseg-lambda" in client.get_experiment(number).tags


def test_prepare_finds_all_experiments_with_a_view(uri, client):
    numbers = {name: _store.experiment_id(client, uri, name) for name in ("a", "foreign", "b")}
    for name in "ab":
        share_comparison(client, numbers[name])
    found = prepare_store(uri)
    assert list(found) == ["b", "a"]
    assert found == {name: numbers[name] for name in "ab"}


def test_prepare_says_why_a_store_cannot_be_opened(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"no database " * 100)
    with pytest.raises(InputError, match=r"cannot be opened \(.*file is not a database"):
        prepare_store(f"sqlite:///{path}", "x")


def test_the_reason_is_the_innermost_cause_on_one_short_line():
    outer = RuntimeError("request failed")
    outer.__cause__ = OSError(28, "No space left on device")
    assert _store.reason(outer) == "No space left on device"
    assert _store.reason(ValueError("a\n  b")) == "a b"
    assert len(_store.reason(ValueError("x" * 500))) == 120
    assert _store.reason(KeyError()) == "KeyError"


def test_a_refused_login_is_called_so(monkeypatch) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(MlflowException) as caught:
            _store.client(uri, 5).get_experiment_by_name("x")
        server.shutdown()
    assert _store.reason(caught.value).startswith("it rejects the login; set MLFLOW_TRACKING_USER")
