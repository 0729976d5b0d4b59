"""A prepared SQLite store: its tables are created once and copied, since that takes seconds."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from famseg.tracking import _store, resolve_uri
from famseg.tracking._quiet import quiet

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow import MlflowClient


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with quiet():
        _store.open_store(f"sqlite:///{path}", 10)
    return path


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    """The URI of a store with empty tables."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return resolve_uri(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def client(uri: str) -> MlflowClient:
    """A client of that store, to read what arrived."""
    with quiet():
        return _store.client(uri, 10)
