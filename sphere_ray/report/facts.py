"""Everything that a report says about a run, as one document of plain data.

`summary` is summary.json as it is. `data` holds what the files of the run say besides.
"""

import re
from collections.abc import Sequence
from typing import Any

from sphere_ray import storage
from sphere_ray.errors import RunDirectoryError
from sphere_ray.redaction import redact
from sphere_ray.report.cost import cost_of, outcome_rows
from sphere_ray.report.examples import flips, pair_example, repaired_example
from sphere_ray.report.rewards import reward_facts
from sphere_ray.report.settings import changed_settings
from sphere_ray.reporting.columns import REWARD_COLUMNS
from sphere_ray.reporting.summary import IterationSummary, RunSummary
from sphere_ray.runs.directory import CANDIDATES, FinishedStep, Run, find_step

Facts = dict[str, Any]
_FINAL = re.compile(r"iter-\d+")
SPLITS = ("train", "validation", "test")
MAX_STEPS = 100
"""Optimizer steps of a training that a page shows."""
_TRAINING = "training.json"


def run_facts(run: Run) -> Facts:
    """Read a finished run; rollouts are streamed, and only their columns of rewards.

    Raises:
        RunDirectoryError: the run has not finished yet, or another version of sphere wrote it.
    """
    summary = run.summary
    if summary is None:
        raise RunDirectoryError(
            f"{run.path} has no summary.json yet, which a run writes at its end; let it finish, or "
            "continue it by the same `sphere run`"
        )
    if "process" not in summary["test"]:
        raise RunDirectoryError(
            f"{run.path}/summary.json was written by an earlier version of sphere; the same "
            "`sphere run` again counts anew, and reuses all that is finished"
        )
    steps = run.finished(summary["steps"])
    found = _flips(steps)
    return {
        "summary": summary,
        "data": {
            "about": _about(run, steps),
            "settings": changed_settings(run.settings),
            "outcome": _outcome(summary),
            "iterations": [_iteration(steps, item) for item in summary["iterations"]],
            "flips": found["counts"],
            "cost": cost_of(steps, run.settings, _continued(run)),
            "steps": [_record(run, step) for step in steps],
            "examples": _examples(steps, summary)
            | {name: found[name] for name in ("gained", "lost")},
        },
    }


def _outcome(summary: RunSummary) -> str:
    """Which sentence says what came of the run: `kept`, `gain`, `loss` or `equal`."""
    if not any(item["promoted"] for item in summary["iterations"]):
        return "kept"
    difference = summary["test"]["difference"]
    return "gain" if difference > 0 else "loss" if difference < 0 else "equal"


def _flips(steps: Sequence[FinishedStep]) -> Facts:
    """Test problems that went from right to wrong or back; nothing where no policy was promoted."""
    problems, base = find_step(steps, "problems"), find_step(steps, "test", None, "base")
    final = [each for each in steps if each.kind == "test" and _FINAL.fullmatch(each.label)]
    if problems is None or base is None or not final:
        return {"counts": None, "gained": None, "lost": None}
    return flips(problems, base, final[-1])


def _about(run: Run, steps: Sequence[FinishedStep]) -> Facts:
    settings, manifests = run.settings, [step.manifest for step in steps]
    engines, made = settings.engines, [each.created for each in manifests if each.created]
    environment = dict(manifests[-1].versions) if manifests else {}
    connected = [each for each in run.events() if each.get("event") == "connected"]
    problems = find_step(steps, "problems")
    return {
        "name": settings.name,
        "run_dir": settings.run_dir,
        "seed": settings.seed,
        "iterations": settings.iterations,
        "model": engines.policy.path,
        "small": engines.small if isinstance(engines.small, str) else engines.small.path,
        "scorer": engines.scorer.kind,
        "backend": engines.backend,
        "problems": [
            {
                "split": split,
                "source": redact(getattr(settings.problems, split).source),
                "count": _num_problems(problems, split),
            }
            for split in SPLITS
        ],
        "began": _moment(min(made, default="")),
        "ended": _moment(max(made, default="")),
        "machine": environment.pop("machine", None),
        "cluster": next((e["cluster"] for e in reversed(connected) if "cluster" in e), None),
        "versions": environment,
    }


def _num_problems(problems: FinishedStep | None, split: str) -> int | None:
    if problems is None:
        return None
    return sum(int(table.num_rows) for table in problems.tables(["problem_id"], below=split))


def _iteration(steps: Sequence[FinishedStep], item: IterationSummary) -> Facts:
    """What the files of an iteration say beyond the summary."""
    number = item["iteration"]
    rollouts = find_step(steps, "rollouts", number)
    dropped = item["pairs"]["dropped"]
    return {
        "routes": outcome_rows(item["rollout"]["routes"]),
        "proposed": item["pairs"]["total"] + sum(dropped.values()),
        "rewards": None if rollouts is None else reward_facts(rollouts.tables(REWARD_COLUMNS)),
        "trainings": [
            {"candidate": candidate, **_thinned(storage.read_json(f"{step.path}/{_TRAINING}"))}
            for candidate, kind in CANDIDATES.items()
            if (step := find_step(steps, kind, number)) is not None
            and storage.exists(f"{step.path}/{_TRAINING}")
        ],
    }


def _thinned(training: Facts) -> Facts:
    """What training.json says, with at most some hundred of its steps: every so many, and the last.

    `every` says how many steps are one here.
    """
    history = training.get("history")
    if not history:
        return training
    every = -(-len(history) // MAX_STEPS)
    # Counted from the end, so that the last step is there.
    kept = history[::-1][::every][::-1]
    return training | {"history": kept, "every": every}


def _examples(steps: Sequence[FinishedStep], summary: RunSummary) -> Facts:
    """The first examples of the first iterations that have them."""
    found: Facts = {"pair": None, "repaired": None}
    for item in summary["iterations"]:
        number = item["iteration"]
        rollouts, pairs = (find_step(steps, kind, number) for kind in ("rollouts", "pairs"))
        if rollouts is not None and pairs is not None and found["pair"] is None:
            found["pair"] = pair_example(rollouts, pairs)
        if rollouts is not None and item["rollout"]["wrong_to_correct"] and not found["repaired"]:
            found["repaired"] = repaired_example(rollouts)
    return found


def _continued(run: Run) -> set[tuple[str, int | None]]:
    """Names and iterations of the steps that a later session continued."""
    lines = (each for each in run.events() if each.get("does") == "continue")
    return {(each["name"], each.get("iteration")) for each in lines}


def _moment(created: str) -> str:
    """An ISO time to the minute, as people write it."""
    return created[:16].replace("T", " ")


def _record(run: Run, step: FinishedStep) -> Facts:
    report = step.manifest.report
    return {
        "directory": step.path.removeprefix(f"{run.path}/"),
        "created": _moment(step.manifest.created),
        "fingerprint": step.manifest.fingerprint[:12],
        "output": step.manifest.output[:12],
        "rows_in": report.rows_in,
        "rows_out": report.rows_out,
        "seconds": report.seconds,
        "tokens": report.tokens,
    }
