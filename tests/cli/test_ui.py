from __future__ import annotations

import contextlib
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import numpy as np
import psutil
import pytest
from chromium import chromium

from famseg.cli._ui import _names, _start, ui
from famseg.messages import InputError
from famseg.tracking import Tracker, run_name

FLAGS = (
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
)
LAMBDAS = (0.0, 0.002, 0.01)


def track_three_lambdas(uri):
    """Track three trainings with an image that differs in each step."""
    for weight in LAMBDAS:
        with Tracker.start(
            uri=uri,
            run_name=run_name(weight, 0),
            parameters={"seed": 0, "penalty": {"lambda": weight}},
            penalty_weight=weight,
            method=f"FAM lambda={weight:g}" if weight else "baseline",
            scores=("val/dsc", "test/set1/skull/dsc"),
        ) as tracker:
            for epoch in range(1, 7):
                loss = 1 / epoch + weight
                tracker.log_epoch(epoch, {"train/loss": loss, "val/dsc": 0.8 - loss / 10})
                if epoch % 2 == 0:
                    image = np.full((32, 96), 40 * epoch, np.uint8)
                    tracker.log_image(image, "validation", epoch)
            tracker.log_epoch(0, {"test/set1/skull/dsc": 0.7 + weight})


@contextlib.contextmanager
def running_ui(uri, *arguments, folder):
    """Start the command as a user does; return its process and output."""
    command = [sys.executable, "-m", "famseg", "ui", f"tracking.uri={uri}", "--json", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert process.stderr is not None
            assert line, process.stderr.read()
            yield process, json.loads(line)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The addresses of a running UI with three runs."""
    folder = tmp_path_factory.mktemp("ui")
    uri = f"sqlite:///{folder}/mlflow.db"
    track_three_lambdas(uri)
    with running_ui(uri, "--port", "0", folder=folder) as (_, addresses):
        yield addresses


@pytest.fixture(scope="module")
def context():
    """One for all pages: MLflow's scripts, ten megabytes, are read and compiled once."""
    with chromium(*FLAGS) as browser:
        yield browser.new_context(viewport={"width": 1700, "height": 2600})


@pytest.fixture
def page(context):
    page = context.new_page()
    yield page
    page.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.slow
def test_a_request_to_end_leaves_status_0_and_no_process(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with running_ui(uri, "--port", "0", folder=tmp_path) as (process, addresses):
        with urllib.request.urlopen(addresses["url"]) as answer:  # noqa: S310
            assert "MLflow" in answer.read().decode()
        assert addresses["compare"] is None  # nothing to compare yet
        children = psutil.Process(process.pid).children(recursive=True)
        assert 1 <= len(children) <= 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    assert {path.name for path in tmp_path.iterdir()} <= {
        "mlflow.db",
        "mlflow.db.lock",
        "mlartifacts",
    }


def wait_until(true):
    """Wait for the sending thread, by the system's clock, since that of the outbox is stopped."""
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("nothing happens for a minute")


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_outlives_its_server(tmp_path, caplog, monkeypatch, capsys):
    """The server is killed during the run and restarted: one warning, and nothing is lost."""
    caplog.set_level(logging.INFO, "famseg")
    now = [1000.0]
    monkeypatch.setattr("famseg.tracking._outbox.time.monotonic", lambda: now[0])
    uri, port = f"sqlite:///{tmp_path}/mlflow.db", str(free_port())
    with running_ui(uri, "--port", port, folder=tmp_path) as (_, addresses):
        tracker = Tracker.start(uri=addresses["url"], run_name="a", parameters={"seed": 0})
        tracker.log_epoch(1, {"a": 1.0})
        tracker.log_image(np.zeros((4, 4), np.uint8), "x", 1)
        wait_until(lambda: tracker.waiting == 0)
    for epoch in (2, 3):
        tracker.log_epoch(epoch, {"a": float(epoch)})
        tracker.log_image(np.zeros((4, 4), np.uint8), "x", epoch)
    wait_until(lambda: tracker.waiting == 4)
    with running_ui(uri, "--port", port, folder=tmp_path) as (_, addresses):
        now[0] += 100
        tracker.log_epoch(4, {"a": 4.0})
        tracker.finish()
        client = tracker._run._opened.client  # to query the server's data
        steps = [metric.step for metric in client.get_metric_history(tracker.run_id, "a")]
        assert steps == [1, 2, 3, 4]
        images = [file.path for file in client.list_artifacts(tracker.run_id, "images")]
        assert sum(name.endswith(".png") for name in images) == 3
        assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert tracker.waiting == 0
    assert capsys.readouterr().out == ""
    first, second = caplog.messages
    assert "does not answer (Connection refused)" in first
    assert f"MLflow store http://127.0.0.1:{port} is back" in second


@pytest.mark.nightly
@pytest.mark.slow
def test_runs_are_listed_by_lambda_as_a_number(shown, page):
    page.goto(shown["compare"].replace("&compareRunsMode=CHART", ""))
    page.get_by_text("lambda=0.01 seed=0").first.wait_for()
    page.wait_for_timeout(1000)
    names = page.get_by_text(re.compile(r"^lambda=[\d.]+ seed=0$")).all_inner_texts()
    assert names == [run_name(weight, 0) for weight in LAMBDAS]
    assert page.get_by_role("columnheader", name="lambda").count() >= 1


@pytest.mark.slow
def test_the_server_listens_to_this_machine_alone(shown):
    port = int(shown["url"].rpartition(":")[2])
    heard = {
        each.laddr.ip
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port
    }
    assert heard == {"127.0.0.1"}


def status_for(url, host):
    request = urllib.request.Request(url, headers={"Host": host})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - our own server
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


FOREIGN = (
    "evil.example",
    "10.evil.example",
    "10.evil.example:5000",
    "192.168.evil.example",
    "172.16.evil.example",
    "fd00:evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example:localhost",
    "1:80",
)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_page_of_another_name_is_not_answered(shown):
    """DNS rebinding: a request of a foreign page under a name that resolves to this machine."""
    assert {host: status_for(shown["url"], host) for host in FOREIGN} == dict.fromkeys(FOREIGN, 403)
    own = ("localhost", "localhost:8080", shown["url"].removeprefix("http://"), "127.0.0.1")
    assert {host: status_for(shown["url"], host) for host in own} == dict.fromkeys(own, 200)


def allowed(host, patterns):
    from mlflow.server.security_utils import is_allowed_host_header

    return is_allowed_host_header(patterns, host)


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0", "::", "gpu7.example"])  # noqa: S104
def test_names_are_exact_whatever_the_interface(bound):
    patterns = _names(bound, 5000)
    assert [host for host in FOREIGN if allowed(host, patterns)] == []
    assert all(allowed(host, patterns) for host in ("localhost:8080", "127.0.0.1", "[::1]:5000"))
    if bound == "gpu7.example":
        assert allowed("gpu7.example:5000", patterns)
    if bound == "0.0.0.0":  # noqa: S104
        assert allowed(f"{socket.gethostname().lower()}:5000", patterns)


@pytest.mark.parametrize("own", [None, "proxy.example"])
def test_hosts_that_the_user_names_are_not_overruled(own, monkeypatch):
    monkeypatch.delenv("MLFLOW_SERVER_ALLOWED_HOSTS", raising=False)
    if own is not None:
        monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", own)
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command))
    with tempfile.TemporaryFile() as log:
        _start("sqlite:////tmp/mlflow.db", "127.0.0.1", 5000, log)
    assert ("--allowed-hosts" in started[0]) == (own is None)


