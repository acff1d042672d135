"""The reliability diagram of reward sources: mean value over mean score, by tenths of the score."""

from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sphere_ray.reward.quality import ReliabilityBin

_SIZE_IN = (6.0, 5.0)
_DPI = 150
_LARGEST_DOT = 300.0


def draw_reliability(bins: Mapping[str, Sequence[ReliabilityBin]], path: str) -> None:
    """Draw one line per source to a PNG file; a dot's area is its share of the steps."""
    figure = Figure(figsize=_SIZE_IN, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    for name, each in bins.items():
        scores, values = [b["score"] for b in each], [b["value"] for b in each]
        steps = sum(b["steps"] for b in each)
        (line,) = axes.plot(scores, values, label=f"{name} ({steps:,} steps)")
        areas = [_LARGEST_DOT * b["steps"] / steps for b in each]
        axes.scatter(scores, values, s=areas, color=line.get_color(), alpha=0.6)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("score")
    axes.set_ylabel("share of fresh completions that reach the gold answer")
    axes.set_title("Reliability of reward sources")
    axes.legend(loc="upper left")
    figure.savefig(path)
