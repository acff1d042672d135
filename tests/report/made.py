"""A finished run of two iterations, written by hand with the package's own writers.

The first iteration promotes a policy and trains a reward model; the second refuses two candidates,
and the training of a third collapses. Texts are hostile.
"""

import asyncio
import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.config.method import MethodSettings, SearchSettings, StageSettings
from sphere_ray.evolution.decision import Trial
from sphere_ray.evolution.outcome import Iteration, Outcome, summarise
from sphere_ray.method.decision import decide
from sphere_ray.method.sphere import sphere
from sphere_ray.records import (
    Dropped,
    EvaluationRow,
    FinishReason,
    Message,
    ModelRef,
    PhaseReport,
    PoolUse,
    PreferencePair,
    Problem,
    Rollout,
    Verdict,
)
from sphere_ray.runs.directory import CURRENT, SUMMARY, FinishedStep, WritableRun
from sphere_ray.runs.manifest import Manifest
from sphere_ray.runs.step import Made
from sphere_ray.schema import to_table
from tests.method.fakes import wander, world
from tests.report.summaries import audit, benchmark

HOSTILE = "<script>alert(1)</script> & \"quoted\" $x_{1}$ 'a' \u202e\u0007"
FAMILIES = ("ages", "fares & <b>tips</b>", "$x_")
_ROUTES = 40
_NUM_TEST = 60


def settings(folder: str | Path, **changes: Any) -> RunSettings:
    """A configuration that could have led to this run."""
    return RunSettings.model_validate(
        {
            "name": "made",
            "run_dir": str(folder),
            "iterations": 2,
            "problems": {
                split: {"source": f"file:{split}.jsonl?token=hidden"}
                for split in ("train", "validation", "test")
            },
            "method": {"search": {"num_candidates": 3, "boundary": "\n"}},
            "engines": {
                "policy": {"path": "tiny:llama"},
                "policy_pool": {"replicas": 2, "gpus": 1, "tensor_parallel": 2},
                "scorer": {
                    "kind": "rollout_value",
                    "trained": {"pool": {"kv_cache_gib": 1}},
                },
            },
            "training": {"batch_size": 8, "micro_batch_size": 1},
            "trainer": {"workers": 4, "use_gpu": True},
            "promotion": {"first_look": 10},
        }
        | changes
    )


def write_run(folder: str | Path, *, seed: int = 0, **changes: Any) -> str:
    """Write the run; returns its directory."""
    chosen = settings(folder, seed=seed, **changes)
    with WritableRun.create(str(folder), chosen) as run:
        _Writer(run, random.Random(seed)).write()
        return run.path