@pytest.mark.slow
def test_the_comparison_opens_with_its_charts(shown, page):
    page.goto(shown["compare"])
    for section in ("Over lambda", "Results", "Curves", "Images"):
        page.get_by_text(section, exact=True).first.wait_for()
    page.get_by_text("Parallel Coordinates").first.wait_for()
    page.locator(".js-plotly-plot .scatterlayer .point").first.wait_for()
    points = page.locator(".js-plotly-plot").filter(has_text="val/dsc").first
    assert points.locator(".scatterlayer .point").count() == len(LAMBDAS)


@pytest.mark.nightly
@pytest.mark.slow
def test_images_have_a_slider_over_the_steps_and_open_at_the_last(shown, page):
    page.goto(shown["compare"])
    slider = page.get_by_role("slider").first
    slider.scroll_into_view_if_needed()
    slider.wait_for()
    images = page.locator("img[src*='validation']")
    images.first.wait_for()
    assert slider.get_attribute("aria-valuenow") == "6"
    last = images.first.get_attribute("src")
    assert "step%2B6" in last or "step+6" in last
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        "old => !Array.from(document.images).some(image => image.src.endsWith(old))", arg=last
    )
    assert int(slider.get_attribute("aria-valuenow")) < 6


def test_a_server_elsewhere_is_only_pointed_to(monkeypatch, capsys):
    monkeypatch.setattr(
        "famseg.cli._ui.prepare_store", lambda uri, name, timeout_s: {"famseg": "3"}
    )
    ui(overrides=["tracking.uri=http://host:5000"], port=5000, host="127.0.0.1", browser=False)
    assert capsys.readouterr().out == (
        "MLflow UI        http://host:5000\n"
        "Compare lambdas  http://host:5000/#/experiments/3/runs?viewStateShareKey=famseg-lambda"
        "&compareRunsMode=CHART&workflowType=machine_learning\n"
        "Store            http://host:5000\n"
    )


