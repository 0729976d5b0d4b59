"""Atomic writing of an export, which is verified before it gets its name."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import warnings
from collections.abc import Callable
from importlib import metadata as installed
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from famseg.export import _bundle
from famseg.export._bundle import at_least
from famseg.export._card import KIND, NO_LICENSE, card, markdown
from famseg.export._modules import LargePieces
from famseg.export._source import Source
from famseg.files import read_json
from famseg.messages import InputError, RunError

Format = Literal["bundle", "onnx", "torchscript"]
FORMATS: tuple[str, ...] = get_args(Format)
CARD = "model_card.json"

_OPSET = 17
_TOLERANCE = 1e-4  # tolerance for probabilities
_OUTPUT = "probability"


def export_network(
    source: Source, export_format: Format, out: Path, *, license_file: Path | None = None
) -> dict[str, Any]:
    """Write a network so that others can run it without famseg.

    What was written is opened again and compared with famseg on random batches of 1 and 3 before
    the folder gets its name. Takes some ten seconds for a network of a million parameters.

    Args:
        source: From `open_source`.
        export_format: ``bundle`` (MONAI, with ``models/model.ts`` and ``model.pt``), ``onnx``
            (``model.onnx``, any batch size) or ``torchscript`` (``model.ts``).
        out: The folder. It is made; an older export is replaced if nothing in it was changed,
            added or removed since.
        license_file: The license of the model; by default the export says that none is stated,
            and the built-in model has famseg's.

    Returns:
        The card with ``files``, the SHA-256 of each file.

    Raises:
        InputError: If the folder exists and is not an unchanged export, the format does not support
            the network, the license cannot be read, or an extra package is missing.
        RunError: If the exported network does not give the same results.
    """
    if export_format == "bundle" and source.kind != "implant":
        raise InputError(
            f"--format: {source.name} is a classifier, for which there is no bundle. Choose onnx "
            "or "
            "torchscript."
        )
    check_out(out)
    text, title = _license(source, license_file)
    part = out.with_name(f".{out.name}.{secrets.token_hex(8)}.part")
    try:
        part.mkdir(parents=True)
        _WRITERS[export_format](source, part, title)
        written = _describe(source, export_format, part, text, title)
        check_out(out)  # it may have been created meanwhile
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error.strerror or error}). Choose another folder."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return written


def check_out(out: Path) -> None:
    """Refuse a folder that an export may not replace.

    An export may be replaced if its ``model_card.json`` lists the SHA-256 of every other file in
    it; one in which a user has changed or added files is kept.

    Raises:
        InputError: If it must not be replaced.
    """
    if not (out.exists() or out.is_symlink()):
        return
    advice = "Choose another folder with --out, or remove it."
    if out.is_dir() and not out.is_symlink() and (out / CARD).is_file():
        known = read_json(out / CARD, advice)
        if known.get("kind") == KIND and known.get("files") == _digests(out):
            return
        raise InputError(
            f"{out}: contains files that famseg export did not write or that have changed since. "
            f"{advice}"
        )
    raise InputError(f"{out}: already exists and is not an older export. {advice}")


def _describe(
    source: Source, export_format: str, folder: Path, license_text: str, title: str | None
) -> dict[str, Any]:
    """Write license and cards; return the card."""
    content = card(source, export_format, title)
    page = folder / "docs" / "README.md" if export_format == "bundle" else folder / "README.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(markdown(content) + _usage(source, export_format), encoding="utf-8")
    (folder / "LICENSE").write_text(license_text, encoding="utf-8")
    content["files"] = _digests(folder)
    _write_json(folder / CARD, content)
    return content


def _usage(source: Source, export_format: str) -> str:
    name, shape = source.input_name, ", ".join(map(str, ("n", *source.shape)))
    lines = {
        "bundle": "In the folder of the bundle:\n\n"
        "    pip install monai nibabel pytorch-ignite fire\n"
        "    python -m monai.bundle run --config_file configs/inference.json "
        "--meta_file configs/metadata.json --input skull.nii.gz --output_dir eval\n\n"
        "`eval` then contains the implant and the skull on the grid of the network.\n",
        "onnx": f"`model.onnx` maps `{name}`, float32 ({shape}), to `{_OUTPUT}`, with any n:\n\n"
        '    session = onnxruntime.InferenceSession("model.onnx")\n'
        f'    session.run(["{_OUTPUT}"], {{"{name}": array}})\n',
        "torchscript": f"`model.ts` maps `{name}`, float32 ({shape}), to the probability, with any "
        'n:\n\n    network = torch.jit.load("model.ts")\n    probability = network(tensor)\n',
    }
    return f"\n## How to run it\n\n{lines[export_format]}"


def _write_bundle(source: Source, folder: Path, title: str | None) -> None:
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but MONAI's bundles use it
        whole = LargePieces(source.module, at_least(source.preprocessing["threshold"])).eval()
    _save_traced(source, whole, folder / "models" / "model.ts")
    state = {k.removeprefix("network."): v for k, v in source.module.state_dict().items()}
    torch.save(state, folder / "models" / "model.pt")
    _write_json(folder / "configs" / "metadata.json", _bundle.metadata(source, title))
    _write_json(folder / "configs" / "inference.json", _bundle.inference(source))


def _write_torchscript(source: Source, folder: Path, _: str | None) -> None:
    _save_traced(source, source.module, folder / "model.ts")


def _write_onnx(source: Source, folder: Path, _: str | None) -> None:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"--format onnx needs the package {error.name}: pip install famseg[export]"
        ) from error
    path, names = folder / "model.onnx", (source.input_name, _OUTPUT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the tracer about sizes, which are fixed here
        torch.onnx.export(
            source.module,
            (source.example(1),),
            str(path),
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=_OPSET,
            dynamo=False,  # the other exporter needs an additional package
        )
    model = onnx.load(path)
    facts = {"preprocessing": json.dumps(dict(source.preprocessing)), "name": source.name}
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run([names[1]], {names[0]: inputs.numpy()})[0])

    _compare(source, source.module, run)


_WRITERS: dict[str, Callable[[Source, Path, str | None], None]] = {
    "bundle": _write_bundle,
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
}


def _save_traced(source: Source, module: nn.Module, path: Path) -> None:
    """Trace a module into a file with the preprocessing, and compare it with the module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jit: Any = torch.jit  # has no type annotations
        traced = jit.trace(module, source.example(1), check_trace=False)
        facts = {"preprocessing.json": json.dumps(dict(source.preprocessing))}
        jit.save(traced, str(path), _extra_files=facts)
        loaded: nn.Module = jit.load(str(path))
    _compare(source, module, loaded)


def _compare(
    source: Source, module: nn.Module, other: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Raise an error if an export differs from famseg, for batches of one or three."""
    with torch.no_grad():
        for count in (1, 3):
            inputs = source.example(count)
            apart = float((other(inputs) - module(inputs)).abs().max())
            if not apart <= _TOLERANCE:
                raise RunError(
                    f"{source.name}: the export differs from famseg by {apart:.2g} in a "
                    f"probability, more than {_TOLERANCE:g}; nothing was written."
                )


def _license(source: Source, path: Path | None) -> tuple[str, str | None]:
    """Return the text of the license, and its name if a file was given."""
    if path is not None:
        try:
            return path.read_text(encoding="utf-8"), f"{path.name}, see the file LICENSE"
        except (OSError, ValueError) as error:
            raise InputError(f"--license: {path}: cannot be read as text ({error}).") from error
    if source.license_id is None:
        return f"{NO_LICENSE}\n", None
    files = [file for file in installed.files("famseg") or () if file.name == "LICENSE"]
    return (files[0].read_text() if files else f"{source.license_id}\n"), None


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file except the card, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / CARD
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
