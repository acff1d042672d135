"""How good are the reward sources of a run? Its own model and the source before it, side by side.

Fresh rollout values of problems no reward model has seen are the truth; every source scores the
same steps. Each part lies in a run directory of its own below the output, so it can be continued.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sphere_ray.config import RunSettings
from sphere_ray.config.problems import SplitSettings
from sphere_ray.config.scorers import RolloutValueSettings
from sphere_ray.engines.sources import source_of
from sphere_ray.errors import ProblemSourceError, RunDirectoryError
from sphere_ray.problems.ingest import ingest_splits, rejected_lines, require_usable
from sphere_ray.records import (
    LabelledStep,
    ModelRef,
    PhaseReport,
    Problem,
    Rollout,
    ScoreRow,
    Verdict,
)
from sphere_ray.reporting.reliability_plot import draw_reliability
from sphere_ray.reporting.reward_summary import (
    CostSummary,
    ScoreReport,
    SourceReport,
    TrainedRewardSummary,
)
from sphere_ray.reward.labels import labelled_steps
from sphere_ray.reward.quality import inversion_rate, quality, rank_correlation, shape_scores
from sphere_ray.reward.sources import Cost, RewardSource
from sphere_ray.rollout import pipeline
from sphere_ray.rollout.roles import base_model, roles_of
from sphere_ray.runs import storage
from sphere_ray.runs.phases import DATA, committed, read_rollouts, roll_out, stream
from sphere_ray.runs.session import Session
from sphere_ray.runs.stopwatch import stopwatch
from sphere_ray.runs.store import MANIFEST, PhaseDir, RunStore
from sphere_ray.runs.train_prm import recorded_rollouts, settings_of_run
from sphere_ray.runs.trained_reward import OUTCOME, PHASE, TRAINING_STEPS
from sphere_ray.schema import from_table, to_table

TRAINED = "trained"
COST = "cost.json"
_FEWEST_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Truth:
    """Fresh values by step, and the labels that the run recorded (the baseline learns on them)."""

    rollouts: Sequence[Rollout]
    steps: Mapping[Any, LabelledStep]
    known: Sequence[LabelledStep]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unseen:
    """Problems to measure on, of so many rows; those that were trained on are left out."""

    split: SplitSettings
    problems: Sequence[Problem]
    rows: int
    left_out: int


def score_report(
    run_dir: str,
    *,
    problems: str | None,
    completions: int,
    output: str | None,
    overrides: Sequence[str],
) -> ScoreReport:
    """Measure the sources of a run on `problems` (default: its validation problems).

    `run_dir` may be a directory of `train_prm`: its model is measured whatever the gates said.
    Writes report.json and reliability.png to `output` (default: RUN-scores).

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    source = storage.resolve(run_dir)
    place = storage.resolve(output) if output else f"{source}-scores"
    settings = settings_of_run(source, place, overrides)
    trained = _trained_model(source)
    policy = base_model(settings.engines)
    split = settings.problems.validation
    if problems is not None:
        split = SplitSettings(source=problems)
    known = _known(source)
    unseen = _unseen(settings, split, place, {step.problem_id for step in known})
    fresh = _fresh(settings, place, unseen, completions, policy)
    rollouts = list(read_rollouts(fresh.path))
    steps = _by_step(labelled_steps(rollouts, trained=False))
    truth = _Truth(rollouts=rollouts, steps=steps, known=known)
    sources: dict[str, SourceReport] = {}
    scores: dict[str, dict[Any, float]] = {}
    names = [settings.engines.scorer.kind, *([TRAINED] if trained else [])]
    for name in names:
        model = trained if name == TRAINED else None
        sources[name], scores[name] = _scored(
            _rescored(settings, f"{place}/{name}", fresh, policy, model), truth
        )
    report: ScoreReport = {
        "problems": len({step.problem_id for step in truth.steps.values()}),
        "completions": completions,
        "sources": sources,
        "agreement": _agreement(scores),
    }
    storage.write_json(report, f"{place}/report.json")
    bins = {name: each["quality"]["bins"] for name, each in sources.items()}
    draw_reliability(bins, f"{place}/reliability.png")
    return report


