"""The plots of a report, drawn from the same facts that its tables show."""

from collections.abc import Mapping, Sequence
from typing import Any

from sphere_ray.report.svg import (
    BLUE,
    DASHES,
    GREEN,
    HATCHES,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    SERIES,
    SKY,
    VERMILION,
    Canvas,
    Plot,
    canvas,
    label,
    labels,
)

Facts = Mapping[str, Any]
_ROW_IN, _FRAME_IN = 0.27, 1.0
_LEGIBLE = 0.06
"""A bar that is a smaller share of the axis has no room for its number."""
_MOST_FAMILIES = 40
_OUTCOMES = {
    "pair": (BLUE, HATCHES[0]),
    "both_right": (GREEN, HATCHES[1]),
    "both_wrong": (VERMILION, HATCHES[2]),
    "inversion": (ORANGE, HATCHES[3]),
    "kept": (GREEN, HATCHES[0]),
    "lost": (VERMILION, HATCHES[3]),
    "no_attempt": (SKY, HATCHES[1]),
    "undecided": (PURPLE, HATCHES[2]),
    "all_right": (GREEN, HATCHES[1]),
    "all_wrong": (VERMILION, HATCHES[2]),
}


def accuracy(facts: Facts, name: str) -> Plot:
    """pass@1 on validation, by iteration, and on test, with intervals."""
    rows = []
    for item in facts["summary"]["iterations"]:
        for side in ("before", "after") if item["evaluation"] else ():
            text = f"validation {item['iteration']}, {side}"
            rows.append((text, item["evaluation"][side], side == "after", "validation"))
    test = facts["summary"]["test"]
    rows += [(f"test, {side}", test[side], side == "final", "test") for side in ("base", "final")]
    with canvas(_FRAME_IN + _ROW_IN * len(rows)) as drawn:
        for place, (_, score, new, _) in enumerate(rows):
            drawn.dot(place, score["pass@1"], score["ci95"], new=new)
        drawn.rows([text for text, *_ in rows])
        drawn.axes.set_xlabel("right answers in %, with 95% interval")
        return drawn.finish(
            name, "Accuracy", "Right greedy answers on validation and test, before and after."
        )


def families(facts: Facts, name: str) -> Plot | None:
    """pass@1 of base and final model by family of problems."""
    base, final = (facts["summary"]["test"][side]["by_family"] for side in ("base", "final"))
    if not 0 < len(base) <= _MOST_FAMILIES:
        return None
    order = sorted(base, key=lambda family: final[family]["pass@1"] - base[family]["pass@1"])
    with canvas(_FRAME_IN + 0.2 + _ROW_IN * len(order)) as drawn:
        for place, family in enumerate(reversed(order)):
            old, new = 100 * base[family]["pass@1"], 100 * final[family]["pass@1"]
            drawn.axes.plot([old, new], [place, place], color=MUTED, linewidth=1.2, zorder=1)
            first = place == 0
            drawn.axes.plot(
                old, place, "o", color=MUTED, markerfacecolor=PAPER, label="base" if first else None
            )
            drawn.axes.plot(new, place, "o", color=BLUE, label="final" if first else None)
        drawn.rows([label(family) for family in reversed(order)])
        drawn.axes.set_xlabel("right answers in %")
        return drawn.finish(name, "By family", "Right test answers of base and final, by family.")


def outcomes(facts: Facts, number: int, name: str) -> Plot:
    """How the problems of each stage ended."""
    routes = facts["data"]["iterations"][number]["routes"]
    stages = list(dict.fromkeys(each["stage"] for each in routes))
    ends = sorted({each["outcome"] for each in routes}, key=_order)
    most = facts["summary"]["iterations"][number]["rollout"]["problems"]
    with canvas(_FRAME_IN + 0.5 + 0.4 * len(stages)) as drawn:
        left = dict.fromkeys(stages, 0)
        for end in ends:
            colour, hatch = _OUTCOMES.get(end, (SKY, HATCHES[4]))
            found = [each for each in routes if each["outcome"] == end]
            places = [stages.index(each["stage"]) for each in found]
            counts = [each["count"] for each in found]
            starts = [left[each["stage"]] for each in found]
            bars = drawn.axes.barh(
                places,
                counts,
                left=starts,
                height=0.62,
                color=colour,
                alpha=0.55,
                hatch=hatch,
                edgecolor=INK,
                linewidth=0.5,
                label=(end or "failed").replace("_", " "),
            )
            shown = [str(count) if count >= _LEGIBLE * most else "" for count in counts]
            drawn.axes.bar_label(bars, shown, label_type="center", fontsize=9)
            for each in found:
                left[each["stage"]] += each["count"]
        drawn.rows([stage.replace("_", " ") for stage in stages])
        drawn.axes.set_xlabel("problems")
        return drawn.finish(name, "How stages ended", "Problems of each stage, by their outcome.")


