from __future__ import annotations

import getpass
import json
import math
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

import famseg
from famseg.files import write_json
from famseg.tracking import provenance, provenance_tags
from famseg.tracking._provenance import _commit


@pytest.fixture
def record():
    return provenance(
        config_text="seed: 0\n", seed=0, device="cpu", data_hash="d" * 64, weights_hash="e"
    )


def git(folder, *arguments):
    setting = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(
        ["git", "-C", str(folder), *setting, *arguments], check=True, capture_output=True
    )


@pytest.fixture
def checkout(tmp_path):
    """A repository that contains a package, like a source checkout."""
    package = tmp_path / "checkout" / "famseg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path / "checkout", "init", "-q")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "-q", "-m", "a")
    return package


def test_it_names_what_a_result_depends_on(record):
    assert record["seed"] == 0
    assert (record["data_hash"], record["weights_hash"]) == ("d" * 64, "e")
    assert record["versions"]["famseg"] == famseg.__version__
    assert all(record["versions"][name] for name in ("python", "torch", "monai", "mlflow"))
    assert record["machine"]["device"] == "cpu"
    assert record["machine"]["threads"] >= 1
    assert json.loads(json.dumps(record)) == record


def test_it_holds_no_personal_data(monkeypatch):
    home = str(Path.home())
    command = ["famseg", "train", f"output={home}/runs"]
    record = provenance(config_text="", seed=0, device="cpu", command=command)
    assert record["command"] == ("famseg train output=~/runs" if home != "/" else " ".join(command))
    text = json.dumps(record)
    assert socket.gethostname() not in text
    if getpass.getuser() != "root":  # a word that stands for more than a name
        assert getpass.getuser() not in text


def test_another_configuration_has_another_hash(record):
    other = provenance(config_text="seed: 1\n", seed=0, device="cpu")
    assert other["config_hash"] != record["config_hash"]


def test_the_commit_is_that_of_the_checkout(checkout):
    head = (checkout.parent / ".git" / "HEAD").read_text().split()[-1]
    assert _commit(checkout) == ((checkout.parent / ".git" / head).read_text().strip(), False)
    (checkout / "__init__.py").write_text("changed = True\n")
    assert _commit(checkout)[1] is True


def test_the_repository_around_an_installation_is_not_ours(checkout, monkeypatch):
    installed = checkout.parent / ".venv" / "famseg"
    shutil.copytree(checkout, installed)
    monkeypatch.delenv("FAMSEG_COMMIT", raising=False)
    assert _commit(installed) == (None, None)
    monkeypatch.setenv("FAMSEG_COMMIT", "abc")
    assert _commit(installed) == ("abc", None)


def test_no_git_is_no_error(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("FAMSEG_COMMIT", raising=False)
    assert _commit(checkout) == (None, None)


def test_tags_are_texts_and_leave_out_what_is_unknown(record):
    tags = provenance_tags({**record, "commit": None, "dirty": True})
    assert tags["seed"] == "0"
    assert tags["dirty"] == "true"
    assert tags["device"] == "cpu"
    assert tags["data_hash"] == "d" * 64
    assert tags["version.famseg"] == famseg.__version__
    assert "commit" not in tags
    assert all(isinstance(text, str) for text in tags.values())


def test_tags_of_nothing():
    assert provenance_tags({}) == {"mlflow.source.name": "famseg"}


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"name": "Schädel"})
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(path, {"dsc": math.nan})
    assert json.loads(path.read_text()) == {"name": "Schädel"}
    assert list(tmp_path.iterdir()) == [path]
