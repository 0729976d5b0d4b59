from ._config import TrackingConfig as TrackingConfig
from ._flat import flat_figures as flat_figures
from ._flat import is_score as is_score
from ._later import add_artifact as add_artifact
from ._machine import free_memory as free_memory
from ._machine import memory_limit as memory_limit
from ._machine import processor_quota as processor_quota
from ._machine import usable_cores as usable_cores
from ._names import method_label as method_label
from ._names import run_name as run_name
from ._provenance import cores as cores
from ._provenance import cpu_name as cpu_name
from ._provenance import provenance as provenance
from ._provenance import provenance_tags as provenance_tags
from ._provenance import write_json as write_json
from ._record import LocalRecord as LocalRecord
from ._record import read_metrics as read_metrics
from ._record import write_atomically as write_atomically
from ._store import prepare_store as prepare_store
from ._tracker import Tracker as Tracker
from ._uri import resolve_uri as resolve_uri
from ._uri import sqlite_path as sqlite_path
from ._uri import without_password as without_password
from ._view import comparison_url as comparison_url

__all__ = [
    "LocalRecord",
    "Tracker",
    "TrackingConfig",
    "add_artifact",
    "comparison_url",
    "cores",
    "cpu_name",
    "flat_figures",
    "free_memory",
    "is_score",
    "memory_limit",
    "method_label",
    "prepare_store",
    "processor_quota",
    "provenance",
    "provenance_tags",
    "read_metrics",
    "resolve_uri",
    "run_name",
    "sqlite_path",
    "usable_cores",
    "without_password",
    "write_atomically",
    "write_json",
]
