"""The command ``famseg``. Imports torch, MONAI and MLflow only once a command needs them."""

from famseg import _libraries
from famseg.cli._main import app, main

# This applies only to the command and the processes that it starts; importing famseg as a library
# leaves Python's imports unchanged. It must come before the import of MONAI, which then takes a
# third of the time.
_libraries.install()

__all__ = ["app", "main"]
