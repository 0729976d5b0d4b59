"""The command ``famseg``. Imports torch, MONAI and MLflow only once a command needs them."""

from famseg import _libraries
from famseg.cli._main import app, main

# This affects only the command and its child processes; importing famseg as a library does not
# change Python's imports. It must precede the import of MONAI, which then takes a third of the
# time.
_libraries.install()

__all__ = ["app", "main"]
