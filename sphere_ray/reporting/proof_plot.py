"""The plot of a proof: the gain of each variant, a dot a seed, with mean and interval."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sphere_ray.reporting.proof_summary import ProofSummary

_INCHES_A_VARIANT, _LEAST_IN, _HEIGHT_IN = 1.2, 5.0, 4.5
_DPI = 150
_SPREAD = 0.3
"""Width over which the dots of a variant are laid out, if variants are 1 apart."""


def draw_proof(proof: ProofSummary, path: str) -> None:
    """Draw the gain after the last iteration over variants to a PNG file."""
    variants, seeds = proof["variants"], proof["seeds"]
    width = max(_INCHES_A_VARIANT * len(variants), _LEAST_IN)
    figure = Figure(figsize=(width, _HEIGHT_IN), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axhline(0, color="grey", linewidth=0.8)
    gains = [variant["gains"][-1] for variant in variants]
    places = range(len(gains))
    means = [100 * gain["mean"] for gain in gains]
    low, high = ([100 * gain["ci95"][side] for gain in gains] for side in (0, 1))
    below = [mean - bound for mean, bound in zip(means, low, strict=True)]
    above = [bound - mean for mean, bound in zip(means, high, strict=True)]
    axes.errorbar(
        places,
        means,
        yerr=[below, above],
        fmt="_",
        markersize=20,
        capsize=6,
        color="black",
        label="mean and 95% interval over problems",
    )
    for index, seed in enumerate(seeds):
        shift = _SPREAD * ((index + 0.5) / len(seeds) - 0.5)
        points = [100 * gain["by_seed"][index] for gain in gains]
        axes.scatter([place + shift for place in places], points, alpha=0.8, label=f"seed {seed}")
    names = [f"{each['name']}\n({len(each['gains'])} it.)" for each in variants]
    axes.set_xticks(places, names)
    axes.set_xlim(-0.6, len(gains) - 0.4)
    axes.set_ylabel("gain in points")
    axes.set_title(f"{proof['name']}: gain on {gains[0]['n']:,} test problems")
    axes.legend(fontsize="small")
    figure.savefig(path)
