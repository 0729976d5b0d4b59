"""``famseg evaluate``."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from famseg.config import load

if TYPE_CHECKING:
    from famseg.engine import RunConfig

EXAMPLES = """
Examples:

  famseg evaluate runs/skull-lambda0.002-seed0

  famseg evaluate runs/skull-lambda0.002-seed0 --checkpoint last --json
"""


class Which(StrEnum):
    """The checkpoints that a run keeps."""

    best = "best"
    last = "last"


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    checkpoint: Annotated[
        Which,
        typer.Option(help="best: highest validation metric; last: end of the training."),
    ] = Which.best,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output.")
    ] = False,
) -> None:
    """Evaluate a trained run on its test sets; rewrites the run's evaluation folder."""
    from famseg.engine import open_run_folder

    folder = open_run_folder(run)
    pipeline, loaded = load(str(folder.config))
    config = cast("RunConfig", loaded)

    from famseg.engine import load_checkpoint, processes
    from famseg.evaluation import table

    with processes() as group:
        state = load_checkpoint(folder.checkpoint(checkpoint))
        device = config.training.choose_device(group)
        experiment = pipeline.build(config, device)
        model = experiment.objective.to(device).model
        model.load_state_dict(state["model"])
        summary = experiment.evaluate(model, folder.evaluation, processes=group)
        if not group.main:
            return
        if as_json:
            typer.echo(json.dumps(summary, indent=2))
        else:
            typer.echo(f"{folder.checkpoint(checkpoint)}, epoch {state['epoch']}\n")
            typer.echo(table(summary))
            typer.echo(f"\nper case     {folder.evaluation / 'cases.csv'}")


evaluate.__doc__ = f"{evaluate.__doc__}\n{EXAMPLES}"
