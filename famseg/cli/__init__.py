"""The command ``famseg``. Imports torch, MONAI and MLflow only once a command needs them."""

from famseg.cli._main import main

__all__ = ["main"]
