"""Runs docs/tutorial.ipynb and writes the results of its cells into it.

    python docs/_site/run_tutorial.py [OUT]

Cells are run in order in one process, in an empty folder, as Jupyter runs them: what is printed,
the value of a last expression and open figures become the results of a cell. Takes ten seconds of
one core. OUT is the notebook that is written, by default the tutorial itself.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "tutorial.ipynb"
COLORS = 48  # of an image: keeps the notebook small
DPI = 80

Cell = dict[str, Any]


def execute(notebook: dict[str, Any]) -> None:
    """Run the cells of a notebook in the working folder and replace their results.

    A cell that shows an image says in ``alt`` of its metadata what can be seen on it.

    Raises:
        Exception: What a cell raises; the notebook is then left half done.
    """
    mpl.use("agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell["execution_count"] = count
            cell["outputs"] = _run(cell, names, count)
            for output in cell["outputs"]:
                if "image/png" in output.get("data", {}):
                    output["metadata"] = {"alt": cell["metadata"]["alt"]}


def _run(cell: Cell, names: dict[str, Any], count: int) -> list[Cell]:
    source = "".join(cell["source"])
    tree = ast.parse(source, f"cell {count}")
    last = tree.body[-1] if tree.body else None
    # As in Jupyter, a semicolon at the end hides the value.
    value = isinstance(last, ast.Expr) and not source.rstrip().endswith(";")
    body = tree.body[:-1] if value else tree.body
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), f"cell {count}", "exec"), names)  # noqa: S102  # ours
        shown = None
        if value and isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), names)  # noqa: S307
    outputs: list[Cell] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    if isinstance(shown, Image.Image):
        outputs.append(_image(shown))
    elif shown is not None:
        data = {"text/plain": repr(shown).splitlines(keepends=True)}
        outputs.append(_result(data, count))
    outputs += _figures()
    return outputs


def _figures() -> list[Cell]:
    """Return the open figures as images, and close them."""
    from matplotlib import pyplot as plt

    images = []
    for number in plt.get_fignums():
        file = io.BytesIO()
        plt.figure(number).savefig(file, format="png", dpi=DPI)
        images.append(_image(Image.open(file)))
    plt.close("all")
    return images


def _image(image: Image.Image) -> Cell:
    file = io.BytesIO()
    image.convert("RGB").quantize(COLORS).save(file, format="png", optimize=True)
    data = {"image/png": base64.b64encode(file.getvalue()).decode()}
    return {"data": data, "metadata": {}, "output_type": "display_data"}


def _result(data: dict[str, Any], count: int) -> Cell:
    return {
        "data": data,
        "execution_count": count,
        "metadata": {},
        "output_type": "execute_result",
    }


def main() -> None:
    """Run the tutorial in an empty folder and write it."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else NOTEBOOK).absolute()
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FAMSEG_CACHE"] = str(Path(folder, "cache"))
        with contextlib.chdir(folder):
            execute(notebook)
    out.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
