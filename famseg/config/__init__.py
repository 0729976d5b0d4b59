"""Configuration: YAML files read into strict sections (pydantic); imports no torch."""

from famseg.config._check import check
from famseg.config._document import Document, read
from famseg.config._files import find_config
from famseg.config._load import load, pipeline_of
from famseg.config._paths import PathText
from famseg.config._pipelines import load_pipeline, pipeline_names
from famseg.config._strict import Strict
from famseg.config._write import differences, flatten, schema, to_yaml
from famseg.messages import InputError, RunError

__all__ = [
    "Document",
    "InputError",
    "PathText",
    "RunError",
    "Strict",
    "check",
    "differences",
    "find_config",
    "flatten",
    "load",
    "load_pipeline",
    "pipeline_names",
    "pipeline_of",
    "read",
    "schema",
    "to_yaml",
]
