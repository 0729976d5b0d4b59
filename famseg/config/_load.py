"""Loading a checked configuration by its name."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from famseg.config._document import Document, read
from famseg.config._pipelines import load_pipeline, pipeline_names
from famseg.config._strict import Strict
from famseg.messages import InputError, listed


def load(name: str, overrides: Sequence[str] = ()) -> tuple[ModuleType, Strict]:
    """Read and check a configuration.

    Args:
        name: A path or a name, see :func:`find_config`.
        overrides: Texts ``key=value``, see :func:`read`.

    Returns:
        The module of the pipeline that the document names and the module's checked ``Config``.

    Raises:
        InputError: With every error, one line each.
    """
    document = read(name, overrides)
    pipeline = pipeline_of(document)
    try:
        module = load_pipeline(pipeline)
    except InputError as error:
        raise document.fault(str(error), "pipeline") from error
    config: type[Strict] = module.Config
    return module, document.validate(config)


def pipeline_of(document: Document) -> str:
    """Return the name of a document's pipeline from its top-level key ``pipeline``.

    Raises:
        InputError: If the key is missing.
    """
    name = document.values.get("pipeline")
    if name is None:
        raise document.fault(f"missing. Choose one of {listed(pipeline_names())}.", "pipeline")
    if not isinstance(name, str):
        message = f"must be one of {listed(pipeline_names())}, not {name!r}"
        raise document.fault(" ".join(message.split()), "pipeline")
    return name
