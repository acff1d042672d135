"""The plot of a proof: the gain of each variant, a dot a seed, with mean and interval."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sphere_ray.reporting.proof_summary import ProofSummary

_WIDTH_IN, _INCHES_A_GAIN, _FRAME_IN = 8.0, 0.55, 1.6
_DPI = 150
_SPREAD = 0.4
"""Height over which the dots of a gain are laid out; gains are 1 apart."""


def draw_proof(proof: ProofSummary, path: str) -> None:
    """Draw the gain of each variant after each of its iterations to a PNG file."""
    named = [
        (f"{variant['name']}, after {number}", gain)
        for variant in proof["variants"]
        for number, gain in enumerate(variant["gains"], 1)
    ]
    names, gains = [name for name, _ in named], [gain for _, gain in named]
    places, seeds = range(len(gains)), proof["seeds"]
    size = (_WIDTH_IN, _FRAME_IN + _INCHES_A_GAIN * len(gains))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axvline(0, color="grey", linewidth=0.8)
    means = [100 * gain["mean"] for gain in gains]
    low, high = ([100 * gain["ci95"][side] for gain in gains] for side in (0, 1))
    below = [mean - bound for mean, bound in zip(means, low, strict=True)]
    above = [bound - mean for mean, bound in zip(means, high, strict=True)]
    axes.errorbar(
        means,
        places,
        xerr=[below, above],
        fmt="|",
        markersize=16,
        capsize=4,
        color="black",
        label="mean, 95% over problems",
    )
    for index, seed in enumerate(seeds):
        shift = _SPREAD * ((index + 0.5) / len(seeds) - 0.5)
        points = [100 * gain["by_seed"][index] for gain in gains]
        axes.scatter(points, [place + shift for place in places], alpha=0.8, label=f"seed {seed}")
    axes.set_yticks(places, names)
    axes.set_ylim(len(gains) - 0.4, -0.6)
    axes.set_xlabel("gain over the base model in points")
    axes.set_title(f"{proof['name']}: {gains[0]['n']:,} test problems")
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path)
