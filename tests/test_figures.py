from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from famseg import figures

ROOT = Path(__file__).parents[1]
DRAW = """
import sys
from famseg.figures import encode, new_figure, styled
with styled():
    figure = new_figure(3, 2)
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label="$a^{")
    axes.fill_between([1, 2], [2, 3], [4, 5], alpha=0.2)
    axes.legend()
sys.stdout.buffer.write(encode(figure, sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_figure_has_the_same_bytes_in_every_process(kind):
    command = [sys.executable, "-c", DRAW, kind]
    one, two = (subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2))
    assert one == two
    assert len(one) > 1000


def test_text_of_an_svg_stays_text_and_has_no_date():
    with figures.styled():
        figure = figures.new_figure(2, 2)
        figure.subplots().set_xlabel("loss $x^{")
    text = figures.files(figure)[".svg"].decode()
    assert "loss $x^{" in text
    assert not re.search(r"\d{4}-\d\d-\d\dT", text)


@pytest.mark.parametrize("scale", ["log", "symlog"])
def test_decades_of_an_axis_are_numbers_and_no_formulas(scale):
    with figures.styled():
        figure = figures.new_figure(3, 2)
        axes = figure.subplots()
        axes.plot([0.001, 0.1, 30.0], [1, 2, 3])
        axes.set_xscale(scale, **({"linthresh": 0.01} if scale == "symlog" else {}))
    text = figures.encode(figure, "svg").decode()
    assert "mathdefault" not in text
    assert ">0.1<" in text


def test_one_module_has_the_style_of_all_figures():
    """A figure elsewhere would have other colors, and no SVG without a date."""
    made = re.compile(r"rc_context|rcParams|FigureCanvas|\bpyplot\b|\.savefig\(|\bFigure\(")
    sources = [*ROOT.glob("famseg/**/*.py"), *ROOT.glob("pipelines/*.py")]
    found = {str(path.relative_to(ROOT)) for path in sources if made.search(path.read_text())}
    # _libraries imports pyplot for libraries that refer to it but seldom draw.
    assert found - {"famseg/_libraries.py"} == {"famseg/figures.py"}
