"""proof.json as readable tables; figures only, and how far they reach."""

from rich.console import Console
from rich.table import Table

from sphere_ray.reporting.proof_summary import (
    Paired,
    ProofSummary,
    VariantSummary,
    first_cost,
)
from sphere_ray.tables.cells import plain_table, points

_FEW_SEEDS = 5


def print_proof(proof: ProofSummary, console: Console) -> None:
    """Print the gain and the cost of each variant, the differences, and the guards."""
    console.print(_gains(proof), markup=False)
    console.print(_costs(proof), markup=False)
    if proof["comparisons"]:
        console.print(_comparisons(proof), markup=False)
    if proof["guards"] or proof["left_out"]:
        console.print(_guards(proof), markup=False)


def _gains(proof: ProofSummary) -> Table:
    table = plain_table(
        "Gain over the base model on test, points",
        *("variant", "after", "n", "mean", "95% interval", "sd", "min", "each seed (p)"),
        *("seen", "unseen"),
    )
    for variant in proof["variants"]:
        for number, gain in enumerate(variant["gains"], 1):
            last = number == len(variant["gains"])
            table.add_row(
                variant["name"],
                str(number),
                *_figures(gain),
                *(_family_gain(variant, kind) if last else "" for kind in ("seen", "unseen")),
            )
        table.add_section()
    unseen = ", ".join(proof["unseen_families"]) or "none"
    lines = [f"families of test that no training problem has: {unseen}", _reach(proof)]
    lines += [
        f"{variant['name']}: {'no' if variant['no_worse'] else 'a'} seed gets worse in a later "
        "iteration"
        for variant in proof["variants"]
        if variant["no_worse"] is not None
    ]
    table.caption = "\n".join(lines)
    return table


def _costs(proof: ProofSummary) -> Table:
    table = plain_table(
        "First iteration, mean over seeds",
        *("variant", "pairs", "tokens decoded", "pairs a 1,000 tokens", "seconds of rollouts"),
    )
    for variant in proof["variants"]:
        table.add_row(
            variant["name"],
            f"{first_cost(variant, lambda cost: cost['pairs']):,.0f}",
            f"{first_cost(variant, lambda cost: cost['tokens']):,.0f}",
            f"{first_cost(variant, lambda cost: cost['per_1000_tokens']):.2f}",
            f"{first_cost(variant, lambda cost: cost['seconds']):,.0f}",
        )
    table.caption = (
        "tokens: of the stages up to the last that gives pairs; seconds: of all stages, by the "
        "variant that made them"
    )
    return table


def _comparisons(proof: ProofSummary) -> Table:
    first = proof["variants"][0]["name"]
    table = plain_table(
        f"Difference to {first} on test, points",
        *("variant", "after", "n", "mean", "95% interval", "sd", "min", "each seed (p)", "p"),
    )
    for each in proof["comparisons"]:
        difference = each["difference"]
        figures = _figures(difference)
        p_value = f"{difference['p_value']:.2g}"
        table.add_row(each["variant"], str(each["iterations"]), *figures, p_value)
    table.caption = "paired by seed and problem; p over problems, averaged over seeds"
    return table


def _guards(proof: ProofSummary) -> Table:
    first = proof["variants"][0]["name"]
    table = plain_table(
        f"Guards: last model of {first} against the base model, greedy, points",
        *("problems", "n", "mean", "95% interval", "sd", "min", "each seed (p)"),
    )
    for name, change in proof["guards"].items():
        table.add_row(name, *_figures(change))
    table.caption = "\n".join(proof["left_out"]) or None
    return table


def _reach(proof: ProofSummary) -> str:
    seeds = len(proof["seeds"])
    few = f"; {seeds} seeds are few to judge that by" if 1 < seeds < _FEW_SEEDS else ""
    spread = f"how far seeds differ is sd{few}" if seeds > 1 else "one seed shows no spread"
    return f"intervals and p are over problems, for these seeds alone; {spread}"


def _figures(change: Paired) -> tuple[str, ...]:
    low, high = change["ci95"]
    seeds = zip(change["by_seed"], change["p_by_seed"], strict=True)
    return (
        f"{change['n']:,}",
        points(change["mean"]),
        f"{points(low)} to {points(high)}",
        "-" if change["sd"] is None else f"{100 * change['sd']:.1f}",
        points(change["minimum"]),
        "\n".join(f"{points(gain)} ({p_value:.2g})" for gain, p_value in seeds),
    )


def _family_gain(variant: VariantSummary, kind: str) -> str:
    found = variant["unseen"] if kind == "unseen" else variant["seen"]
    return "-" if found is None else f"{points(found['mean'])}\n({found['n']:,})"
