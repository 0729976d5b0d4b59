"""``famseg runs``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famseg.cli._say import say, say_json
from famseg.messages import InputError, counted, text_table

if TYPE_CHECKING:
    from famseg.reporting import Run

# The metrics of the list by default; a run has those of its task.
_FOREMOST = ("test/set1/skull/dsc", "test/set1/implant/dsc", "test/accuracy")
_MIB = 2**20
_CONTEXT = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    help="List run folders, or delete runs together with their MLflow runs.\n\n"
    "Examples:\n\n  famseg runs\n\n  famseg runs --in runs/lambda --metric test/set1/skull/hd95_mm"
    "\n\n  famseg runs delete runs/skull-lambda0-seed0",
    context_settings=_CONTEXT,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    folder: Annotated[
        list[Path] | None,
        typer.Option(
            "--in",
            metavar="FOLDER",
            help="Run folder, or a folder that contains runs; repeat the option for several.  "
            "[default: runs]",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Metric to show, such as test/set1/skull/hd95_mm; repeat the option for several. "
            "Default: the main metrics of the runs' pipelines.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with every metric.")] = False,
) -> None:
    if context.invoked_subcommand:
        return
    from famseg.reporting import find_runs

    found = find_runs(folder or [Path("runs")])
    listed = sorted(found.runs, key=lambda run: run.created)
    for note in found.notes:
        say(note, err=True)
    if as_json:
        say_json([_record(run) for run in listed])
        return
    shown = metric or [name for name in _FOREMOST if any(name in run.metrics for run in listed)]
    rows = [
        [
            *(str(run.path), run.state, run.method, str(run.seed)),
            *(f"{run.metrics[name]:.4f}" if name in run.metrics else "-" for name in shown),
        ]
        for run in listed
    ]
    header = ["run", "state", "method", "seed", *shown]
    say(text_table(header, rows, numbers=range(3, len(header))))


@app.command(context_settings=_CONTEXT)
def delete(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    keep_mlflow: Annotated[
        bool, typer.Option("--keep-mlflow", help="Keep the runs in MLflow.")
    ] = False,
) -> None:
    """Delete run folders, and mark their runs in MLflow as deleted.

    Asks before it deletes anything. A run that is being trained or evaluated is not deleted. MLflow
    keeps deleted runs until mlflow gc; until then they can be restored there. Exit status: 0
    deleted, 1 not confirmed, 2 wrong input.
    """
    import shutil

    from famseg.runs import lease, open_run_folder

    paths = [open_run_folder(folder).path for folder in dict.fromkeys(folders)]
    links = [
        f"{path}: is a symbolic link. Give the folder itself."
        for path in paths
        if path.is_symlink()
    ]
    if links:
        raise InputError(*links)
    for path in paths:
        say(f"{path}: {_size(path)}")
    if not yes:
        beside = "" if keep_mlflow else " and in MLflow"
        if not typer.confirm(f"Delete {counted(len(paths), 'run folder')}{beside}?", err=True):
            raise typer.Exit(1)
    for path in paths:
        with lease(path, purpose="delete"):
            told = "" if keep_mlflow else _delete_tracked(path)
            shutil.rmtree(path)
        say(f"{path}: deleted{told}")


def _record(run: Run) -> dict[str, object]:
    return {
        "path": str(run.path),
        "pipeline": run.pipeline,
        "state": run.state,
        "method": run.method,
        "seed": run.seed,
        "created": run.created,
        "metrics": dict(run.metrics),
    }


def _size(path: Path) -> str:
    files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    size = sum(file.stat().st_size for file in files) / _MIB
    return f"{counted(len(files), 'file')}, {size:.1f} MiB"


def _delete_tracked(path: Path) -> str:
    """Delete the run in MLflow; return a remark about it."""
    from famseg.config import read
    from famseg.files import read_json
    from famseg.tracking import delete_run

    identity = path / "tracking.json"
    if not identity.is_file():
        return " (it was not tracked in MLflow)"
    settings = read(str(path / "config.yaml")).values.get("tracking")
    uri = settings.get("uri") if isinstance(settings, dict) else None
    found = delete_run(read_json(identity, "Delete the folder only: --keep-mlflow."), uri=uri)
    return ", and its run in MLflow" if found else " (MLflow has no such run)"
