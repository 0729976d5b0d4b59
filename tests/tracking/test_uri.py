from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy

from famseg.messages import InputError
from famseg.tracking import resolve_uri, without_password
from famseg.tracking._uri import sqlite_path, uri_fault


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///mlflow.db",
        "sqlite:////data/runs/mlflow.db",
        "sqlite:////data/mlflow.db?timeout=5&cache=shared",
        "http://localhost:5000",
        "https://mlflow.example.org/prefix",
        "postgresql://user@host/db",
        "mysql+pymysql://user@host/db",
    ],
)
def test_a_good_address_has_no_fault(uri):
    assert uri_fault(uri) is None


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "is empty. Remove it, or write sqlite:///mlflow.db"),
        (" http://a", "' http://a' begins or ends with a space. Remove it"),
        (
            "file:///data/mlruns/",
            "MLflow no longer writes to folders ('file:///data/mlruns/'). Write "
            "sqlite:////data/mlruns/mlflow.db",
        ),
        (
            "file:mlruns",
            "MLflow no longer writes to folders ('file:mlruns'). Write sqlite:///mlruns/mlflow.db",
        ),
        ("./mlruns", "'./mlruns' is a path, not a store. Write sqlite:///mlruns/mlflow.db"),
        ("a/b.db", "'a/b.db' is a path, not a store. Write sqlite:///a/b.db"),
        ("localhost:5000", "'localhost:5000' has no scheme. For a server write"),
        (
            "sqlite:///odd?x%/ml.db",
            "'sqlite:///odd?x%/ml.db' has a question mark in its path. Write "
            "sqlite:///odd%3Fx%25/ml.db",
        ),
        ("sqlite://mlflow.db", "'sqlite://mlflow.db' needs a third slash. Write sqlite:///mlf"),
        ("sqlite:///", "'sqlite:///' names no file. Write sqlite:///mlflow.db"),
        ("http://", "'http://' names no server. Write http://HOST:5000"),
        ("ftp://host", "unknown scheme 'ftp'. Write sqlite:///mlflow.db, http://HOST:5000 or a"),
    ],
)
def test_a_faulty_address_is_refused_with_what_to_write(uri, message):
    with pytest.raises(InputError) as caught:
        resolve_uri(uri)
    assert str(caught.value).startswith(f"tracking.uri: {message}")


def test_the_default_is_a_file_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert resolve_uri() == f"sqlite:///{tmp_path}/mlflow.db"


def test_the_environment_replaces_the_default_and_yields_to_the_configuration(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:1")
    assert resolve_uri() == "http://from-environment:1"
    assert resolve_uri("http://from-config:2") == "http://from-config:2"


def test_an_empty_variable_counts_as_unset(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.chdir(tmp_path)
    assert resolve_uri() == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_fault_of_the_environment_is_blamed_on_it(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///old")
    with pytest.raises(InputError, match=r"^MLFLOW_TRACKING_URI: MLflow no longer writes"):
        resolve_uri()


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert sqlite_path("sqlite:///~/mlflow.db") == Path("/home/somebody/mlflow.db")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://localhost:5000", "http://localhost:5000"),
        ("postgresql://ann@host:5432/db", "postgresql://ann@host:5432/db"),
        ("http://ann:s3cret!@host:5000/a", "http://ann:***@host:5000/a"),
        ("famseg ui tracking.uri=mysql+pymysql://a:b@c/d", None),
        ("sqlite:////data/a@b:c/mlflow.db", "sqlite:////data/a@b:c/mlflow.db"),
    ],
)
def test_passwords_are_not_shown(text, shown):
    assert without_password(text) == (shown or text.replace(":b@", ":***@"))


def test_a_fault_does_not_show_a_password():
    with pytest.raises(InputError) as caught:
        resolve_uri("file://ann:secret@host/x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["why?", "50%", "a%20b", "a#b", "a b"])
def test_what_addresses_set_apart_may_stand_in_a_path(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    uri = resolve_uri("sqlite:///mlflow.db?timeout=5")
    url = sqlalchemy.make_url(uri)
    assert (url.database, dict(url.query)) == (str(folder / "mlflow.db"), {"timeout": "5"})
    assert sqlite_path(uri) == folder / "mlflow.db"
    assert resolve_uri(uri) == uri
    assert uri_fault(f"{folder}").endswith(uri.partition("?")[0])
