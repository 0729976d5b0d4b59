"""Formulas as MathML, which browsers draw by themselves: no script and no fonts to load."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

# Numbers a formula; the converter does not know it.
_TAG = re.compile(r"\\tag\{([^}]*)\}")
# Bars of norms that are stretched stand too low beside a raised number.
_BAR = re.compile(r"<mo([^>]*)>([‖|])</mo>")


def mathml(tex: str, *, block: bool) -> str:
    """Return a formula in LaTeX as MathML."""
    drawn = tex2mathml(_TAG.sub(r"\\qquad (\1)", tex), as_block=block)
    return _BAR.sub(r'<mo\1 stretchy="false">\2</mo>', drawn)


def _inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _block(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="formula">{mathml(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Take over the drawing of formulas."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.config.html_math_renderer = "mathml"  # type: ignore[attr-defined]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