def pairs(facts: Facts, number: int, name: str) -> Plot:
    """Proposed pairs: kept, and dropped by reason."""
    found = facts["summary"]["iterations"][number]["pairs"]
    dropped = sorted(found["dropped"].items(), key=lambda each: -each[1])
    rows = [("kept", found["total"]), *dropped]
    with canvas(_FRAME_IN + _ROW_IN * len(rows)) as drawn:
        colours = [BLUE, *[VERMILION] * len(dropped)]
        hatches = [HATCHES[0], *[HATCHES[1]] * len(dropped)]
        bars = drawn.axes.barh(
            range(len(rows)),
            [count for _, count in rows],
            height=0.62,
            color=colours,
            alpha=0.85,
            edgecolor=INK,
            linewidth=0.5,
            hatch=hatches,
        )
        drawn.axes.bar_label(bars, padding=3, fontsize=9)
        drawn.axes.margins(x=0.12)
        names = ["kept", *(f"dropped: {label(reason.replace('_', ' '))}" for reason, _ in dropped)]
        drawn.rows(names)
        drawn.axes.set_xlabel("pairs")
        return drawn.finish(name, "Pairs", "Proposed pairs that were kept, or dropped and why.")


def reward_depths(facts: Facts, number: int, name: str) -> Plot | None:
    """Mean reward by depth, a line for each stage."""
    rewards = facts["data"]["iterations"][number]["rewards"]
    if not rewards or not rewards["by_depth"]:
        return None
    lines = dict[str, list[tuple[int, float]]]()
    for each in rewards["by_depth"]:
        lines.setdefault(each["stage"].replace("_", " "), []).append((each["depth"], each["mean"]))
    with canvas() as drawn:
        drawn.lines(lines, "step", "mean reward")
        drawn.axes.set_ylim(-0.03, 1.03)
        return drawn.finish(name, "Reward by step", "Mean reward of proposed steps, by stage.")


def spread(facts: Facts, number: int, name: str) -> Plot | None:
    """How far the rewards of siblings lie apart."""
    rewards = facts["data"]["iterations"][number]["rewards"]
    if not rewards or not rewards["spread"]["positions"]:
        return None
    bins = rewards["spread"]["bins"]
    with canvas() as drawn:
        drawn.axes.bar(
            [(index + 0.5) / len(bins) for index in range(len(bins))],
            bins,
            width=0.9 / len(bins),
            color=BLUE,
            alpha=0.85,
        )
        drawn.axes.set_xlabel("highest less lowest reward of siblings")
        drawn.axes.set_ylabel("positions")
        return drawn.finish(name, "Siblings' spread", "Positions by the spread of their rewards.")


def calibration(facts: Facts, number: int, name: str) -> Plot | None:
    """Share of right answers over the reward of the steps before, by tenths."""
    rewards = facts["data"]["iterations"][number]["rewards"]
    if not rewards or not rewards["calibration"]:
        return None
    with canvas() as drawn:
        drawn.axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="calibrated")
        _reliability(drawn, rewards["calibration"], 0, "steps that chains took")
        trained = facts["summary"]["iterations"][number]["reward"]["trained"]
        if trained and trained["held_out"]:
            _reliability(drawn, trained["held_out"]["bins"], 1, "trained model, held out")
        drawn.axes.set_xlabel("reward")
        drawn.axes.set_ylabel("share that ends right")
        return drawn.finish(name, "Calibration", "Share of right answers over the reward of steps.")


def training(facts: Facts, number: int, name: str) -> list[Plot]:
    """Loss, margin and log-probs of each training, by step."""
    trainings = [t for t in facts["data"]["iterations"][number]["trainings"] if t.get("history")]
    if not trainings:
        return []
    one = len(trainings) == 1

    def curve(*keys: tuple[str, str]) -> dict[str, list[tuple[float, float]]]:
        return {
            text if one else f"{each['candidate']}: {text}": [
                (step["step"], step[key]) for step in each["history"]
            ]
            for each in trainings
            for key, text in keys
        }

    drawings = (
        ("loss", "Loss", "loss", curve(("loss", "loss"))),
        ("margin", "Margin", "beta x log-prob ratio", curve(("margin", "margin"))),
        (
            "logps",
            "Log-probs",
            "nats per token",
            curve(("chosen_logp", "chosen"), ("rejected_logp", "rejected")),
        ),
        ("order", "Pairs ranked right", "share of the batch", curve(("reward_accuracy", "share"))),
    )
    found = []
    for key, title, unit, lines in drawings:
        with canvas(2.4) as drawn:
            drawn.lines(lines, "optimizer step", unit, markers=False)
            found.append(drawn.finish(f"{name}-{key}", title, f"{title} over the steps."))
    return found


