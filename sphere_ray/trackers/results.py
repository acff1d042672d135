"""What committed steps came to, read from their directories; and where models come from."""

from collections import Counter
from statistics import fmean
from typing import Any

from sphere_ray import storage
from sphere_ray.records import PoolUse, Verdict
from sphere_ray.reporting.summary import RunSummary
from sphere_ray.runs.directory import FinishedStep, Run
from sphere_ray.runs.steps import policy, reward_model

Result = tuple[str, int, dict[str, float]]
"""A group, the iteration (0 outside of one), and numbers by name."""

_ANSWERS = ("verdict", "sample_verdicts", "error")


def results_of(step: FinishedStep) -> Result:
    """The numbers of a committed step: what its manifest says, its answers, its training."""
    report = step.manifest.report
    values: dict[str, Any] = {
        key: getattr(report, key) for key in ("rows_in", "rows_out", "seconds", "tokens")
    }
    values |= {f"dropped/{reason}": count for reason, count in report.dropped.items()}
    for use in report.pools:
        values |= {f"pools/{use.name}/{key}": value for key, value in _use(use).items()}
    if step.kind in ("evaluation", "test"):
        values |= _answers(step)
    if step.kind == "pairs":
        values |= {f"stage/{stage}": count for stage, count in _stages(step).items()}
    for file in (policy.OUTCOME, reward_model.OUTCOME):
        outcome = storage.read_json(f"{step.path}/{file}") or {}
        values |= {key: value for key, value in outcome.items() if isinstance(value, int | float)}
    numbers = {key: float(value) for key, value in values.items()}
    return f"steps/{report.phase}", step.iteration or 0, numbers


def lineage(run: Run) -> str:
    """A line for every model that a run made: its fingerprint, and what it was made from."""
    lines = []
    for step in run.variants:
        if step.model is not None:
            made_from = ", ".join(f"{name} {value}" for name, value in step.manifest.inputs.items())
            place = step.model.path.removeprefix(f"{run.path}/")
            lines.append(f"- `{place}`: {step.model.fingerprint}, from {made_from}")
    return "\n".join(lines)


def test_result(summary: RunSummary) -> dict[str, float]:
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


def _use(use: PoolUse) -> dict[str, float]:
    shares = {"idle": use.idle, "prefix_hits": use.prefix_share}
    known = {name: share for name, share in shares.items() if share is not None}
    return {"generated_tokens": use.generated_tokens, **known}


def _answers(step: FinishedStep) -> dict[str, float]:
    """Greedy accuracy and, with samples, their mean, over the answered problems."""
    greedy, samples = list[bool](), list[float]()
    for table in step.tables(_ANSWERS):
        for row in table.to_pylist():
            if row["error"] is not None:
                continue
            greedy.append(row["verdict"] == Verdict.CORRECT)
            if several := row["sample_verdicts"]:
                samples.append(fmean(verdict == Verdict.CORRECT for verdict in several))
    found = {"accuracy": fmean(greedy)} if greedy else {}
    return found | ({"mean_at_k": fmean(samples)} if samples else {})


def _stages(step: FinishedStep) -> Counter[str]:
    return Counter(
        stage for table in step.tables(["stage"]) for stage in table["stage"].to_pylist()
    )
