"""``famseg export``."""

from __future__ import annotations

import inspect
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from famseg.cli._say import say, say_json

EXAMPLES = """
Examples:

  famseg export builtin --format bundle --out implant-bundle

  famseg export runs/implant-lambda0-seed0 --format onnx --out implant-onnx

  famseg export runs/skull-lambda0.0006-seed0 --format torchscript --out skull --license LICENSE
"""


class Format(StrEnum):
    """The format of an export."""

    bundle = "bundle"
    onnx = "onnx"
    torchscript = "torchscript"


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Run folder of the pipeline skull, implant or classification; a checkpoint of "
            "skull or implant; or builtin.",
        ),
    ],
    export_format: Annotated[
        Format,
        typer.Option(
            "--format", help="bundle: for MONAI; onnx: for ONNX Runtime; torchscript: for PyTorch."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder to write to. An older export there is replaced if nobody has changed it.",
        ),
    ],
    license_file: Annotated[
        Path | None,
        typer.Option("--license", metavar="FILE", help="Text file with the license of the model."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output.")
    ] = False,
) -> None:
    """Write a trained network in a format that runs without famseg.

    The folder contains the network, a model card, the license and the preprocessing. Before it is
    complete, the predictions of the export are compared with those of famseg. For research only:
    not a medical device.
    """
    from famseg.export import export_network, open_source

    source = open_source(run)
    written = export_network(source, export_format.value, out, license_file=license_file)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if as_json:
        say_json(
            {
                "folder": str(out),
                "format": export_format.value,
                "bytes": size,
                "weights_sha256": written["weights_sha256"],
                "license": written["license"],
            }
        )
        return
    say(f"export       {out} ({export_format.value}, {size / 1e6:.1f} MB)")
    say(f"weights      SHA-256 {written['weights_sha256']}")
    say(f"license      {written['license']}")


export.__doc__ = f"{inspect.cleandoc(export.__doc__ or '')}\n{EXAMPLES}"
