"""The style of all figures written by famseg, as PNG for the screen and SVG for papers.

Colors are those of Okabe and Ito, which are distinguishable with any color vision. matplotlib is
imported only when a figure is created, since the flatness library works without it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["png", "svg"]

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
)
# The palette of Okabe and Ito without its yellow, which is faint on white.
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
GRAY = "#777777"
DPI = 120
_MOST_DECADES = 2.5  # largest range of an axis with labels between decades

STYLE: dict[Any, Any] = {  # matplotlib types the names of settings as a Literal
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.prop_cycle": "cycler('color', [" + ", ".join(f"'{c}'" for c in PALETTE) + "])",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "figure.titlesize": 11,
    "font.size": 10,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text, which is small and searchable
    "svg.hashsalt": "famseg",  # the same figure has the same bytes
    "text.parse_math": False,  # names with dollar signs are not formulas
    "xtick.labelsize": 9,
    "xtick.minor.pad": 5.0,  # aligns the labels of major and minor ticks
    "ytick.labelsize": 9,
}


@contextmanager
def styled() -> Iterator[None]:
    """Use the style for figures drawn inside the context.

    Raises:
        ImportError: If matplotlib is missing.
    """
    from matplotlib import rc_context

    with rc_context(STYLE):
        yield


def new_figure(width: float, height: float, *, constrained: bool = True) -> Figure:
    """Return an empty figure; draw in it inside `styled`.

    Args:
        width: Its width in inches.
        height: Its height in inches.
        constrained: Whether matplotlib reserves space for titles and labels.

    Raises:
        ImportError: If matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def encode(figure: Figure, kind: Kind = "png", *, dpi: int = DPI) -> bytes:
    """Return a figure as a file without a date; the same figure gives the same bytes.

    Args:
        figure: The figure.
        kind: ``png`` or ``svg``.
        dpi: Pixels per inch; in an SVG file, for the images in it.
    """
    _name_decades(figure)
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": "famseg"}
    file = io.BytesIO()
    with styled():
        figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    return file.getvalue()


def _name_decades(figure: Figure) -> None:
    """Label logarithmic axes with plain numbers instead of matplotlib's formulas."""
    from matplotlib.ticker import FuncFormatter, LogFormatterMathtext

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(abs(end) for end in axis.get_view_interval())
            few = high > low * 10**_MOST_DECADES
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
                axis.set_minor_formatter(FuncFormatter(_no_name if few else _between))


def _between(x: float, _: int | None = None) -> str:
    """Label two of the eight numbers between decades, since all would overlap."""
    return f"{x:g}" if f"{x:e}"[0] in "25" else ""


def _no_name(x: float, _: int | None = None) -> str:
    return ""


def files(figure: Figure, *, dpi: int = DPI) -> dict[str, bytes]:
    """Return a figure as PNG and SVG, by the suffix of the file.

    Args:
        figure: The figure.
        dpi: Pixels per inch.

    Example:
        >>> sorted(files(new_figure(1, 1)))
        ['.png', '.svg']
    """
    return {".png": encode(figure, "png", dpi=dpi), ".svg": encode(figure, "svg", dpi=dpi)}