def _known(source: str) -> list[LabelledStep]:
    """The labels of a run, or those that `train_prm` trained on."""
    trained = f"{source}/{PHASE}/{TRAINING_STEPS}"
    if Path(trained).is_file():
        return from_table(pq.read_table(trained), LabelledStep)
    recorded = recorded_rollouts(source)
    return [
        step
        for each in recorded
        for step in labelled_steps(read_rollouts(each.path), trained=each.trained)
    ]


def _trained_model(source: str) -> ModelRef | None:
    """The model of `train_prm`, or the one a run trained last, taken or not; None without any.

    Raises:
        RunDirectoryError: `train_prm` has not finished here, or could not train.
    """
    alone = Path(source) / PHASE
    trained = [alone, *sorted(Path(source).glob(f"iter-*/{PHASE}"), reverse=True)]
    for folder in trained:
        outcome: TrainedRewardSummary | None = storage.read_json(str(folder / OUTCOME))
        if outcome and outcome["held_out"] and (folder / MANIFEST).is_file():
            return _model(folder)
    if alone.is_dir():
        raise RunDirectoryError(
            f"{source} holds no finished reward model; run `sphere train-prm` to its end first"
        )
    return None


def _model(folder: Path) -> ModelRef:
    manifest = storage.read_json(str(folder / MANIFEST))
    return ModelRef(path=str(folder / "model"), iteration=0, fingerprint=manifest["fingerprint"])


def _fresh(
    settings: RunSettings, place: str, unseen: _Unseen, completions: int, policy: ModelRef
) -> PhaseDir:
    """Roll the problems out with values of `completions` completions, stage 1 alone."""
    known = settings.engines.scorer
    sampling = known if isinstance(known, RolloutValueSettings) else RolloutValueSettings()
    scorer = sampling.model_copy(update={"num_completions": completions, "trained": None})
    stages = settings.method.stages.model_copy(
        update={"self_correction": False, "diversity": False}
    )
    changed = settings.model_copy(
        update={
            "engines": settings.engines.model_copy(update={"scorer": scorer}),
            "method": settings.method.model_copy(update={"stages": stages}),
        }
    )
    with (
        RunStore.open(f"{place}/fresh", changed) as store,
        Session(settings=changed, store=store) as session,
    ):
        if unseen.left_out:
            session.board.log(f"{unseen.left_out} problems are left out: they were trained on")
        split = unseen.split
        problems = store.phase(None, "problems", {"source": split.source, "limit": split.limit})
        if problems.committed() is None:
            problems.begin()
            storage.write_table(to_table(unseen.problems, Problem), f"{problems.path}/train/{DATA}")
            problems.commit(
                PhaseReport(
                    phase=problems.name,
                    fingerprint=problems.fingerprint,
                    rows_in=unseen.rows,
                    rows_out=len(unseen.problems),
                    seconds=0.0,
                )
            )
        rollouts, _ = roll_out(session, problems, policy, 0)
        return rollouts


def _unseen(settings: RunSettings, split: SplitSettings, place: str, seen: Set[str]) -> _Unseen:
    """Problems of a source that no reward model was trained on.

    Raises:
        ProblemSourceError: the source cannot be used, or has none of them.
    """
    result = ingest_splits({"train": split})
    rejected = f"{place}/rejected.jsonl"
    if result.rejected:
        storage.write_text(rejected_lines(result.rejected), rejected)
    require_usable(result, settings.problems.max_rejected_share, rejected)
    problems = [each for each in result.problems["train"] if each.problem_id not in seen]
    if not problems:
        raise ProblemSourceError(
            f"{split.source}: the reward model was trained on all of these problems; name others "
            "with --problems"
        )
    return _Unseen(
        split=split,
        problems=problems,
        rows=result.rows["train"],
        left_out=len(result.problems["train"]) - len(problems),
    )


