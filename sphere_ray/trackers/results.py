"""What committed steps came to, read from their directories; and where models come from."""

from collections import Counter
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from sphere_ray import storage
from sphere_ray.records import PoolUse, Verdict

Result = tuple[str, int, dict[str, float]]
"""A group, the iteration (0 outside of one), and numbers by name."""

_ANSWERS = ("verdict", "sample_verdicts", "error")


def results_of(directory: str) -> Result:
    """The numbers of a committed step: what its manifest says, its answers, its training."""
    manifest = storage.read_json(f"{directory}/manifest.json")
    (iteration, name), report = _split(manifest["step"]), manifest["report"]
    values: dict[str, Any] = {
        key: report[key] for key in ("rows_in", "rows_out", "seconds", "tokens")
    }
    values |= {f"dropped/{reason}": count for reason, count in report["dropped"].items()}
    for use in (PoolUse(**pool) for pool in report["pools"]):
        values |= {f"pools/{use.name}/{key}": value for key, value in _use(use).items()}
    if name.startswith(("evaluation/", "test/")):
        values |= _answers(directory)
    if name.startswith("pairs"):
        values |= {f"stage/{stage}": count for stage, count in _stages(directory).items()}
    for file in ("training.json", "outcome.json"):
        outcome = storage.read_json(f"{directory}/{file}") or {}
        values |= {key: value for key, value in outcome.items() if isinstance(value, int | float)}
    return f"steps/{name}", iteration or 0, {key: float(value) for key, value in values.items()}


def lineage(directory: str) -> str:
    """A line for every model that a run made: its fingerprint, and what it was made from."""
    lines = []
    iterations = [name for name in storage.children(directory) if name.startswith("iter-")]
    places = [f"{it}/{name}" for it in iterations for name in storage.children(f"{directory}/{it}")]
    for place in places:
        manifest = storage.read_json(f"{directory}/{place}/manifest.json")
        if manifest is None or not storage.exists(f"{directory}/{place}/model"):
            continue
        made_from = ", ".join(f"{name} {value}" for name, value in manifest["inputs"].items())
        lines.append(f"- `{place}/model`: {manifest['output']}, from {made_from}")
    return "\n".join(lines)


def test_result(summary: Mapping[str, Any]) -> dict[str, float]:
    """The base and the final model on the test problems."""
    test = summary["test"]
    low, high = test["difference_ci95"]
    return {
        "base": test["base"]["pass@1"],
        "final": test["final"]["pass@1"],
        "difference": test["difference"],
        "difference_low": low,
        "difference_high": high,
        "p_value": test["p_value"],
        "problems": test["n"],
    }


def _split(step: str) -> tuple[int | None, str]:
    """The iteration and the rest of `iter-000/pairs`."""
    first, _, rest = step.partition("/")
    if not first.startswith("iter-"):
        return None, step
    return int(first.removeprefix("iter-")), rest


def _use(use: PoolUse) -> dict[str, float]:
    shares = {"idle": use.idle, "prefix_hits": use.prefix_share}
    known = {name: share for name, share in shares.items() if share is not None}
    return {"generated_tokens": use.generated_tokens, **known}


def _answers(directory: str) -> dict[str, float]:
    """Greedy accuracy and, with samples, their mean, over the answered problems."""
    greedy, samples = list[bool](), list[float]()
    for table in storage.tables(directory, _ANSWERS):
        for row in table.to_pylist():
            if row["error"] is not None:
                continue
            greedy.append(row["verdict"] == Verdict.CORRECT)
            if several := row["sample_verdicts"]:
                samples.append(fmean(verdict == Verdict.CORRECT for verdict in several))
    found = {"accuracy": fmean(greedy)} if greedy else {}
    return found | ({"mean_at_k": fmean(samples)} if samples else {})


def _stages(directory: str) -> Counter[str]:
    return Counter(
        stage
        for table in storage.tables(directory, ["stage"])
        for stage in table["stage"].to_pylist()
    )