class _Writer:
    """Writes the steps in the order in which a run makes them."""

    def __init__(self, run: WritableRun, draw: random.Random) -> None:
        self.run, self.draw = run, draw
        self.made: list[Made] = []

    def write(self) -> None:
        base = ModelRef(path="base", iteration=0, fingerprint="f00dfeed")
        self.run.append_event(json.dumps({"event": "connected", "cluster": "2 nodes, 8 CPUs"}))
        self._problems()
        before = self._answers("evaluation/base", 0.35)
        base_test = self._answers("test/base", 0.35, split="test")
        first = self._iteration(0)
        trained = self._training(0, "policy", steps=9)
        after = self._answers("iter-000/evaluation/trained", 0.6)
        first.trials = [self._trial("trained", trained, before, after)]
        first.reward = self._reward_model()
        second = self._iteration(1)
        refused = [
            self._trial(
                name,
                self._training(1, kind, steps=150) if kind == "policy" else self._step(place),
                after,
                self._answers(f"iter-001/evaluation/{name}", 0.3),
            )
            for name, kind, place in (
                ("trained", "policy", ""),
                ("halfway", "halfway", "iter-001/halfway"),
            )
        ]
        error = "chosen log-prob fell by 2.0 nats"
        collapsed = self._step("iter-001/half_rate", dropped={"collapsed": 3})
        storage.write_json({"error": error}, f"{collapsed.path}/training.json")
        second.trials = [
            *refused,
            Trial(candidate="half_rate", made=collapsed, refusal=f"training collapsed: {error}"),
        ]
        second.refusal = second.refusals
        final_test = self._answers("test/iter-000", 0.55, split="test")
        outcome = Outcome(
            base=base,
            base_test=base_test,
            final_test=final_test,
            iterations=[first, second],
        )
        steps = [made.finished for made in self.made if made.finished is not None]
        self.run.note_current([step.path for step in steps], all_of_them=True)
        summary: dict[str, Any] = dict(summarise(self.run.settings, outcome, steps))
        summary["benchmarks"] = {
            "gsm8k": benchmark(self.draw, 0.2, 0.3),
            "aime24": benchmark(self.draw, 0.1, 0.1, samples=4),
        }
        summary["audit"] = audit(("a", "b", "c"))
        summary["iterations"][1]["pairs"]["audit"] = {"accepted": 3, "rejected": 2, "corrected": 1}
        storage.write_json(summary, self.run.file(SUMMARY))
        assert storage.exists(self.run.file(CURRENT))

    def _step(
        self,
        place: str,
        tables: dict[str, tuple[Sequence[Any], type]] | None = None,
        *,
        pools: tuple[PoolUse, ...] = (),
        **report: Any,
    ) -> Made:
        path = self.run.file(place)
        rows = 0
        for name, (records, kind) in (tables or {}).items():
            half = len(records) // 2
            for number, part in enumerate((records[:half], records[half:])):
                target = f"{path}/{name}/part-{number:05}.parquet".replace("//", "/")
                storage.write_table(to_table(part, kind), target)
            rows += len(records) if not name else 0
        phase = place.partition("/")[2] if place.startswith("iter-") else place
        found = PhaseReport(
            phase=phase,
            fingerprint=f"fingerprint of {place}",
            rows_in=rows,
            rows_out=rows,
            seconds=round(self.draw.uniform(1, 400), 3),
            pools=pools,
            **report,
        )
        manifest = Manifest(
            step=place,
            fingerprint=found.fingerprint,
            output=f"output of {place}",
            identity={},
            inputs={},
            report=found,
            versions={"machine": "Linux, 8 cores", "python": "3.11.7"},
            code="",
            created=f"2026-11-29T10:{len(self.made):02}:00.000+00:00",
        )
        storage.write_json(manifest.to_json(), f"{path}/manifest.json")
        made = Made(name=place, path=path, finished=FinishedStep(path=path, manifest=manifest))
        self.made.append(made)
        return made

    def _pool(self, name: str = "policy-01234567", replicas: int = 2) -> PoolUse:
        seconds = round(self.draw.uniform(20, 300), 3)
        return PoolUse(
            name=name,
            replicas=replicas,
            seconds=seconds,
            busy_s=round(seconds * replicas * self.draw.uniform(0.5, 1), 3),
            generated_tokens=self.draw.randint(1000, 90_000),
            prefix_queries=5000,
            prefix_hits=self.draw.randint(0, 5000),
        )

    def _problems(self) -> None:
        splits = {"train": _ROUTES, "validation": 20, "test": _NUM_TEST}
        tables = {
            split: ([_problem(split, index) for index in range(count)], Problem)
            for split, count in splits.items()
        }
        self._step("problems", tables)

    def _answers(self, place: str, share: float, *, split: str = "validation") -> Made:
        count = _NUM_TEST if split == "test" else 20
        rows = [self._answer(_problem(split, index), share) for index in range(count)]
        if split == "test":
            rows[-1] = replace(rows[-1], verdict=None, error="RequestError: too long")
        return self._step(place, {"": (rows, EvaluationRow)}, pools=(self._pool(),), tokens=99)

    def _answer(self, problem: Problem, share: float) -> EvaluationRow:
        right = self.draw.random() < share
        first = 7 if self.draw.random() < share + 0.2 else 8
        second = 9 if self.draw.random() < share else 10
        text = f"{HOSTILE} 3 + 4 = {first} pens.\nThen {first} + 2 = {second} pens.\n#### {right}"
        return EvaluationRow(
            problem_id=problem.problem_id,
            family=problem.family,
            level=1,
            response=text,
            answer="9",
            verdict=Verdict.CORRECT if right else Verdict.WRONG,
            num_tokens=20,
            finish_reason=FinishReason.ANSWER,
            sample_verdicts=(Verdict.CORRECT, Verdict.WRONG),
            sample_answers=("9", "8"),
        )

    def _iteration(self, number: int) -> Iteration:
        rollouts = [_rollout(index, number) for index in range(_ROUTES)]
        pools = (self._pool(), self._pool("small", 1), self._pool("trained-89abcdef", 1))
        place = f"iter-{number:03}"
        tokens = sum(each.tokens for each in rollouts)
        made = self._step(
            f"{place}/rollouts", {"": (rollouts, Rollout)}, pools=pools, tokens=tokens
        )
        found = list(_pairs(rollouts))
        dropped = [_dropped(pair, reason) for pair, reason in zip(found, _REASONS, strict=False)]
        kept = found[len(_REASONS) :]
        tables = {"": (kept, PreferencePair), "dropped": (dropped, Dropped)}
        counts = {reason: _REASONS.count(reason) for reason in _REASONS}
        pairs = self._step(f"{place}/pairs", tables, dropped=counts)
        self._step(f"{place}/reference")
        return Iteration(number=number, rollouts=made, pairs=pairs, scored_by=None)

    def _training(self, number: int, kind: str, *, steps: int) -> Made:
        made = self._step(f"iter-{number:03}/{kind}")
        history = [
            {
                "step": step,
                "loss": 0.9 / step,
                "margin": 0.01 * step,
                "reward_accuracy": 1 - 0.4 / step,
                "chosen_logp": -0.2,
                "rejected_logp": -0.3 - 0.01 * step,
                "grad_norm": 5.0 + self.draw.random(),
                "learning_rate": 1e-5 / step,
                "tokens": 100,
                "computed": 90,
                "padding": 9,
                "seconds": 1.5,
            }
            for step in range(1, steps + 1)
        ]
        outcome = {
            "pairs": 12,
            "steps": steps,
            "zero_stage": 2,
            "workers": 4,
            "loss_first": 0.9,
            "loss_last": 0.9 / steps,
            "reward_accuracy": history[-1]["reward_accuracy"],
            "update_survival": 0.9876,
            "history": history,
        }
        storage.write_json(outcome, f"{made.path}/training.json")
        return made

    def _trial(self, name: str, made: Made, before: Made, after: Made) -> Trial:
        rows = [
            list(each.finished.rows(EvaluationRow)) for each in (before, after) if each.finished
        ]
        decision = decide(*rows, self.run.settings.promotion)
        promoted = decision.ruling.value == "promote"
        return Trial(
            candidate=name,
            made=made,
            before=[before],
            after=[after],
            looks=2,
            fresh=10,
            decision=decision,
            refusal=None if promoted else decision.reason,
        )

    def _reward_model(self) -> Made:
        made = self._step("iter-000/reward")
        bins = [
            {"steps": 40, "score": 0.1, "value": 0.2},
            {"steps": 60, "score": 0.9, "value": 0.7},
        ]
        held_out = {
            "steps": 100,
            "problems": 12,
            "auc": 0.81,
            "baseline_auc": 0.6,
            "ece": 0.13,
            "siblings": 0.7,
            "first_error": 0.5,
            "spread": 0.3,
            "bins": bins,
        }
        outcome = {
            "problems": 50,
            "labels": 321,
            "steps": 7,
            "loss_first": 0.7,
            "loss_last": 0.5,
            "held_out": held_out,
            "refusal": None,
        }
        storage.write_json(outcome, f"{made.path}/outcome.json")
        return made