def process(facts: Facts, name: str) -> Plot:
    """The shares among the process metrics, base and final, with intervals."""
    found = facts["summary"]["test"]["process"]
    rows = {
        "step_validity": "valid steps",
        "flawed_right": "right, broken step",
        "recovery": "right after an error",
        "propagation": "broken after an error",
    }
    with canvas(_FRAME_IN + 0.4 + 0.42 * len(rows)) as drawn:
        for place, metric in enumerate(rows):
            for shift, side in ((-0.14, "base"), (0.14, "final")):
                value, new = found[side][metric], side == "final"
                if value["value"] is not None:
                    text = side if not place else None
                    drawn.dot(place + shift, value["value"], value["ci95"], new=new, text=text)
        drawn.rows(list(rows.values()))
        drawn.axes.set_xlabel("%, with 95% interval")
        return drawn.finish(name, "Soundness of steps", "Process metrics of base and final model.")


def propagation(facts: Facts, name: str) -> Plot | None:
    """How often a step is broken at each depth, with and without an error before it."""
    found = facts["summary"]["test"]["process"]
    lines = {}
    for side in ("base", "final"):
        for key, text in (("broken", "no error before"), ("broken_after_error", "after an error")):
            points = [(d["depth"], d[key]) for d in found[side]["by_depth"] if d[key] is not None]
            if points:
                lines[f"{side}, {text}"] = points
    if not lines:
        return None
    with canvas() as drawn:
        drawn.lines(lines, "step", "share of broken steps")
        drawn.axes.set_ylim(-0.03, 1.03)
        return drawn.finish(
            name, "Error propagation", "Broken steps with and without an error before."
        )


def time(facts: Facts, name: str) -> Plot | None:
    """Where the time went."""
    phases = [each for each in facts["data"]["cost"]["phases"] if each["seconds"] >= 1]
    if not phases:
        return None
    with canvas(_FRAME_IN + _ROW_IN * len(phases)) as drawn:
        bars = drawn.axes.barh(
            range(len(phases)),
            [each["seconds"] / 60 for each in phases],
            height=0.62,
            color=BLUE,
            alpha=0.85,
        )
        drawn.axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
        drawn.axes.margins(x=0.12)
        drawn.rows([each["phase"].replace("_", " ") for each in phases])
        drawn.axes.set_xlabel("minutes")
        return drawn.finish(name, "Time", "Minutes by phase.")


def engines(facts: Facts, name: str) -> Plot | None:
    """How much of the time engines worked or waited, by step and pool."""
    found = [each for each in facts["data"]["cost"]["engines"] if each["idle"] is not None]
    if not found:
        return None
    busy = [100 * (1 - each["idle"]) for each in found]
    idle = [100 * each["idle"] for each in found]
    with canvas(_FRAME_IN + 0.3 + _ROW_IN * len(found)) as drawn:
        style: dict[str, Any] = {"height": 0.62, "alpha": 0.55, "edgecolor": INK, "linewidth": 0.5}
        drawn.axes.barh(range(len(found)), busy, color=BLUE, label="busy", **style)
        bars = drawn.axes.barh(
            range(len(found)),
            idle,
            left=busy,
            color=ORANGE,
            hatch=HATCHES[1],
            label="idle",
            **style,
        )
        drawn.axes.bar_label(bars, [f"{share:.0f}" for share in idle], padding=3, fontsize=9)
        drawn.axes.set_xlim(0, 112)
        drawn.rows([label(each["step"]) for each in found])
        drawn.axes.set_xlabel("% of the time; the number is the idle share")
        return drawn.finish(name, "Engines", "Busy and idle engines by step and pool.")


def gains(runs: Sequence[Facts], names: Sequence[str]) -> Plot:
    """The gain on test of several runs, with intervals."""
    with canvas(_FRAME_IN + _ROW_IN * len(runs)) as drawn:
        for place, facts in enumerate(runs):
            test = facts["summary"]["test"]
            drawn.dot(place, test["difference"], test["difference_ci95"], new=True)
        drawn.axes.axvline(0, color=INK, linewidth=0.8)
        drawn.rows(labels(names))
        drawn.axes.set_xlabel("gain on test in points, with 95% interval")
        return drawn.finish("all-gains", "Gain", "Final less base pass@1 on test, by run.")


def curves(runs: Sequence[Facts], names: Sequence[str], key: str, title: str) -> Plot | None:
    """One figure of the first training of each run, over the steps."""
    lines = {}
    for facts, name in zip(runs, labels(names), strict=True):
        for item in facts["data"]["iterations"][:1]:
            for each in item["trainings"][:1]:
                if history := each.get("history"):
                    lines[name] = [(step["step"], step[key]) for step in history]
    if not lines:
        return None
    with canvas(2.6) as drawn:
        drawn.lines(lines, "optimizer step", title.lower(), markers=False)
        return drawn.finish(f"all-{key}", title, f"{title} of the first training, by run.")


def _reliability(drawn: Canvas, bins: Sequence[Facts], index: int, name: str) -> None:
    scores, values = [each["score"] for each in bins], [each["value"] for each in bins]
    marker, colour = MARKERS[index], SERIES[index]
    drawn.axes.plot(
        scores, values, color=colour, linestyle=DASHES[index], marker=marker, label=name
    )


def _order(outcome: str) -> int:
    return list(_OUTCOMES).index(outcome) if outcome in _OUTCOMES else len(_OUTCOMES)
