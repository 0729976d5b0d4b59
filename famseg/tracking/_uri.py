"""The address of the MLflow store; does not import MLflow, so that configurations load fast."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from famseg.messages import InputError

VARIABLE = "MLFLOW_TRACKING_URI"
DEFAULT_URI = "sqlite:///mlflow.db"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SQLITE = "sqlite:///"


def uri_fault(uri: str) -> str | None:
    """Return what is wrong with the address of an MLflow store, and what to write instead.

    Args:
        uri: The address as a user wrote it.

    Returns:
        The error message, or None if the address is valid.

    Example:
        >>> uri_fault("sqlite:///mlflow.db") is None
        True
        >>> print(uri_fault("file:///data/mlruns"))
        MLflow no longer writes to folders ('file:///data/mlruns'). Write \
sqlite:////data/mlruns/mlflow.db
        >>> print(uri_fault("localhost:5000"))
        'localhost:5000' has no scheme. For a server write http://localhost:5000
    """
    if uri == "":
        return f"is empty. Remove it, or write {DEFAULT_URI}"
    if uri != uri.strip():
        return f"{uri!r} begins or ends with a space. Remove it"
    scheme, separator, rest = uri.partition("://")
    if not separator and re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        return f"{uri!r} has no scheme. For a server write http://{uri}"
    if not separator and not uri.startswith("file:"):
        database = uri if uri.endswith((".db", ".sqlite", ".sqlite3")) else f"{uri}/mlflow.db"
        return f"{uri!r} is a path, not a store. Write {_SQLITE}{escaped(Path(database))}"
    if uri.startswith("file:"):
        folder = (rest or uri.removeprefix("file:")).rstrip("/")
        return f"MLflow no longer writes to folders ({uri!r}). Write {_SQLITE}{folder}/mlflow.db"
    return _scheme_fault(uri, scheme, rest)


def _scheme_fault(uri: str, scheme: str, rest: str) -> str | None:
    dialect = scheme.split("+")[0]
    if scheme in ("http", "https"):
        return None if rest.strip("/") else f"{uri!r} names no server. Write http://HOST:5000"
    if dialect not in _DATABASES:
        return (
            f"unknown scheme {scheme!r}. Write {DEFAULT_URI}, http://HOST:5000 or a database "
            "address (postgresql, mysql, mssql)"
        )
    if dialect == "sqlite" and not rest.startswith("/"):
        return f"{uri!r} needs a third slash. Write {_SQLITE}{rest or 'mlflow.db'}"
    if dialect == "sqlite" and not rest.strip("/"):
        return f"{uri!r} names no file. Write {DEFAULT_URI}"
    query = rest.partition("?")[2]
    if dialect == "sqlite" and query and not re.fullmatch(r"\w+=[^/&]*(&\w+=[^/&]*)*", query):
        path = escaped(Path(unquote(rest)))
        return f"{uri!r} has a question mark in its path. Write {scheme}://{path}"
    return None


def resolve_uri(uri: str | None = None) -> str:
    """Return the address of the store that is used, with an absolute path for SQLite.

    A given ``uri`` wins over the environment variable ``MLFLOW_TRACKING_URI``; without both it is
    ``mlflow.db`` in the working folder. Absolute, so that a later change of the working folder
    does not split a run over two stores. In the path of a SQLite file ``?`` and ``%`` are escaped
    (``%3F``, ``%25``).

    Args:
        uri: The address from the configuration, or None.

    Returns:
        The address in MLflow's form.

    Raises:
        InputError: If the address cannot be one of a store; says what to write instead.

    Example:
        >>> resolve_uri("http://localhost:5000")
        'http://localhost:5000'
        >>> resolve_uri("sqlite:////data/mlflow.db")
        'sqlite:////data/mlflow.db'
        >>> resolve_uri("sqlite:///mlflow.db").endswith("/mlflow.db")
        True
    """
    where = "tracking.uri"
    if uri is None:
        # MLflow itself treats an empty variable as unset.
        uri = os.environ.get(VARIABLE) or DEFAULT_URI
        where = VARIABLE
    fault = uri_fault(uri)
    if fault is not None:
        raise InputError(f"{where}: {without_password(fault)}")
    path = sqlite_path(uri)
    if path is None:
        return uri
    query = uri.partition("?")[2]
    return f"{uri.partition('///')[0]}///{escaped(path)}{query and '?'}{query}"


def escaped(path: Path) -> str:
    """Return a path escaped for the address of a store.

    SQLAlchemy decodes ``%`` escapes and interprets text after ``?`` as options.

    Example:
        >>> escaped(Path("/data/50%/why?/mlflow.db"))
        '/data/50%25/why%3F/mlflow.db'
    """
    return path.as_posix().replace("%", "%25").replace("?", "%3F")


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the database file of a SQLite address, else None.

    Example:
        >>> sqlite_path("sqlite:////data/mlflow.db").as_posix()
        '/data/mlflow.db'
        >>> sqlite_path("sqlite:////data/mlflow.db?timeout=5").as_posix()
        '/data/mlflow.db'
        >>> sqlite_path("sqlite:////data/why%3F/mlflow.db").as_posix()
        '/data/why?/mlflow.db'
        >>> sqlite_path("http://localhost:5000") is None
        True
    """
    if not uri.startswith("sqlite"):
        return None
    return Path(unquote(uri.partition("///")[2].partition("?")[0])).expanduser().absolute()


def without_password(text: str) -> str:
    """Return a text in which the password of an address is masked.

    Example:
        >>> without_password("postgresql://ann:secret@host/db")
        'postgresql://ann:***@host/db'
        >>> without_password("http://localhost:5000")
        'http://localhost:5000'
    """
    return re.sub(r"(:/+[^/\s:@]*:)[^/\s@]+@", r"\1***@", text)
