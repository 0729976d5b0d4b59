"""Make a login of the MLflow server that is not an administrator, or give it a new password.

    docker compose -f docker/compose.yaml run --rm login NAME [EXPERIMENT...]

Everybody who has a login reads all runs. A login writes to the experiments that it made, and to
those that are named here. Its password is that of the variable ``FAMSEG_WRITER_PASSWORD`` for the
login ``famseg``, under which trainings write, and a random one otherwise, which is printed once.
The administrator's login is taken from MLflow's own variables. Exit status 1 if the server refuses.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

TIMEOUT_S = 30.0
TRAININGS = "famseg"


class Server:
    """An MLflow server, spoken to as its administrator."""

    def __init__(self, address: str, user: str, password: str) -> None:
        self.address = address.rstrip("/") + "/api/"
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}

    def ask(self, method: str, name: str, **values: str) -> dict[str, Any] | None:
        """Return the answer, or None where what was asked for does not exist.

        Raises:
            SystemExit: If the server cannot be reached or refuses.
        """
        address, body = self.address + name, None
        if method == "GET":
            address += "?" + urllib.parse.urlencode(values)
        else:
            body = json.dumps(values).encode()
        request = urllib.request.Request(address, body, self.headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            said = error.read().decode(errors="replace").strip()
            sys.exit(f"{name}: the server refuses ({error.code}): {said[:300]}")
        except OSError as error:
            sys.exit(f"{self.address} cannot be reached: {getattr(error, 'reason', error)}")


def make(server: Server, name: str, password: str) -> str:
    """Make the login or renew its password; return what was done."""
    if server.ask("GET", "2.0/mlflow/users/get", username=name) is None:
        server.ask("POST", "2.0/mlflow/users/create", username=name, password=password)
        return "made"
    server.ask("PATCH", "2.0/mlflow/users/update-password", username=name, password=password)
    return "has a new password"


def allow(server: Server, name: str, experiment: str) -> None:
    """Let a login write to an experiment."""
    found = server.ask("GET", "2.0/mlflow/experiments/get-by-name", experiment_name=experiment)
    if found is None:
        sys.exit(f"no experiment is called {experiment!r}")
    granted = server.ask(
        "POST",
        "3.0/mlflow/users/permissions/grant",
        username=name,
        resource_type="experiment",
        resource_id=found["experiment"]["experiment_id"],
        permission="EDIT",
    )
    if granted is None:
        sys.exit("the server knows no such permission: it needs MLflow 3.17")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="the login")
    parser.add_argument("experiments", nargs="*", help="experiments that it shall write to")
    options = parser.parse_args()
    variables = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    if missing := [each for each in variables if not os.environ.get(each)]:
        parser.error(f"{', '.join(missing)}: not set; they name the server and its administrator")
    server = Server(*(os.environ[each] for each in variables))
    given = os.environ.get("FAMSEG_WRITER_PASSWORD") if options.name == TRAININGS else None
    password = given or secrets.token_urlsafe(18)
    done = make(server, options.name, password)
    print(f"{options.name}: {done}" + ("" if given else f": {password}"))
    for experiment in options.experiments:
        allow(server, options.name, experiment)
        print(f"{options.name}: writes to {experiment}")


if __name__ == "__main__":
    main()
