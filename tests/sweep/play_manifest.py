"""Runs the pods of a sweep's manifest with ``podman kube play``: ``MANIFEST IMAGE``.

podman does not support Indexed Jobs: each index runs as a pod of the job's template, with the
variable that Kubernetes sets, one after the other. Prints the output of each. IMAGE replaces
famseg's image.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml


def pod(job: dict, index: int, image: str) -> dict:
    """Return the pod of an index."""
    spec = json.loads(json.dumps(job["spec"]["template"]["spec"]))
    for container in spec["containers"]:
        container["image"] = image
        container["env"] = [
            *container.get("env", []),
            {"name": "JOB_COMPLETION_INDEX", "value": str(index)},
        ]
        container["resources"]["limits"].pop("nvidia.com/gpu", None)
    name = f"{job['metadata']['name']}-{index}"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def podman(*words: str) -> str:
    """Run podman; return its output."""
    done = subprocess.run(["podman", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"podman {' '.join(words)}: {done.stderr}")
    return done.stdout


def main() -> None:
    """Run all indices."""
    manifest, image = sys.argv[1:]
    settings, job = yaml.safe_load_all(Path(manifest).read_text())
    for index in range(job["spec"]["completions"]):
        documents = [settings, pod(job, index, image)]
        name = documents[1]["metadata"]["name"]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump_all(documents, file)
            file.flush()
            podman("kube", "play", "--network", "none", file.name)
        status = podman("wait", f"{name}-train").strip()
        print(f"{name}: exit {status}: {podman('logs', f'{name}-train').strip()}")
        podman("pod", "rm", "--force", name)


if __name__ == "__main__":
    main()
