"""The first page of a run in the MLflow UI: description, data, main results, load."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import psutil

DESCRIPTION_TAG = "mlflow.note.content"
_SYSTEM = "system/"  # the UI shows metrics with this prefix on a separate tab
_MEGABYTE = 1e6
_FEW = 30  # number of results that fit on the first page
_BESIDE = ("n", "failed")  # counts that apply to every mean of their group
_LONGEST_DIGEST = 16  # characters; MLflow allows 36


class Dataset(NamedTuple):
    """The data of a run: its name, the beginning of its hash, and its source as JSON."""

    name: str
    digest: str
    source: str


def foremost(results: Mapping[str, float], scores: Sequence[str]) -> dict[str, float]:
    """Return the results of an evaluation to show on a run's first page.

    An evaluation of skulls gives hundreds of numbers: each region of each test set, and the same
    for baselines. The page of a run lists all metrics in one table, in which the main ones are hard
    to find.

    Args:
        results: Names, whose groups are separated by ``/``, and values.
        scores: Names of the metrics that the experiment's comparison charts.

    Returns:
        Everything if there are few results or no scores. Otherwise the scores with their standard
        deviations (``_std``), the counts ``n`` and ``failed`` of their groups, and the numbers
        that belong to a whole test set, such as ``test/set1/variance_ratio``.

    Example:
        >>> extra = {f"test/set1/mirror/m{i}": 0.0 for i in range(40)}
        >>> kept = {"test/set1/skull/dsc": 0.9, "test/set1/skull/dsc_std": 0.1}
        >>> counts = {"test/set1/skull/n": 9.0, "test/set1/variance_ratio": 0.8}
        >>> foremost(kept | counts | extra, ["val/dsc", "test/set1/skull/dsc"]) == kept | counts
        True
    """
    if len(results) <= _FEW or not any(name in results for name in scores):
        return dict(results)
    groups = {name.rpartition("/")[0] for name in scores if name in results}
    sets = {group.rpartition("/")[0] for group in groups}
    kept = {each for name in scores for each in (name, f"{name}_std")}
    kept |= {f"{group}/{count}" for group in groups for count in _BESIDE}
    return {
        name: value
        for name, value in results.items()
        if name in kept or name.rpartition("/")[0] in sets
    }


def description(method: str | None, parameters: Mapping[str, object]) -> str:
    """Return the description of a run in Markdown, for the field "Description" of its page.

    Args:
        method: The method's label, see :func:`famseg.tracking.method_label`.
        parameters: The configuration under dotted names.

    Example:
        >>> print(description("FAM lambda=0.1", {"pipeline": "skull", "data.kind": "phantom"}))
        **FAM lambda=0.1**, pipeline `skull`, data `phantom`.
        <BLANKLINE>
        All results are under *Artifacts* in `evaluation`; the page of the run is `report.html`.
    """
    parts = [f"**{method}**" if method else "A training"]
    for word, key in (
        ("pipeline", "pipeline"),
        ("data", "data.kind"),
        ("seed", "seed"),
        ("epochs", "training.epochs"),
    ):
        if parameters.get(key) is not None:
            parts.append(f"{word} `{parameters[key]}`")
    return (
        f"{', '.join(parts)}.\n\n"
        "All results are under *Artifacts* in `evaluation`; the page of the run is `report.html`."
    )


def dataset_of(parameters: Mapping[str, object], data_hash: str | None) -> Dataset | None:
    """Return the dataset of a run for MLflow; None if its hash is not known.

    Args:
        parameters: The configuration under dotted names.
        data_hash: SHA-256 of the data, as in the provenance.

    Example:
        >>> dataset_of({"data.kind": "phantom", "seed": 0}, "4bb1baafd58f275c25")
        Dataset(name='phantom', digest='4bb1baafd58f275c', source='{"kind": "phantom"}')
    """
    if not data_hash:
        return None
    beginning = "data."
    section = {
        key.removeprefix(beginning): value
        for key, value in parameters.items()
        if key.startswith(beginning)
    }
    return Dataset(
        name=str(section.get("kind") or "data"),
        digest=data_hash[:_LONGEST_DIGEST],
        source=json.dumps(section, default=str),
    )


def system_metrics() -> dict[str, float]:
    """Return the load of the machine under the names of MLflow's system metrics.

    Processor utilization is the mean since the last call. For GPUs it is the memory reserved by
    this process, if it uses torch with CUDA. A call takes less than a millisecond, so there is no
    sampling thread. Empty if the user has disabled system metrics
    (``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false``).
    """
    if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in ("false", "0"):
        return {}
    memory = psutil.virtual_memory()
    found = {
        "cpu_utilization_percentage": psutil.cpu_percent(interval=None),
        "system_memory_usage_megabytes": memory.used / _MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_usage_megabytes": psutil.Process().memory_info().rss / _MEGABYTE,
    }
    torch = sys.modules.get("torch")  # not imported just for this
    if torch is not None and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            reserved = torch.cuda.memory_reserved(index) / _MEGABYTE
            found[f"gpu_{index}_memory_usage_megabytes"] = reserved
    return {f"{_SYSTEM}{name}": float(value) for name, value in found.items()}
