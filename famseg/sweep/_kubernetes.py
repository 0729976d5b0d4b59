"""Trials as an Indexed Job of Kubernetes: a manifest for kubectl."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from famseg.messages import InputError
from famseg.sweep._folder import SweepFolder
from famseg.sweep._trials import Trial

_LARGEST_BYTES = 900_000  # of all configurations, since a ConfigMap contains at most 1 MiB
_RETRIES = 6
_GRACE_S = 120
_COMMAND = (
    'trial=$(sed -n "$((JOB_COMPLETION_INDEX + 1))p" /sweep/trials.txt); '
    'exec famseg train --config "/sweep/$trial.yaml" --into "{runs}/$trial" {extra}'
)


@dataclass(frozen=True)
class Cluster:
    """The settings of a cluster in a manifest.

    Args:
        image: The image of famseg.
        claim: Name of the persistent volume claim for the run folders, which all nodes can write.
        data: Name of the claim with the data, mounted at ``/data``; None for none.
        gpus: GPUs of each trial.
        cpus: Cores of each trial.
        memory: Memory of each trial, such as ``8Gi``.
    """

    image: str
    claim: str
    data: str | None = None
    gpus: int = 0
    cpus: int = 2
    memory: str = "8Gi"


def manifest(
    folder: SweepFolder,
    trials: Sequence[Trial],
    cluster: Cluster,
    *,
    jobs: int | None,
    extra: Sequence[str] = (),
) -> str:
    """Return a ConfigMap with the configurations and an Indexed Job that trains them.

    A pod that is evicted or killed is restarted up to six times per trial, and resumes; run folders
    are in ``/runs/SWEEP`` of the claim.

    Args:
        folder: The sweep, whose name is that of the job.
        trials: The trials, in the order of their indices.
        cluster: The settings of the cluster.
        jobs: Largest number of simultaneous pods; None for all.
        extra: Overrides of keys that may change when a run is resumed.

    Raises:
        InputError: If the configurations together are too long for a ConfigMap.
    """
    name = re.sub(r"[^a-z0-9-]+", "-", folder.sweep_id.lower()).strip("-")[-50:].strip("-")
    files = {f"{trial.name}.yaml": trial.config for trial in trials}
    files["trials.txt"] = "".join(f"{trial.name}\n" for trial in trials)
    if sum(map(len, files.values())) > _LARGEST_BYTES:
        raise InputError(
            f"--backend kubernetes: the configurations of {len(trials)} trials are too long for "
            "one job. Submit fewer of them with --limit, and the rest as another sweep."
        )
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "immutable": True,
        "data": files,
    }
    documents = [settings, _job(name, len(trials), cluster, jobs, extra)]
    return "---\n".join(yaml.safe_dump(each, sort_keys=False) for each in documents)


def _job(
    name: str, trials: int, cluster: Cluster, jobs: int | None, extra: Sequence[str]
) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "famseg"}},
        "spec": {
            "completionMode": "Indexed",
            "completions": trials,
            "parallelism": min(jobs or trials, trials),
            "backoffLimitPerIndex": _RETRIES,
            "template": {
                "metadata": {"labels": {"app.kubernetes.io/name": "famseg"}},
                "spec": _pod(name, cluster, extra),
            },
        },
    }


def _pod(name: str, cluster: Cluster, extra: Sequence[str]) -> dict[str, Any]:
    mounts = [
        ("sweep", "/sweep", True),
        ("runs", "/runs", False),
        ("home", "/home/famseg", False),
        ("tmp", "/tmp", False),  # noqa: S108  # inside the container
        ("shm", "/dev/shm", False),  # noqa: S108
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "sweep", "configMap": {"name": name}},
        {"name": "runs", "persistentVolumeClaim": {"claimName": cluster.claim}},
        {"name": "home", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        # Workers transfer batches here; the default of Kubernetes is 64 MB.
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
    ]
    if cluster.data is not None:
        mounts.append(("data", "/data", True))
        claim = {"claimName": cluster.data, "readOnly": True}
        volumes.append({"name": "data", "persistentVolumeClaim": claim})
    limits: dict[str, Any] = {"memory": cluster.memory}
    if cluster.gpus:
        limits["nvidia.com/gpu"] = str(cluster.gpus)
    command = _COMMAND.format(runs=f"/runs/{name}", extra=" ".join(extra)).strip()
    return {
        "restartPolicy": "Never",  # a retry is a new pod, possibly on another node
        "automountServiceAccountToken": False,
        # A training that is told to stop finishes its step and saves.
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "train",
                "image": cluster.image,
                "command": ["dumb-init", "--single-child", "--", "/bin/sh", "-c", command],
                "env": [{"name": "OMP_NUM_THREADS", "value": str(cluster.cpus)}],
                "resources": {
                    "requests": {"cpu": str(cluster.cpus), "memory": cluster.memory},
                    "limits": limits,
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": volume, "mountPath": path, **({"readOnly": True} if fixed else {})}
                    for volume, path, fixed in mounts
                ],
            }
        ],
        "volumes": volumes,
    }
