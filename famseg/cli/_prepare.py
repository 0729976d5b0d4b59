"""``famseg prepare``."""

from __future__ import annotations

import errno
import hashlib
import inspect
import time
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famseg.cli._common import refuse_options
from famseg.cli._download import USED, download, is_download
from famseg.cli._say import say
from famseg.messages import InputError, RunError

if TYPE_CHECKING:
    from famseg.preparation import Outcome, Plan, Settings

EXAMPLES = """
Examples:

  famseg prepare /data/ct --out prepared

  famseg prepare /data/ct --out prepared --dry-run

  famseg prepare skullfix.zip --out prepared --size 64 --spacing-mm 3.5

  famseg prepare masks --out prepared --template head.nii.gz --workers 2

  famseg prepare bids --out prepared --group-by 'sub-[0-9]+'

  famseg prepare cifar10 --out cifar10
"""

# A scan of 512 x 512 x 300 voxels needs up to 2 GiB; the rest is for the process itself.
_WORKER_BYTES = 3 * 1024**3


class LayoutName(StrEnum):
    """Layouts of a source."""

    auto = "auto"
    folder = "folder"
    dicom = "dicom"
    skullfix = "skullfix"
    skullbreak = "skullbreak"
    mug500 = "mug500"
    scidata2021 = "scidata2021"


class CropName(StrEnum):
    """Which part of a head is kept."""

    vault = "vault"
    none = "none"


class AlignName(StrEnum):
    """How heads are aligned without a template."""

    none = "none"
    symmetry = "symmetry"


class HolesName(StrEnum):
    """What is done to cavities and gaps in the bone."""

    keep = "keep"
    enclosed = "enclosed"
    close = "close"