_REASONS = ["too_long", "too_similar", "too_similar", "false_equation"]


def _problem(split: str, index: int) -> Problem:
    return Problem(
        problem_id=f"{split}-{index:03}",
        question=f"How many pens are {index} pens? {HOSTILE}",
        answer="9",
        source="made",
        family=FAMILIES[index % len(FAMILIES)],
    )


def _rollout(index: int, iteration: int) -> Rollout:
    method = MethodSettings(
        search=SearchSettings(num_candidates=3, max_depth=4),
        stages=StageSettings(correction_check_share=0.5),
    )
    problem = replace(_problem("train", index), answer="4")
    made = sphere(problem, world(wander, settings=method, iteration=iteration))
    with ThreadPoolExecutor(1) as beside:  # an open browser has a loop in this thread
        return beside.submit(asyncio.run, made).result()


def _pairs(rollouts: Sequence[Rollout]) -> Any:
    for rollout in rollouts:
        right = [chain for chain in rollout.chains if chain.correct]
        wrong = [chain for chain in rollout.chains if chain.verdict is Verdict.WRONG]
        for number, (chosen, rejected) in enumerate(zip(right, wrong, strict=False)):
            completed = "/0.0.0" if number else ""
            yield PreferencePair(
                pair_id=f"{rollout.problem.problem_id}/{number}",
                problem_id=rollout.problem.problem_id,
                stage=chosen.stage,
                prompt=(Message(role="user", content="?"),),
                chosen=f"{chosen.text} {HOSTILE}",
                rejected=rejected.text,
                chosen_reward=chosen.reward,
                rejected_reward=rejected.reward,
                chosen_chain=chosen.chain_id,
                rejected_chain=rejected.chain_id + completed,
            )


def _dropped(pair: PreferencePair, reason: str) -> Dropped:
    return Dropped(
        pair_id=pair.pair_id,
        problem_id=pair.problem_id,
        stage=pair.stage,
        chosen_chain=pair.chosen_chain,
        rejected_chain=pair.rejected_chain,
        reason=reason,
    )
