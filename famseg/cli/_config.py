"""``famseg config``: look at configurations without running them; imports no torch.

Arguments follow the rule of ``famseg train``: ``--config FILE`` names the file, and each
``key=value`` changes it. An argument that cannot be an override is a file as well, which makes
``famseg config check configs/*.yaml`` work; a file called like an override (``lambda=0.1.yaml``)
needs ``--config`` or ``./`` in front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import typer

from famseg.cli._say import say, say_json
from famseg.messages import InputError

_OVERRIDE = re.compile(r"[^=/\\]*=")  # a dotted key contains no slash

_SHOW_EXAMPLES = """\b
Examples:
  famseg config show --config skull.yaml
  famseg config show --config skull.yaml lambda=0.01 training.epochs=5 > mine.yaml
  famseg config show smoke/skull --json
"""
_CHECK_EXAMPLES = """\b
Examples:
  famseg config check --config skull.yaml
  famseg config check --config skull.yaml lambda=0.01 data.root=../skulls
  famseg config check configs/*.yaml
"""
_SCHEMA_EXAMPLES = """\b
Examples:
  famseg config schema --pipeline skull
  famseg config schema --pipeline skull > skull.schema.json
"""

app = typer.Typer(help="Show and check configurations without running them.", no_args_is_help=True)

_Files = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration: a path, or the name of a shipped one.",
    ),
]
_Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE|KEY=VALUE]...",
        help="Overrides, such as lambda=0.01 or data.root=FOLDER, or configuration files.",
    ),
]


def files_and_overrides(
    files: Sequence[str] | None, arguments: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Return the files and the overrides of a command line.

    Args:
        files: The values of ``--config``.
        arguments: The remaining words: ``key=value``, and files without ``--config``.

    Example:
        >>> files_and_overrides(["skull"], ["seed=1", "runs/lambda=0.1/config.yaml"])
        (['skull', 'runs/lambda=0.1/config.yaml'], ['seed=1'])
    """
    arguments = arguments or []
    overrides = [each for each in arguments if _OVERRIDE.match(each)]
    return [*(files or []), *(each for each in arguments if not _OVERRIDE.match(each))], overrides


@app.command(epilog=_SHOW_EXAMPLES, short_help="Print a configuration as it would be run.")
def show(
    arguments: _Arguments = None,
    config: _Files = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")] = False,
) -> None:
    """Print a configuration as it would be run: bases, defaults and overrides combined.

    The output is itself a configuration.
    """
    files, overrides = files_and_overrides(config, arguments)
    if len(files) != 1:
        raise InputError(
            f"config show: takes one file, got {len(files)}. Name it with --config FILE; "
            "changes are written key=value."
        )
    from famseg.config import load, to_yaml  # pydantic

    _, section = load(files[0], overrides)
    if as_json:
        say_json(section.model_dump(mode="json"))
    else:
        say(to_yaml(section, header=_origin(files[0], overrides)), newline=False)


@app.command(
    epilog=_CHECK_EXAMPLES, short_help="Check configurations; list every error with its line."
)
def check(
    arguments: _Arguments = None,
    config: _Files = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Check configurations and list every error of every file with its line.

    Exit status: 0 if all files are correct, 2 if one of them is not.
    """
    files, overrides = files_and_overrides(config, arguments)
    if not files:
        raise InputError("config check: no file is given. Give one with --config FILE.")
    from famseg.config import load  # pydantic

    faults: dict[str, Sequence[str]] = {}
    for file in files:
        try:
            load(file, overrides)
        except InputError as error:
            faults[file] = error.faults
        else:
            faults[file] = ()
            if not as_json:
                say(f"{file}: ok")
    if as_json:
        rows = [{"file": each, "ok": not found, "errors": found} for each, found in faults.items()]
        say_json({"ok": not any(faults.values()), "files": rows})
    if any(faults.values()):
        raise InputError(*dict.fromkeys(each for found in faults.values() for each in found))


@app.command(
    name="schema",
    epilog=_SCHEMA_EXAMPLES,
    short_help="Print the JSON schema of a pipeline's configurations.",
)
def print_schema(
    pipeline: Annotated[
        str | None,
        typer.Option("--pipeline", metavar="NAME", help="Name of an installed pipeline."),
    ] = None,
) -> None:
    """Print the JSON schema of a pipeline's configurations: every key with its type and meaning."""
    from famseg.config import load_pipeline, pipeline_names, schema  # pydantic

    names = pipeline_names()
    if pipeline is None and len(names) != 1:
        installed = ", ".join(names) or "none"
        raise InputError(
            "config schema: no pipeline is given. Give one with --pipeline NAME. "
            f"Installed: {installed}."
        )
    module = load_pipeline(names[0] if pipeline is None else pipeline)
    say_json(schema(module.Config))


def _origin(file: str, overrides: Sequence[str]) -> str:
    """Return one line that says where a configuration comes from."""
    from famseg.config import read

    chain = ", which extends ".join(map(str, read(file).files))
    return f"Resolved from {chain}" + (f", with {' '.join(overrides)}" if overrides else "")
