"""A run directory as the package writes it, without engines: rollouts, pairs and manifests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sphere_ray import storage
from sphere_ray.config import RunSettings, load_config
from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    Completion,
    FinishReason,
    PhaseReport,
    Problem,
    Rollout,
    StageName,
    Step,
    StopReason,
    Verdict,
)
from sphere_ray.rollout.pairing import pair
from sphere_ray.rollout.stages import rollout_table
from sphere_ray.runs.directory import MANIFEST, Run, WritableRun
from sphere_ray.runs.manifest import Manifest

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def candidate(text: str, reward: float | None = 0.5, *, right: int = 1, of: int = 2) -> Candidate:
    """A step whose value is behind `of` completions, of which `right` reached the gold."""
    completions = tuple(
        Completion(
            text=f" and then number {number} of {text[:12]}\n#### {1 if number < right else 2}",
            token_ids=(3, 4),
            logprob=-0.5,
            stop_reason=StopReason.END,
            verdict=Verdict.CORRECT if number < right else Verdict.WRONG,
        )
        for number in range(of)
    )
    values = tuple(float(number < right) for number in range(of))
    return Candidate(
        text=text,
        token_ids=tuple(range(1, 6)),
        logprob=-0.5,
        stop_reason=StopReason.END,
        reward=reward,
        values=values or None,
        completions=completions or None,
    )


def chain(problem_id: str, branch: Branch, text: str, *, right: bool, **changes: float) -> Chain:
    """A chain of two steps; the first has a sibling, the last one states the answer."""
    reward = changes.get("reward", 0.75 if right else 0.25)
    first = Step(
        candidates=(
            candidate(f"Let us see, {text}.\n\n", reward, of=0),
            candidate(f"A sibling of {text}.\n\n", 0.1, of=0),
        ),
        chosen=0,
    )
    end = Candidate(
        text=f"#### {1 if right else 2}",
        token_ids=(9, 0),
        logprob=-0.1,
        stop_reason=StopReason.END,
        reward=float(right),
        values=(float(right),),
        completions=(
            Completion(
                text="",
                token_ids=(),
                logprob=0.0,
                stop_reason=StopReason.END,
                verdict=Verdict.CORRECT if right else Verdict.WRONG,
            ),
        ),
    )
    return Chain(
        chain_id=f"{problem_id}:0:self_generation:{branch}",
        stage=StageName.SELF_GENERATION,
        branch=branch,
        model="policy-1",
        steps=(first, Step(candidates=(end,), chosen=0)),
        answer="1" if right else "2",
        verdict=Verdict.CORRECT if right else Verdict.WRONG,
        finish_reason=FinishReason.ANSWER,
        num_tokens=7,
        seed=5,
    )


def rollout(number: int) -> Rollout:
    """A problem whose Sol_max is right and whose Sol_min is wrong; its text is hostile HTML."""
    problem_id = f"{number:032x}"
    problem = Problem(
        problem_id=problem_id,
        question=f"How many are {number} boxes? {HOSTILE}",
        answer="1",
        source="file:made.jsonl",
        family=("boxes", "trains")[number % 2],
        level=1,
    )
    margin = 0.25 + (number % 7) / 10
    chains = (
        chain(problem_id, Branch.MAX, f"so many as {number}", right=True, reward=margin),
        chain(problem_id, Branch.MIN, f"none but {number} {HOSTILE}", right=False, reward=0.2),
    )
    return Rollout(problem=problem, chains=chains, route=("self_generation:pair",), tokens=20)


def settings_for(folder: Path, **pairs: Any) -> RunSettings:
    """Settings of a run in `folder`, with some rules for pairs."""
    config = {
        "name": "made",
        "run_dir": str(folder),
        "problems": {s: {"source": f"file:{s}"} for s in ("train", "validation", "test")},
        "engines": {"policy": {"path": "tiny:llama"}, "policy_pool": {"kv_cache_gib": 1}},
        "method": {"pairs": {"min_edit_distance": 3, **pairs}},
    }
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    return load_config(path)


def finished(run: WritableRun, place: str, rows: int, **inputs: str) -> str:
    """Commit what lies in a step's directory."""
    report = PhaseReport(phase=place, fingerprint=place, rows_in=rows, rows_out=rows, seconds=1.0)
    manifest = Manifest.of(
        report,
        output=None,
        identity={"seed": 5, "pairs.rejected": "likeliest"},
        inputs={"policy": "f00", **inputs},
    )
    storage.write_json(manifest.to_json(), f"{run.file(place)}/{MANIFEST}")
    return run.file(place)


def made_run(folder: Path, rollouts: Sequence[Rollout], **rules: Any) -> Run:
    """Write a run with one iteration: the rollouts and the pairs that the package makes of them."""
    settings = settings_for(folder, **rules)
    with WritableRun.create(str(folder), settings) as run:
        rows = run.file("iter-000/rollouts")
        storage.write_table(rollout_table(rollouts), f"{rows}/part-00000.parquet")
        counts = pair(rows, run.file("iter-000/pairs"), settings.method)
        steps = [
            finished(run, "iter-000/rollouts", len(rollouts)),
            finished(run, "iter-000/pairs", sum(counts.kept.values())),
        ]
        run.note_current(steps, all_of_them=True)
    return Run.open(str(folder))
