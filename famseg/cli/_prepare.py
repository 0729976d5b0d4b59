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

from famseg.cli._download import USED, download, is_download, refuse_options
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

# A scan of 512 x 512 x 300 voxels needs up to 2 GiB; the rest is for what else the process holds.
_WORKER_BYTES = 3 * 1024**3


class LayoutName(StrEnum):
    """What a source may be."""

    auto = "auto"
    folder = "folder"
    dicom = "dicom"
    skullfix = "skullfix"
    skullbreak = "skullbreak"
    mug500 = "mug500"
    scidata2021 = "scidata2021"


class CropName(StrEnum):
    """What is kept of a head."""

    vault = "vault"
    none = "none"


class AlignName(StrEnum):
    """What happens to the attitude of heads without a template."""

    none = "none"
    symmetry = "symmetry"


class HolesName(StrEnum):
    """What happens to holes in the bone."""

    keep = "keep"
    enclosed = "enclosed"
    close = "close"


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
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the result.")],
    layout: Annotated[
        LayoutName, typer.Option(help="What the source is; auto recognizes it.")
    ] = LayoutName.auto,
    size: Annotated[
        str, typer.Option(metavar="N|fit", help="Voxels along each edge; fit: as each skull needs.")
    ] = "128",
    spacing_mm: Annotated[
        str,
        typer.Option(metavar="MM|keep", help="Edge of a voxel; keep: each scan's own, and fits."),
    ] = "1.75",
    threshold_hu: Annotated[float, typer.Option(help="Bone lies above it in CT scans.")] = 226.0,
    threshold: Annotated[
        float | None, typer.Option(help="The same for scans without HU; found if left out.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Align every skull to this one.")
    ] = None,
    align: Annotated[
        AlignName,
        typer.Option(
            help="Without --template: none leaves heads as they lie; symmetry puts them upright by "
            "their plane of symmetry and the base of the skull."
        ),
    ] = AlignName.none,
    crop: Annotated[
        CropName, typer.Option(help="vault: cut the neck off; none: keep all that hangs together.")
    ] = CropName.vault,
    below_vertex_mm: Annotated[float, typer.Option(help="Height that --crop vault keeps.")] = 150.0,
    holes: Annotated[
        HolesName,
        typer.Option(help="enclosed: fill closed cavities; close: bridge gaps, too; keep."),
    ] = HolesName.enclosed,
    close_mm: Annotated[float, typer.Option(help="Widest gap that --holes close bridges.")] = 4.0,
    residual_limit_mm: Annotated[
        float, typer.Option(help="Warn of a surface farther than this from the template's.")
    ] = 6.0,
    defect_limit_cm2: Annotated[
        float, typer.Option(help="Report holes in the vault from this area on.")
    ] = 4.0,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="N|NAME",
            help="Label of the skull in label maps, by number or name; several: 'skull,mandible'.",
        ),
    ] = None,
    every_series: Annotated[
        bool,
        typer.Option(
            "--every-series",
            help="Take every DICOM series, not only the best of those that show one head in one "
            "study.",
        ),
    ] = False,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Scans in whose paths this regular expression finds the same text are one person, "
            "e.g. 'sub-[0-9]+'; DICOM headers are grouped without it.",
        ),
    ] = None,
    keep_implausible: Annotated[
        bool,
        typer.Option(
            "--keep-implausible",
            help="Train also on what is not a skull by its size, such as the skulls of infants.",
        ),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default what cores and memory allow.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be done; write nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Do everything again, with other settings if need be.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="FAMSEG_MIRROR",
            help="Download from this address in place of the official ones.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Turn CT scans, masks or meshes of heads into aligned, checked binary skulls.

    Writes skulls, manifest.csv, report.html and report.csv to DIR. The same command goes on where
    an earlier one stopped. Exit status: 0 all done, 1 some subjects failed, 2 nothing could be
    prepared. The name of a public data set in place of SOURCE downloads its original files; only
    --out, --mirror, --dry-run and --json go with it.
    """
    if is_download(source, out):
        refuse_options(context, USED, "is for scans, not for a download")
        download(str(source), out, mirror=mirror, dry_run=dry_run, as_json=as_json)
        return
    others = {parameter.name or "" for parameter in context.command.params} - {"mirror"}
    refuse_options(context, others, f"is for downloads, and {source} is not one")
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
        raise InputError("--align: --template aligns already; give one of the two")
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
            "nothing is a skull by its size and shape, so there is no manifest: see the report; "
            "--keep-implausible takes them nevertheless",
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
        raise InputError(f"{option}: {text!r} is neither a number nor {word}") from None


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
    """Look at the source; nothing is written."""
    from famseg.preparation import find_sources, plan_run

    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder: name the scans")
    found = find_sources(source, layout=layout.value, every_series=every_series)
    stated = {**asdict(settings), "template_sha256": _sha256(template)}
    if not found.sources:
        refused = [f"{r.subject}: {r.reason}" for r in found.refused]
        raise InputError(*(refused or [f"{source}: holds nothing that can be prepared"]))
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
    """Do what is planned; a signal or a full disk ends it with what to do."""
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
                # There is nothing to save from a crash, and a second process would import
                # everything once more: half the time that a small scan takes.
                calm()
                count = 0
            return prepare_folder(plan, steps, workers=count, force=force, progress=display)
    except Interrupted as stop:
        again = "what is finished is kept; go on with the same command"
        say(f"famseg: {stop}; {again}", err=True)
        raise typer.Exit(128 + stop.signum) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"{plan.folder.path}: the disk is full. Make room, then go on with the same command."
        ) from error


def default_workers(subjects: int) -> int:
    """Return how many processes cores and free memory allow, at least one."""
    from famseg.tracking import free_memory, usable_cores

    return max(min(usable_cores(), free_memory() // _WORKER_BYTES, subjects), 1)