def test_every_experiment_with_a_comparison_is_named(monkeypatch, capsys):
    asked = []

    def prepared(uri, name, timeout_s):
        asked.append(name)
        return {"famseg-classification": "4", "famseg": "3"}

    monkeypatch.setattr("famseg.cli._ui.prepare_store", prepared)
    options = {"port": 5000, "host": "127.0.0.1", "browser": False}
    ui(overrides=["tracking.uri=http://host:5000"], **options)
    lines = capsys.readouterr().out.splitlines()
    assert "/experiments/4/" in lines[1]
    assert lines[1].endswith("  (famseg-classification)")
    assert lines[2].endswith("  (famseg)")
    ui(overrides=["tracking.uri=http://host:5000", "tracking.experiment=mine"], **options)
    ui(overrides=["tracking.uri=http://host:5000"], as_json=True, **options)
    content = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert content["compare"] == content["experiments"]["famseg-classification"]
    assert asked == [None, "mine", None]


def test_a_port_in_use_is_one_line(tmp_path):
    override = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError) as caught:
            ui(overrides=[override], port=port, host="127.0.0.1")
    assert str(caught.value) == (
        f"command line: port {port} is in use. Choose another (--port {port + 1}), or --port 0 "
        "for any."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_interface_is_one_line():
    with pytest.raises(
        InputError, match=r"203\.0\.113\.1 is not an interface of this machine\. Leave"
    ):
        ui(overrides=["tracking.uri=sqlite:////tmp/x.db"], port=0, host="203.0.113.1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lambda=1", "command line: lambda=1: without --config FILE, only tracking.uri=ADDR"),
        ("tracking.uri=", "command line: tracking.uri=: without --config FILE, only"),
        ("tracking.uri=file:///x", "tracking.uri: MLflow no longer writes to folders"),
    ],
)
def test_a_faulty_argument_is_one_line(override, message):
    with pytest.raises(InputError) as caught:
        ui(overrides=[override], port=0, host="127.0.0.1")
    assert str(caught.value).startswith(message)


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database " * 100)
    with pytest.raises(InputError, match=r"cannot be opened \(.*file is not a database\)\. Check"):
        ui(overrides=[f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"], port=0, host="127.0.0.1")


@pytest.mark.slow
def test_a_server_that_ends_at_once_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("famseg.cli._ui.prepare_store", lambda uri, name, timeout_s: {})
    with pytest.raises(InputError, match=r"^the MLflow server did not start: .+"):
        ui(
            overrides=["tracking.uri=postgresql://nobody@127.0.0.1:9/none"],
            port=0,
            host="127.0.0.1",
            browser=False,
        )
