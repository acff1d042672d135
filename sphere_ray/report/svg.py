"""Small plots by matplotlib, as SVG that belongs to a page: its fonts, its colours, its titles.

Figures are as wide as a phone, so their text is readable there; a wide page sets them side by side.
Colours are those of Okabe and Ito (Color Universal Design, 2008), told apart by the colour-blind;
markers, dashes or labels tell everything a second time. They become CSS variables, so that the page
can change them in the dark.
"""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, LINE, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
BLUE, VERMILION, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
PURPLE, SKY = "#cc79a7", "#56b4e9"
SERIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
MARKERS, DASHES, HATCHES = (
    "osD^vP",
    ("-", "--", "-.", ":", "-", "--"),
    ("", "//", "..", "xx", "\\\\"),
)
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    PAPER: "paper",
    BLUE: "blue",
    VERMILION: "vermilion",
    GREEN: "green",
    ORANGE: "orange",
    PURPLE: "purple",
    SKY: "sky",
}
_WIDTH_IN, _POINTS, _MAX_LABEL = 4.75, 72, 24
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and readable to screen readers
    "svg.hashsalt": "sphere",  # the same figure is the same SVG
    "text.parse_math": False,  # a family may be called $x
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "hatch.linewidth": 0.6,
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_COLOUR = re.compile("|".join(_VARIABLES))
_FONT = re.compile(r"'DejaVu Sans'[^;]*")
_REFERENCE = re.compile(r"#([\w-]+)")
_DIGITS = re.compile(r"(\.\d\d)\d+")
ET.register_namespace("", _SVG)
ET.register_namespace("xlink", _XLINK)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A finished plot and what it shows, in a few words and in a sentence."""

    title: str
    text: str
    svg: Markup


class Canvas:
    """A figure that is being drawn; `axes` are its axes."""

    def __init__(self, figure: Figure) -> None:
        """Begin with one pair of axes."""
        self._figure = figure
        self.axes: Axes = figure.add_subplot()
        self.finished: Plot | None = None

    def rows(self, names: Sequence[str]) -> None:
        """Put names on the y-axis, the first on top."""
        self.axes.set_yticks(range(len(names)), names)
        self.axes.set_ylim(len(names) - 0.4, -0.6)
        self.axes.grid(visible=False, axis="y")
        self.axes.tick_params(axis="y", length=0)

    def dot(
        self,
        place: float,
        value: float,
        interval: Sequence[float] | None,
        *,
        new: bool,
        text: str | None = None,
    ) -> None:
        """Draw a share in percent with its interval; of two, the older one is hollow and grey."""
        colour, fill = (BLUE, BLUE) if new else (MUTED, PAPER)
        low, high = interval or (value, value)
        self.axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=1.6)
        self.axes.plot(
            100 * value, place, "o", color=colour, markerfacecolor=fill, label=text, zorder=3
        )

    def lines(
        self,
        lines: Mapping[str, Sequence[tuple[float, float]]],
        x: str,
        y: str,
        *,
        markers: bool = True,
    ) -> None:
        """Draw lines over steps, which differ in colour, dashes and markers."""
        for index, (name, points) in enumerate(lines.items()):
            self.axes.plot(
                *zip(*points, strict=True),
                color=SERIES[index % len(SERIES)],
                linestyle=DASHES[index % len(DASHES)],
                marker=MARKERS[index % len(MARKERS)] if markers or len(points) < 2 else None,
                label=name if len(lines) > 1 else None,
            )
        self.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        self.axes.set_xlabel(x)
        self.axes.set_ylabel(y)

    def finish(self, name: str, title: str, text: str) -> Plot:
        """Close the drawing. `name` is its own on the page, for ids."""
        handles, labels = self.axes.get_legend_handles_labels()
        if handles:
            self._figure.legend(
                handles, labels, loc="outside lower center", ncols=2, handlelength=2.4
            )
        self.finished = Plot(title=title, text=text, svg=_svg(self._figure, name, title, text))
        return self.finished


def label(text: str) -> str:
    """A strangers' name as a label: printable, and short enough for a phone."""
    line = "".join(each if each.isprintable() else " " for each in text)
    return line if len(line) <= _MAX_LABEL else f"{line[: _MAX_LABEL - 3]}..."


def labels(names: Sequence[str]) -> list[str]:
    """Labels of names, numbered from 1 where two would look the same."""
    short = list(map(label, names))
    if len(set(short)) == len(short):
        return short
    return [label(f"{number}: {name}") for number, name in enumerate(names, 1)]


@contextmanager
def canvas(height_in: float = 2.8) -> Iterator[Canvas]:
    """A figure in the style of the page."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=_POINTS, layout="constrained")
        FigureCanvasSVG(figure)
        yield Canvas(figure)


def _svg(figure: Figure, name: str, title: str, text: str) -> Markup:
    """The figure as an element of a page: a title and a description, no ids but its own."""
    written = io.BytesIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    used = set(
        _REFERENCE.findall(" ".join(v for each in root.iter() for v in each.attrib.values()))
    )
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                if value in used:
                    element.set(key, f"{name}-{value}")
                else:
                    del element.attrib[key]
            else:
                element.set(key, _at_home(_DIGITS.sub(r"\1", value), used, name))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-text")
    for index, (tag, content) in enumerate((("title", title), ("desc", text))):
        child = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{'text' if index else 'title'}"})
        child.text = content
        root.insert(index, child)
    return Markup(ET.tostring(root, encoding="unicode"))


def _at_home(value: str, used: set[str], name: str) -> str:
    """An attribute with the page's colours and fonts, and references to the figure's own ids."""
    value = _COLOUR.sub(lambda found: f"var(--{_VARIABLES[found[0]]})", value)
    value = _FONT.sub("var(--sans)", value)
    return _REFERENCE.sub(
        lambda found: f"#{name}-{found[1]}" if found[1] in used else found[0], value
    )
