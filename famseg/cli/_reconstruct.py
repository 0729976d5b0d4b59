"""``famseg reconstruct``."""

from __future__ import annotations

import errno
import inspect
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from famseg.cli._common import (
    DEVICE,
    SEED,
    THREADS,
    DeviceOption,
    SeedOption,
    changes_among,
    changes_on_run,
    seed_of,
    value_of,
)
from famseg.cli._say import say, say_json
from famseg.messages import InputError, RunError

if TYPE_CHECKING:
    from famseg.reconstruction import CoarseNetwork, Done, Inputs, Options, Outputs

# The only keys that may change: where the model computes, and the noise of the agreement.
_KEYS = (DEVICE, THREADS, SEED)

EXAMPLES = """
Examples:

  famseg reconstruct builtin demo --out implants/demo

  famseg reconstruct builtin head.nii.gz --out implants

  famseg reconstruct builtin /data/ct --out implants --gap 0.8 --format stl

  famseg reconstruct runs/implant-lambda0-seed0 a.nrrd b.stl --out implants --json

  famseg reconstruct builtin /data/series --out implants --seg-nrrd --dicom-seg

  famseg reconstruct builtin head.nii.gz --out implants --report
"""


# Long, and with many parameters, because each option of the command is stated here once.
def reconstruct(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Network: builtin, a run folder, a checkpoint or a saved model."
        ),
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="Defective skulls or CT scans of them: NIfTI, NRRD, MHA, STL, PLY, DICOM series, "
            "folders or ZIP archives of these; demo makes a phantom with a defect (write ./demo "
            "for a folder of this name). Overrides, such as training.threads=4, may follow.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")],
    gap: Annotated[
        float, typer.Option(metavar="MM", help="Gap between implant and bone, in mm.")
    ] = 0.5,
    min_thickness: Annotated[
        float,
        typer.Option(
            metavar="MM",
            help="Minimum thickness of the implant in mm: the implant is thickened to it, and a "
            "thinner rim is removed.",
        ),
    ] = 2.0,
    remove_undercut: Annotated[
        bool,
        typer.Option(
            "--remove-undercut/--keep-undercut",
            help="Remove the parts of the implant that bone would block when it is inserted.",
        ),
    ] = True,
    formats: Annotated[
        str,
        typer.Option("--format", metavar="LIST", help="Mesh formats to write: stl, ply, 3mf."),
    ] = "stl,ply,3mf",
    seg_nrrd: Annotated[
        bool, typer.Option("--seg-nrrd", help="Also write a segmentation for 3D Slicer.")
    ] = False,
    dicom_seg: Annotated[
        bool,
        typer.Option(
            "--dicom-seg",
            help="Also write a DICOM segmentation for DICOM inputs; it contains the patient's name "
            "and ID, as the standard requires. Needs famseg[dicom-seg].",
        ),
    ] = False,
    threshold_hu: Annotated[
        float, typer.Option(help="Threshold of bone in CT scans, in HU.")
    ] = 226.0,
    threshold: Annotated[
        float | None,
        typer.Option(help="Threshold of bone in scans without HU. Default: found for each scan."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="N|NAME",
            help="Label of the skull in label maps, as a number or a name; several: "
            "'skull,mandible'.",
        ),
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Also write report.html: measurements, warnings, and a 3D view to turn and cut.",
        ),
    ] = False,
    device: DeviceOption = None,
    seed: SeedOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Reconstruct finished cases again.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Complete defective skulls and make their implants.

    Writes a folder per input to DIR: the completed skull, the implant and the agreement of the
    network's predictions (in percent) on the grid and in the format of the input, meshes of implant
    and skull, and case.json with all measurements. For research only: not a medical device. The
    same command resumes an interrupted one. Exit status: 0 all inputs were reconstructed, 1 some
    failed, 2 none could be reconstructed.
    """
    from famseg.reconstruction import Options, Outputs, check_dicom_seg, check_out, find_inputs

    inputs, changes = changes_among(inputs)
    overrides = changes_on_run(changes, device=device, seed=seed, allowed=_KEYS)
    options = Options(
        gap_mm=gap,
        min_thickness_mm=min_thickness,
        threshold_hu=threshold_hu,
        threshold=threshold,
        remove_undercut=remove_undercut,
        label=label,
    )
    options.settings()  # checks the thresholds before anything is read
    names: Any = tuple(name.strip().lower() for name in formats.split(",") if name.strip())
    outputs = Outputs(names, seg_nrrd=seg_nrrd, dicom_seg=dicom_seg)
    if dicom_seg:
        check_dicom_seg()
    check_out([path for path in inputs if str(path) != "demo"], out)
    found = find_inputs(_with_demo(inputs, out))
    if not found.found:
        raise InputError(*(f"{r.origin}: {r.reason}" for r in found.refused))
    network = _open(model, overrides)
    began = time.monotonic()
    done = _run(found, network, out, options, outputs, force=force)
    page = _report(done, out, wanted=report)
    _show(found, done, network, out, time.monotonic() - began, page, as_json=as_json)


reconstruct.__doc__ = f"{inspect.cleandoc(reconstruct.__doc__ or '')}\n{EXAMPLES}"


def _with_demo(inputs: Sequence[Path], out: Path) -> list[Path]:
    """Return the inputs; for the input demo, a phantom is written first."""
    from famseg.reconstruction import write_demo

    return [write_demo(out) if str(path) == "demo" else path for path in inputs]


def _open(model: str, overrides: Sequence[str]) -> CoarseNetwork:
    """Open the model on the device of the overrides, and print the device.

    Raises:
        InputError: If there is no such device or model.
    """
    from dataclasses import replace

    from famseg.engine import Processes, place_of
    from famseg.reconstruction import load_network

    device, threads = value_of(overrides, DEVICE), value_of(overrides, THREADS)
    place = place_of(device or "auto", threads, Processes())
    return replace(load_network(model, place), seed=seed_of(overrides))


def _run(
    found: Inputs,
    network: CoarseNetwork,
    out: Path,
    options: Options,
    outputs: Outputs,
    *,
    force: bool,
) -> list[Done]:
    """Reconstruct the cases; a signal or a full disk ends it with advice."""
    from famseg.engine import Interrupted, stop_on_signals
    from famseg.reconstruction import reconstruct_all

    try:
        with stop_on_signals(), _progress(found) as display:
            return reconstruct_all(
                found.found,
                network,
                out,
                options,
                outputs,
                force=force,
                refused={r.subject: r.reason for r in found.refused if not r.left_out},
                **display,
            )
    except Interrupted as stop:
        say(f"famseg: {stop}; finished cases are kept; resume with the same command", err=True)
        raise typer.Exit(128 + stop.signum) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"{out}: the disk is full. Free some space, then resume with the same command."
        ) from error


def _report(done: Sequence[Done], out: Path, *, wanted: bool) -> Path | None:
    """Write the pages if requested; if that fails, the reconstructions are still kept."""
    fresh = [each.name for each in done if each.status == "done"]
    page = out / "report.html"
    if not wanted:
        if fresh and page.is_file():
            say(
                f"famseg: {page} was written by an earlier call. Write it again with: famseg "
                f"report {shlex.quote(str(out))}",
                err=True,
            )
        return None
    if all(each.case is None for each in done):
        return None
    from famseg.reporting import write_reconstruction_pages

    try:
        return write_reconstruction_pages(out, only=fresh)
    except (InputError, OSError) as error:
        say(f"famseg: the report could not be written: {error}", err=True)
        return None


@contextmanager
def _progress(found: Inputs) -> Iterator[dict[str, Any]]:
    """Show the progress on standard error: a bar on a terminal, lines in a log."""
    from famseg.cli._progress import counting

    with counting("reconstructing") as count:
        for refused in found.refused:
            what = "left out" if refused.left_out else "refused"
            count.tell(f"{refused.subject}  {what}: {refused.reason}")
        count.update(0, len(found.found))

        def begun(name: str, stage: str) -> None:
            count.rename(f"{name}: {stage}")

        def told(done: Done, number: int, of: int) -> None:
            if done.case is not None or of > 1:  # a single input is covered by the error
                place = "" if count.drawn else f"{number}/{of}  "
                count.tell(f"{place}{done.name}  {_said(done)}")
            if count.drawn:
                count.update(number, of)

        yield {"begun": begun, "told": told}


def _said(done: Done) -> str:
    if done.case is None:
        return f"failed: {done.reason}"
    implant, confidence = done.case["implant"], done.case["confidence"]
    before = "unchanged, " if done.status == "unchanged" else ""
    return (
        f"{before}implant of {implant['volume_ml']:.1f} ml, confidence "
        f"{confidence['value']:.2f} ({confidence['level']})"
    )


def _show(
    found: Inputs,
    done: Sequence[Done],
    network: CoarseNetwork,
    out: Path,
    seconds: float,
    page: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print the result, and exit with the status for it."""
    from famseg.cli._progress import duration

    failed = [d for d in done if d.status == "failed"]
    refused = [r for r in found.refused if not r.left_out]
    good = [d for d in done if d.case is not None]
    if as_json:
        say_json(_as_dict(found, done, network, out, seconds, page))
    elif good:
        for each in good:
            _say_case(each, out)
        say(
            f"\nreconstructed {len(good)} of {len(done) + len(refused)} (unchanged: "
            f"{sum(d.status == 'unchanged' for d in done)}), failed: {len(failed)}, refused: "
            f"{len(refused)}; took {duration(seconds)}"
        )
        if page is not None:
            say(f"report: {page.resolve().as_uri()}")
        say("For research only: not a medical device.")
    if not good:
        raise InputError(
            *(f"{d.name}: {d.reason}" for d in failed),
            *(f"{r.origin}: {r.reason}" for r in refused),
        )
    if failed or refused:
        raise typer.Exit(1)


def _say_case(done: Done, out: Path) -> None:
    case = done.case or {}
    say(f"{done.name}  {_said(done)}")
    for warning in case["warnings"]:
        say(f"  look: {warning}")
    say(f"  {shlex.quote(str(out / done.name))}")


def _as_dict(
    found: Inputs,
    done: Sequence[Done],
    network: CoarseNetwork,
    out: Path,
    seconds: float,
    page: Path | None,
) -> dict[str, Any]:
    return {
        "folder": str(out),
        "report": None if page is None else str(page),
        "model": network.name,
        "seconds": round(seconds, 1),
        "cases": [
            {
                "name": d.name,
                "status": d.status,
                "reason": d.reason,
                "folder": str(out / d.name) if d.case is not None else None,
                "case": d.case,
            }
            for d in done
        ],
        "refused": [
            {"origin": r.origin, "reason": r.reason, "left_out": r.left_out} for r in found.refused
        ],
    }
