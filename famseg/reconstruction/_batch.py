"""Reconstruction of many skulls in turn; finished cases are kept even if others fail."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import famseg
from famseg.files import open_to_update, read_json, write_json
from famseg.messages import InputError
from famseg.preparation.batch import FATAL, files_content, impersonal, reason_of
from famseg.reconstruction._coarse import CoarseNetwork
from famseg.reconstruction._dicom_seg import dicom_seg, on_slices, plan_of
from famseg.reconstruction._inputs import Input
from famseg.reconstruction._reconstruct import Options, network_sha256, reconstruct
from famseg.reconstruction._save import CASE, Outputs, Result, save_case

CASE_VERSION = 2
"""Part of every key; increased when the same input and options give different files."""

STATE = "reconstruct.json"
_PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "scikit-image", "manifold3d")

Told = Callable[["Done", int, int], None]
Begun = Callable[[str, str], None]


@dataclass(frozen=True)
class Done:
    """The result for an input.

    Args:
        name: Its name.
        status: ``done``, ``unchanged`` (was done before) or ``failed``.
        reason: Why it failed, in one line.
        case: The content of its ``case.json``; None if it failed.
    """

    name: str
    status: Literal["done", "unchanged", "failed"]
    reason: str = ""
    case: dict[str, Any] | None = None


def reconstruct_all(
    inputs: Sequence[Input],
    network: CoarseNetwork,
    out: Path,
    options: Options,
    outputs: Outputs,
    *,
    force: bool = False,
    refused: Mapping[str, str] | None = None,
    begun: Begun = lambda name, stage: None,
    told: Told = lambda done, count, of: None,
) -> list[Done]:
    """Reconstruct each skull into its own folder; finished cases are skipped.

    A case is skipped if its input (SHA-256 of the files), the network, the options and the
    version of famseg are the same as before and none of its files has changed.

    Args:
        inputs: From `find_inputs`.
        network: From `load_network`.
        out: The output folder; it gets one folder per input, named after it.
        options: The options of a reconstruction.
        outputs: The files to write.
        force: Do everything again.
        refused: Names and reasons of inputs that could not be read; they are recorded as failed.
        begun: Called with the name of an input and the stage that begins.
        told: Called after each input with its result, the number of finished inputs and of all.

    Returns:
        The results in the order of the inputs.

    Raises:
        InputError: If another reconstruction is writing to the folder.
        OSError: If the disk is full or read-only.
    """
    # Nine parameters; an object for the four keyword options would be used only once.
    results = []
    model = network_sha256(network)
    with _alone(out):
        _write_state(out, network, model, options, outputs, failed={})
        for count, each in enumerate(inputs, start=1):
            job = _Job(each, network, model, out / each.name, options, outputs, force)
            results.append(_one(job, begun))
            told(results[-1], count, len(inputs))
        failed = {done.name: done.reason for done in results if done.status == "failed"}
        _write_state(out, network, model, options, outputs, failed=failed | dict(refused or {}))
    return results


@dataclass(frozen=True)
class _Job:
    input: Input
    network: CoarseNetwork
    model: str
    folder: Path
    options: Options
    outputs: Outputs
    force: bool


def _one(job: _Job, begun: Begun) -> Done:
    source, name = job.input.source, job.input.name
    try:
        begun(name, "reading")
        content = files_content(source)
        key = _key(job, content)
        before = None if job.force else _finished(job.folder, key)
        if before is not None:
            return Done(name, "unchanged", case=before)
        scan = source.read()
        result = reconstruct(scan, job.network, job.options, stage=lambda stage: begun(name, stage))
        begun(name, "writing")
        facts = {
            "name": name,
            "key": key,
            "input": {"kind": job.input.kind, "sha256": content, **result.case["input"]},
            "model": {"name": job.network.name, "sha256": job.model},
            **{k: v for k, v in result.case.items() if k != "input"},
            "versions": _versions(),
        }
        facts["warnings"] = [impersonal(w, source) for w in facts["warnings"]]
        extra = _dicom_seg(job, result, facts["warnings"])
        case = save_case(
            result,
            job.folder,
            job.outputs,
            facts=facts,
            ending=job.input.ending,
            space=job.input.space(),
            extra=extra,
        )
        return Done(name, "done", case=case)
    except (Exception, MemoryError) as error:
        if isinstance(error, OSError) and error.errno in FATAL:
            raise
        (job.folder / CASE).unlink(missing_ok=True)
        return Done(name, "failed", impersonal(reason_of(error), source))


def _dicom_seg(job: _Job, result: Result, warnings: list[str]) -> dict[str, bytes]:
    """Return the DICOM segmentation of a case by name, if requested, or warn why there is none."""
    plan = plan_of(job.input.source)
    if not job.outputs.dicom_seg or plan is None:
        return {}
    if not on_slices(plan):
        warnings.append(
            "No DICOM segmentation was written: the slices were moved because of a tilt or gaps "
            "between them, so that the result is not on their pixel grid."
        )
        return {}
    parts = {"skull": result.completed & ~result.implant, "implant": result.implant}
    return {"segmentation.dcm": dicom_seg(plan, parts, result.affine)}


def _key(job: _Job, content: str) -> str:
    """Return the hash of everything that determines a case's files."""
    what = {
        "case": CASE_VERSION,
        "famseg": famseg.__version__,
        "input": content,
        "kind": job.input.kind,
        "ending": job.input.ending,
        "model": job.model,
        "options": asdict(job.options),
        "outputs": asdict(job.outputs),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the record of a case if it is complete and has this key."""
    try:
        case = read_json(folder / CASE, "")
        if case.get("key") != key:
            return None
        for name, sha256 in case["files"].items():
            with (folder / Path(name).name).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                    return None
    except (InputError, OSError, AttributeError, KeyError, TypeError):
        return None  # missing or damaged: the case is reconstructed again
    return case


def _write_state(
    out: Path,
    network: CoarseNetwork,
    model: str,
    options: Options,
    outputs: Outputs,
    *,
    failed: Mapping[str, str],
) -> None:
    write_json(
        out / STATE,
        {
            "model": {"name": network.name, "sha256": model},
            "options": asdict(options),
            "outputs": asdict(outputs),
            "versions": _versions(),
            "failed": dict(failed),
        },
    )


def _versions() -> dict[str, str]:
    versions = {"famseg": famseg.__version__, "python": platform.python_version()}
    return versions | {name: metadata.version(name) for name in _PACKAGES}


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lock the folder against other reconstructions, and remove temporary files of killed ones."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open_to_update(out / ".lock")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"--out {out}: cannot be written to ({error.strerror}): choose another folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"--out {out}: another famseg reconstruct is writing there: wait until it ends"
            ) from None
        for part in out.rglob(".*.part*"):
            part.unlink(missing_ok=True)
        yield
