"""The command ``famseg``. Imports torch, MONAI and MLflow only once a command needs them."""

from famseg import _libraries
from famseg.cli._main import app, main

# Of the command alone, and the processes that it starts: whoever imports famseg as a library finds
# Python's imports as they were. Before MONAI is imported, which then takes a third of the time.
_libraries.install()

__all__ = ["app", "main"]
