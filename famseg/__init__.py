"""Relative flatness aware minimization (FAM) for skull reconstruction and beyond.

The subpackages and `FAM` are loaded on first use, so that importing famseg takes milliseconds and
does not import torch. For type checkers they are declared in ``__init__.pyi``.
"""

import os
from importlib import import_module

__version__ = "0.1.0"

# The subpackages of the library, which do not include the command, famseg.cli.
_PACKAGES = (
    "adapters",
    "config",
    "datasets",
    "engine",
    "evaluation",
    "export",
    "flatness",
    "meshes",
    "messages",
    "metrics",
    "models",
    "objectives",
    "preparation",
    "reconstruction",
    "reporting",
    "runs",
    "statistics",
    "sweep",
    "tracking",
    "volumes",
)
__all__ = ["FAM", "__version__", *_PACKAGES]

# Set before either is imported, which is when they read it, so that no usage data are sent.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "true")


# Without lazy_loader, which other subpackages use, since famseg.flatness needs only torch.
def __getattr__(name: str) -> object:
    if name == "FAM":
        return import_module("famseg.flatness").FAM
    if name not in _PACKAGES:
        raise AttributeError(f"module 'famseg' has no attribute {name!r}")
    try:
        return import_module(f"famseg.{name}")  # this sets the attribute
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"famseg.{name} needs {error.name}, which is not installed. Run: pip install famseg",
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    return __all__