def _scored(phase: PhaseDir, truth: _Truth) -> tuple[SourceReport, dict[Any, float]]:
    """The figures of one source, and its scores by step."""
    rows = from_table(storage.read_table(phase.path), ScoreRow)
    scored = {
        (row.problem_id, score.prefix, score.text): score.reward
        for row in rows
        for score in row.scores
    }
    keys = [key for key in truth.steps if key in scored]
    if len(keys) < _FEWEST_STEPS:
        errors = [row.error for row in rows if row.error]
        raise RunDirectoryError(
            f"{phase.path}: hardly a step could be scored; most rows failed, for example: "
            f"{errors[0] if errors else 'no step had a reward'}"
        )
    steps, scores = [truth.steps[key] for key in keys], [scored[key] for key in keys]
    baseline = shape_scores(truth.known, steps) if truth.known else None
    figures: Any = asdict(quality(steps, scores, baseline=baseline))
    report: SourceReport = {
        "quality": figures,
        "inversions": _inversions(truth.rollouts, scored),
        "failed_rows": sum(row.error is not None for row in rows),
        "cost_per_1000": storage.read_json(f"{phase.path}/{COST}"),
    }
    return report, dict(zip(keys, scores, strict=True))


def _inversions(rows: Sequence[Rollout], scored: Mapping[Any, float]) -> float | None:
    """Among pairs of a right and a wrong chain of a problem, by the score of the last step."""
    pairs = [
        (right, wrong)
        for row in rows
        for right in _last_scores(row, Verdict.CORRECT, scored)
        for wrong in _last_scores(row, Verdict.WRONG, scored)
    ]
    return inversion_rate(pairs)


def _last_scores(rollout: Rollout, verdict: Verdict, scored: Mapping[Any, float]) -> list[float]:
    found = []
    for chain in rollout.chains:
        if chain.verdict is verdict and chain.steps:
            *before, last = (step.candidate.text for step in chain.steps)
            found.append(scored.get((rollout.problem.problem_id, tuple(before), last)))
    return [score for score in found if score is not None]


def _rescored(
    settings: RunSettings, place: str, fresh: PhaseDir, policy: ModelRef, trained: ModelRef | None
) -> PhaseDir:
    scorer = settings.engines.scorer
    if trained is None:
        scorer = scorer.model_copy(update={"trained": None})
    elif scorer.trained is not None:
        schedule = scorer.trained.schedule.model_copy(update={"audit_share": 0.0})
        scorer = scorer.model_copy(
            update={"trained": scorer.trained.model_copy(update={"schedule": schedule})}
        )
    engines = settings.engines.model_copy(update={"scorer": scorer})
    changed = settings.model_copy(update={"engines": engines})
    roles = roles_of(engines, policy, trained)
    upstream = {"rollouts": fresh.fingerprint, "policy": policy.fingerprint}
    upstream |= {"trained": trained.fingerprint} if trained else {}
    with (
        RunStore.open(place, changed) as store,
        Session(settings=changed, store=store) as session,
    ):
        phase = store.phase(None, "scores", upstream)
        if phase.committed() is not None:
            return phase
        phase.begin(resumable=True)
        resumed = storage.count_rows(phase.path) > 0
        with stopwatch(phase) as seconds:
            done = stream(session, pipeline.rescore, fresh.path, phase, roles, 0)
        if not resumed:
            scoring = RewardSource(scorer) if trained else source_of(scorer)
            _write_cost(phase, scoring.cost(done.counts, done.pools), done.pools[0].seconds)
        rows = storage.count_rows(phase.path)
        committed(
            phase,
            fresh.path,
            PhaseReport(
                phase=phase.name,
                fingerprint=phase.fingerprint,
                rows_in=rows,
                rows_out=rows,
                seconds=seconds(),
            ),
        )
    return phase


def _write_cost(phase: PhaseDir, spent: Cost, seconds: float) -> None:
    rows = from_table(storage.read_table(phase.path), ScoreRow)
    steps = sum(len(row.scores) for row in rows)
    if not steps:
        return
    cost: CostSummary = {
        "decoded_tokens": 1000 * spent.decoded / steps,
        "prefilled_tokens": 1000 * spent.prefilled / steps,
        "seconds": 1000 * seconds / steps,
    }
    storage.write_json(cost, f"{phase.path}/{COST}")


def _by_step(steps: Sequence[LabelledStep]) -> dict[Any, LabelledStep]:
    return {(step.problem_id, step.prefix, step.text): step for step in steps}


def _agreement(scores: Mapping[str, Mapping[Any, float]]) -> dict[str, float | None]:
    found = {}
    for one, other in combinations(scores, 2):
        both = [key for key in scores[one] if key in scores[other]]
        pair = ([scores[name][key] for key in both] for name in (one, other))
        found[f"{one} and {other}"] = rank_correlation(*pair)
    return found
