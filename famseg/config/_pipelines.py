"""The pipelines that are installed, found through entry points."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import ModuleType

from famseg.config._strict import Strict
from famseg.messages import InputError, listed, near

GROUP = "famseg.pipelines"
"""The entry-point group: any package may add a pipeline, ``name = "package.module"``."""


def pipeline_names() -> list[str]:
    """Return the names of the pipelines that are installed, sorted."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=GROUP)})


def load_pipeline(name: str) -> ModuleType:
    """Return the module of a pipeline, which has ``Config``, the section for a whole document.

    Args:
        name: The name of its entry point in the group ``famseg.pipelines``.

    Raises:
        InputError: If there is none of this name, or its module cannot be used.

    Example:
        >>> load_pipeline("no such")
        Traceback (most recent call last):
        famseg.messages._errors.InputError: no pipeline is called 'no such'. Installed: ...
    """
    points = list(importlib.metadata.entry_points(group=GROUP, name=name))
    if not points:
        names = pipeline_names()
        meant = near(name, names)
        advice = f" Did you mean {meant}?" if meant else ""
        raise InputError(f"no pipeline is called {name!r}. Installed: {listed(names)}.{advice}")
    module = points[0].value
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"the pipeline {name} cannot be loaded from {module}: {error}. Install what it needs."
        ) from error
    config = getattr(loaded, "Config", None)
    if not (isinstance(config, type) and issubclass(config, Strict)):
        raise InputError(
            f"the pipeline {name} ({module}) has no class Config derived from "
            "famseg.config.Strict. Add it."
        )
    return loaded
