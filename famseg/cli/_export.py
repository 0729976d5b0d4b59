"""``famseg export``."""

from __future__ import annotations

import inspect
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from famseg.cli._say import say

EXAMPLES = """
Examples:

  famseg export builtin --format bundle --out implant-bundle

  famseg export runs/implant-lambda0-seed0 --format onnx --out implant-onnx

  famseg export runs/skull-lambda0.002-seed0 --format torchscript --out skull --license LICENSE
"""


class Format(StrEnum):
    """What an export is written as."""

    bundle = "bundle"
    onnx = "onnx"
    torchscript = "torchscript"


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run folder of skull, implant or classification, a checkpoint of the first "
            "two, or builtin.",
        ),
    ],
    export_format: Annotated[
        Format,
        typer.Option("--format", help="bundle: for MONAI; onnx: for onnxruntime; torchscript."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="The folder; an older export is replaced if it is unchanged."
        ),
    ],
    license_file: Annotated[
        Path | None,
        typer.Option("--license", metavar="FILE", help="The license of the model, a text file."),
    ] = None,
) -> None:
    """Write a trained network for others, who need no famseg to run it.

    Writes the network with a model card, its license and the preprocessing. The export is compared
    with famseg before it gets its name. For research only: not a medical device.
    """
    from famseg.export import export_network, open_source

    source = open_source(run)
    written = export_network(source, export_format.value, out, license_file=license_file)
    megabytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    say(f"export       {out} ({export_format.value}, {megabytes:.1f} MB)")
    say(f"weights      SHA-256 {written['weights_sha256']}")
    say(f"license      {written['license']}")


export.__doc__ = f"{inspect.cleandoc(export.__doc__ or '')}\n{EXAMPLES}"
