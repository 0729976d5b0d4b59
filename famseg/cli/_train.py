"""``famseg train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from famseg.cli._say import say, say_json
from famseg.config import load

if TYPE_CHECKING:
    from famseg.engine import RunConfig

EXAMPLES = """
Examples:

  famseg train --config skull.yaml

  famseg train --config skull.yaml lambda=0.02 seed=1

  famseg train --config skull_folder.yaml data.root=/data/skulls

  famseg train --config skull.yaml --resume

  torchrun --nproc-per-node 2 -m famseg train --config skull.yaml
"""


def train(
    config: Annotated[
        str,
        typer.Option(
            "--config", "-c", help="A path, or the name of a shipped configuration (skull)."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Overrides, such as lambda=0.02 seed=1 data.root=FOLDER."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the newest run of this name, if there is one."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Train a network, evaluate it and track the run."""
    pipeline, loaded = load(config, overrides or [])
    from famseg.cli._progress import progress
    from famseg.cli._summary import as_dict, summary_text
    from famseg.engine import Session, processes, stop_on_signals

    run_config = cast("RunConfig", loaded)
    with processes(run_config.training.device) as group, stop_on_signals() as stop:
        session = Session(pipeline.build, run_config, processes=group, stop=stop)
        with progress(pipeline.KEY_METRIC) as display:
            report = session.run(resume=resume, observers=[display])
        if not group.main:
            return
        if as_json:
            say_json(as_dict(report))
        else:
            say(summary_text(report, run_config))


train.__doc__ = f"{train.__doc__}\n{EXAMPLES}"