# Long, and with many parameters, because each option of the command is stated here once.
def prepare(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, file or zip of scans, masks or meshes; or a set to download: cifar10, "
            "cifar100, svhn, svhn_extra, fashionmnist, rte.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")],
    layout: Annotated[
        LayoutName, typer.Option(help="Layout of the source. auto: detect it.")
    ] = LayoutName.auto,
    size: Annotated[
        str,
        typer.Option(
            metavar="N|fit",
            help="Voxels along each edge of the grid. fit: as many as each skull needs.",
        ),
    ] = "128",
    spacing_mm: Annotated[
        str,
        typer.Option(
            metavar="MM|keep",
            help="Edge of a voxel in mm. keep: as in each scan, on a grid that fits the skull.",
        ),
    ] = "1.75",
    threshold_hu: Annotated[
        float, typer.Option(help="Threshold of bone in CT scans, in HU.")
    ] = 226.0,
    threshold: Annotated[
        float | None,
        typer.Option(help="Threshold of bone in scans without HU. Default: found for each scan."),
    ] = None,
    template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Align every skull to this one.")
    ] = None,
    align: Annotated[
        AlignName,
        typer.Option(
            help="Alignment without --template. none: keep the pose of the scan; symmetry: set "
            "heads upright by their plane of symmetry and the base of the skull."
        ),
    ] = AlignName.none,
    crop: Annotated[
        CropName, typer.Option(help="vault: cut off the neck; none: keep all connected bone.")
    ] = CropName.vault,
    below_vertex_mm: Annotated[
        float, typer.Option(help="Height that --crop vault keeps, in mm below the vertex.")
    ] = 150.0,
    holes: Annotated[
        HolesName,
        typer.Option(
            help="enclosed: fill closed cavities; close: also bridge gaps; keep: change nothing."
        ),
    ] = HolesName.enclosed,
    close_mm: Annotated[
        float, typer.Option(help="Widest gap that --holes close bridges, in mm.")
    ] = 4.0,
    residual_limit_mm: Annotated[
        float,
        typer.Option(help="Warn if the surface is farther than this from the template's, in mm."),
    ] = 6.0,
    defect_limit_cm2: Annotated[
        float, typer.Option(help="Report defects of the vault of at least this area, in cm2.")
    ] = 4.0,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="N|NAME",
            help="Label of the skull in label maps, as a number or a name; several: "
            "'skull,mandible'.",
        ),
    ] = None,
    every_series: Annotated[
        bool,
        typer.Option(
            "--every-series",
            help="Prepare every DICOM series, not only the best one per head and study.",
        ),
    ] = False,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Regular expression that finds the person in the path of a scan, e.g. "
            "'sub-[0-9]+': scans with the same match are one person. DICOM scans are grouped by "
            "their headers without it.",
        ),
    ] = None,
    keep_implausible: Annotated[
        bool,
        typer.Option(
            "--keep-implausible",
            help="Also put skulls of an unusual size in the manifest, such as those of infants.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of worker processes. Default: as cores and memory allow."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be done; write nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Prepare everything again, even with other settings.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="FAMSEG_MIRROR",
            help="Download from this address instead of the official ones.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Turn CT scans, masks or meshes of heads into aligned, checked binary skulls.

    Writes skulls, manifest.csv, report.html and report.csv to DIR. The same command resumes an
    interrupted one. Exit status: 0 all subjects were prepared, 1 some failed, 2 none could be
    prepared. If SOURCE is the name of a public data set, its original files are downloaded; then
    only --out, --mirror, --dry-run and --json apply.
    """
    if is_download(source, out):
        refuse_options(context, USED, "applies to scans, not to a download")
        download(str(source), out, mirror=mirror, dry_run=dry_run, as_json=as_json)
        return
    others = {parameter.name or "" for parameter in context.command.params} - {"mirror"}
    refuse_options(context, others, f"applies only to downloads, and {source} is not one")
    from famseg.preparation import Settings

    settings = Settings(
        size=None if size == "fit" else int(_number(size, "--size", "fit")),
        spacing_mm=None if spacing_mm == "keep" else _number(spacing_mm, "--spacing-mm", "keep"),
        threshold_hu=threshold_hu,
        threshold=threshold,
        crop=crop.value,
        below_vertex_mm=below_vertex_mm,
        holes=holes.value,
        close_mm=close_mm,
        residual_limit_mm=residual_limit_mm,
        defect_limit_cm2=defect_limit_cm2,
        align=align.value,
        label=label,
    )
    if template is not None and _is_given(context, "align"):
        raise InputError(
            "--align: cannot be combined with --template, which aligns already; give one of them"
        )
    from famseg.cli._prepare_show import show_outcome, show_plan, unusable_because

    began = time.monotonic()
    plan = _plan(
        source,
        out,
        layout,
        settings,
        template,
        force=force,
        every_series=every_series,
        group_by=group_by,
        keep_implausible=keep_implausible,
    )
    if dry_run:
        show_plan(plan, as_json=as_json)
        return
    outcome = _run(plan, settings, template, workers, force=force)
    show_outcome(outcome, time.monotonic() - began, as_json=as_json)
    if not outcome.done:
        raise InputError(*(f"{r.subject}: {r.reason}" for r in outcome.undone))
    if len(outcome.unusable) == len(outcome.done):
        raise InputError(
            *(f"{r.subject}: {unusable_because(r)}" for r in outcome.unusable),
            "no subject has the size and shape of a skull, so no manifest was written: see the "
            "report, or use them anyway with --keep-implausible",
        )
    if outcome.undone:
        raise typer.Exit(1)


prepare.__doc__ = f"{inspect.cleandoc(prepare.__doc__ or '')}\n{EXAMPLES}"


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _number(text: str, option: str, word: str) -> float:
    try:
        return int(text) if option == "--size" else float(text)
    except ValueError:
        raise InputError(f"{option}: must be a number or {word}, got {text!r}") from None


# Its parameters are the options that the plan depends on; they have nothing else in common.
def _plan(
    source: Path,
    out: Path,
    layout: LayoutName,
    settings: Settings,
    template: Path | None,
    *,
    force: bool,
    every_series: bool,
    group_by: str | None,
    keep_implausible: bool,
) -> Plan:
    """Read the source and plan the work; nothing is written."""
    from famseg.preparation import find_sources, plan_run

    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder: give the folder of the scans")
    found = find_sources(source, layout=layout.value, every_series=every_series)
    stated = {**asdict(settings), "template_sha256": _sha256(template)}
    if not found.sources:
        refused = [f"{r.subject}: {r.reason}" for r in found.refused]
        raise InputError(*(refused or [f"{source}: contains nothing that can be prepared"]))
    return plan_run(
        found,
        source,
        out,
        stated,
        force=force,
        group_by=group_by,
        keep_implausible=keep_implausible,
    )


def _sha256(template: Path | None) -> str | None:
    if template is None:
        return None
    try:
        return hashlib.sha256(template.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"--template {template}: cannot be read ({error.strerror})") from error


def _run(
    plan: Plan, settings: Settings, template: Path | None, workers: int | None, *, force: bool
) -> Outcome:
    """Carry out the plan; a signal or a full disk ends it with advice."""
    from famseg.cli._prepare_show import progress
    from famseg.engine import Interrupted, stop_on_signals
    from famseg.preparation import prepare_folder, prepare_scan
    from famseg.preparation.batch import calm
    from famseg.volumes import read_volume

    shape = None if template is None else read_volume(template)
    steps = partial(prepare_scan, settings=settings, template=shape)
    count = workers or default_workers(len(plan.todo))
    try:
        with stop_on_signals(), progress(plan, count) as display:
            if len(plan.todo) == 1:
                # No other subject could be lost by a crash, and a second process would import
                # everything again, which takes half as long as a small scan.
                calm()
                count = 0
            return prepare_folder(plan, steps, workers=count, force=force, progress=display)
    except Interrupted as stop:
        again = "finished subjects are kept; resume with the same command"
        say(f"famseg: {stop}; {again}", err=True)
        raise typer.Exit(128 + stop.signum) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"{plan.folder.path}: the disk is full. Free some space, then resume with the same "
            "command."
        ) from error


def default_workers(subjects: int) -> int:
    """Return the number of processes that cores and free memory allow, at least one."""
    from famseg.tracking import free_memory, usable_cores

    return max(min(usable_cores(), free_memory() // _WORKER_BYTES, subjects), 1)
