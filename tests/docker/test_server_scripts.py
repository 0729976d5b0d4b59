"""The scripts around the MLflow server of docker/compose.yaml, with stand-ins for what they ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

DOCKER = Path(__file__).resolve().parents[2] / "docker"
ADMIN = "Basic YWRtaW46cw=="  # admin:s


class Server(HTTPServer):
    """What an MLflow server knows of logins."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.passwords = {"admin": "s"}
        self.permissions: dict[tuple[str, str, str], str] = {}

    def answer(self, method: str, name: str, values: Mapping[str, str]) -> tuple[int, Any]:
        user = values.get("username", "")
        match method, name:
            case "GET", "2.0/mlflow/users/get":
                return (200, {}) if user in self.passwords else (404, {})
            case ("POST", "2.0/mlflow/users/create") | (
                "PATCH",
                "2.0/mlflow/users/update-password",
            ):
                if len(values["password"]) < 12:
                    return 400, {"message": "too short"}
                self.passwords[user] = values["password"]
                return 200, {}
            case "GET", "2.0/mlflow/experiments/get-by-name":
                known = values["experiment_name"] == "skulls"
                return (200, {"experiment": {"experiment_id": "7"}}) if known else (404, {})
            case "POST", "3.0/mlflow/users/permissions/grant":
                key = (values["resource_type"], values["resource_id"], user)
                self.permissions[key] = values["permission"]
                return 200, {}
        return 405, {}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def handle_one(self) -> None:
        address = urlparse(self.path)
        values = {key: value[0] for key, value in parse_qs(address.query).items()}
        if self.command != "GET":
            values = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = address.path.removeprefix("/api/")
        status, found = 401, {"message": "who?"}
        if self.headers["Authorization"] == ADMIN:
            status, found = self.server.answer(self.command, name, values)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    do_GET = do_POST = do_PATCH = handle_one  # noqa: N815  # the names that the base calls

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def make_login(server: Server, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.server_port}",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "s",
        **more,
    }
    command = [sys.executable, "-S", str(DOCKER / "mlflow" / "make_login.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_login_of_trainings_gets_the_password_of_the_secret(server: Server) -> None:
    for password, said in (("0123456789ab", "made"), ("ba9876543210", "has a new password")):
        done = make_login(server, "famseg", FAMSEG_WRITER_PASSWORD=password)
        assert (done.returncode, done.stdout) == (0, f"famseg: {said}\n")
        assert server.passwords["famseg"] == password


def test_a_person_gets_a_random_password_and_may_write_to_an_experiment(server: Server) -> None:
    secret = {"FAMSEG_WRITER_PASSWORD": "0123456789ab"}  # of trainings, and of nobody else
    for _ in range(2):
        done = make_login(server, "anna", "skulls", **secret)
        first, second = done.stdout.splitlines()
        assert first.rpartition(" ")[2] == server.passwords["anna"] != "0123456789ab"
        assert second == "anna: writes to skulls"
        assert server.permissions == {("experiment", "7", "anna"): "EDIT"}


def test_what_a_server_refuses_is_said_in_one_line(server: Server) -> None:
    done = make_login(server, "anna", "nowhere")
    assert done.returncode == 1
    assert done.stderr == "no experiment is called 'nowhere'\n"
    done = make_login(server, "famseg", **{"FAMSEG_WRITER_PASSWORD": "short"})
    assert "the server refuses (400)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = make_login(server, "anna", **{"MLFLOW_TRACKING_PASSWORD": "wrong"})
    assert "the server refuses (401)" in done.stderr


# Notes what it is asked to do; a dump and an archive are words.
STAND_IN = """\
#!/bin/sh
shift 3  # compose -f FILE
echo "$*" >>"$LOG"
case "$*" in
    *pg_dump*) [ -z "$BROKEN" ] || exit 1; echo dump ;;
    *"-cf -"*) echo archive ;;
    *pg_restore* | *"-xf -"*) cat >>"$LOG" ;;
esac
"""


def store(folder: Path, *words: str, broken: str = "") -> tuple[int, str, list[str]]:
    docker, log = folder / "bin" / "docker", folder / "log"
    docker.parent.mkdir(exist_ok=True)
    docker.write_text(STAND_IN)
    docker.chmod(0o755)
    log.write_text("")
    path = f"{docker.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [DOCKER / "store.sh", *words],
        env={"PATH": path, "LOG": str(log), "BROKEN": broken},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr, log.read_text().splitlines()


def test_a_backup_is_taken_of_a_stopped_server_and_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    status, _, asked = store(tmp_path, "backup", str(folder))
    assert status == 0
    assert (folder / "database.dump").read_text() == "dump\n"
    assert (folder / "artifacts.tar").read_text() == "archive\n"
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}
    assert asked[:2] == ["up -d --wait db", "stop mlflow"]
    assert asked[-1] == "up -d mlflow"

    status, _, asked = store(tmp_path, "restore", str(folder))
    assert status == 0
    order = [line.split()[3] if line.startswith("exec") else line for line in asked]
    assert order[1:6] == ["stop mlflow", "dropdb", "createdb", "pg_restore", "dump"]
    assert asked[-2:] == ["archive", "up -d mlflow"]


def test_an_upgrade_begins_with_a_backup(tmp_path: Path) -> None:
    status, _, asked = store(tmp_path, "upgrade", str(tmp_path / "backup"))
    assert status == 0
    (dumped,) = [at for at, line in enumerate(asked) if "pg_dump" in line]
    (upgraded,) = [at for at, line in enumerate(asked) if "mlflow db upgrade" in line]
    assert dumped < upgraded < asked.index("up -d mlflow")


def test_a_backup_that_fails_leaves_no_backup_and_a_running_server(tmp_path: Path) -> None:
    status, _, asked = store(tmp_path, "upgrade", str(tmp_path / "backup"), broken="yes")
    assert status == 1
    assert not (tmp_path / "backup" / "database.dump").exists()
    assert not any("upgrade" in line for line in asked)
    assert asked[-1] == "up -d mlflow"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "docker/store.sh backup FOLDER"),
        (("delete", "x"), "docker/store.sh backup FOLDER"),
        (("restore", "/nowhere"), "/nowhere/database.dump is missing"),
    ],
)
def test_wrong_words_touch_nothing(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    status, text, asked = store(tmp_path, *words)
    assert status == 2
    assert said in text
    assert asked == []


def test_an_older_backup_is_not_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    folder.mkdir()
    (folder / "database.dump").write_text("older")
    status, text, _ = store(tmp_path, "backup", str(folder))
    assert (status, (folder / "database.dump").read_text()) == (2, "older")
    assert "holds a backup already" in text
