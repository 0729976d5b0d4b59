"""Relative flatness aware minimization (FAM) for skull reconstruction and beyond.

The sub-packages, and `FAM` itself, are loaded when they are first used: importing famseg takes
milliseconds and imports no torch. What they are to a type checker stands in ``__init__.pyi``.
"""

import os
from importlib import import_module

__version__ = "0.1.0"

# The sub-packages that are a library. The command, famseg.cli, is not one.
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

# Before either is imported, which is when they read it: nothing is reported to anybody.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "true")


# Not lazy_loader, which the sub-packages use: famseg.flatness works where only torch is installed.
def __getattr__(name: str) -> object:
    if name == "FAM":
        return import_module("famseg.flatness").FAM
    if name not in _PACKAGES:
        raise AttributeError(f"module 'famseg' has no attribute {name!r}")
    try:
        return import_module(f"famseg.{name}")  # which sets the attribute
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"famseg.{name} needs {error.name}, which is not installed. Run: pip install famseg",
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    return __all__
