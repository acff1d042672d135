"""How good are the reward sources of a run? Its trained reward model beside the original source.

Fresh rollout values of problems that no reward model has seen are the truth, and every source
scores the same steps. The work lies in a run directory of its own, so it can be continued.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

from sphere_ray import storage
from sphere_ray.benchmarks.sources import reader_for
from sphere_ray.commands.scores import COST, ScoresStep
from sphere_ray.commands.train_prm import recorded_rollouts, settings_of_run
from sphere_ray.config import RunSettings
from sphere_ray.config.problems import SplitSettings
from sphere_ray.config.scorers import RolloutValueSettings
from sphere_ray.config.training import TrainerPlacement
from sphere_ray.errors import ProblemSourceError, RunDirectoryError
from sphere_ray.pools.roles import base_model
from sphere_ray.problems.ingest import ingest_splits, rejected_lines, require_usable
from sphere_ray.records import LabelledStep, ModelRef, Problem, Rollout, ScoreRow, Verdict
from sphere_ray.reporting.reward_summary import ScoreReport, SourceReport
from sphere_ray.reward.labels import labelled_steps
from sphere_ray.reward.quality import inversion_rate, quality, rank_correlation, shape_scores
from sphere_ray.rollout.labelling import BASELINE_STEPS, TRAIN
from sphere_ray.runs.directory import FinishedStep, Run, WritableRun
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor, Made
from sphere_ray.runs.steps.problems import GivenProblemsStep
from sphere_ray.runs.steps.rollouts import RolloutsStep
from sphere_ray.tables.reliability_plot import draw_reliability

TRAINED = "trained"
_FEWEST_STEPS = 2

Key = tuple[str, tuple[str, ...], str]
"""Problem id, texts of the steps before, and the text of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Truth:
    """Fresh values by step, the rollouts they belong to, and labels that the run recorded."""

    steps: Mapping[Key, LabelledStep]
    rollouts: Sequence[Rollout]
    known: Sequence[LabelledStep]


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
    source = Run.open(run_dir)
    target = storage.resolve(output) if output else f"{source.path}-scores"
    settings = settings_of_run(source, target, overrides)
    trained = _trained_model(source)
    policy = base_model(settings.engines)
    split = SplitSettings(source=problems) if problems else settings.problems.validation
    known = list(islice(_known(source), BASELINE_STEPS))
    seen = {step.problem_id for step in _known(source)}
    unseen, left_out = _unseen(settings, split, target, seen)
    sources: dict[str, SourceReport] = {}
    scores: dict[str, dict[Key, float]] = {}
    needs = settings.model_copy(update={"trainer": TrainerPlacement()})
    with WritableRun.create(target, settings) as run, Session(run=run, needs=needs) as session:
        if left_out:
            session.log(f"{left_out} problems are left out: they were trained on")
        executor = Executor(session)
        fresh = _fresh(settings, executor, unseen, completions, policy)
        truth = _truth(fresh, known)
        for name in [settings.engines.scorer.kind, *([TRAINED] if trained else [])]:
            model = trained if name == TRAINED else None
            made = executor.make(
                ScoresStep(
                    label=name,
                    settings=_scored_by(settings, model),
                    rollouts=fresh,
                    policy=policy,
                    trained=model,
                )
            )
            sources[name], scores[name] = _measured(made, truth)
    report: ScoreReport = {
        "problems": len({step.problem_id for step in truth.steps.values()}),
        "completions": completions,
        "sources": sources,
        "agreement": _agreement(scores),
    }
    storage.write_json(report, f"{target}/report.json")
    bins = {name: each["quality"]["bins"] for name, each in sources.items()}
    draw_reliability(bins, f"{target}/reliability.png")
    return report


def _known(source: Run) -> Any:
    """Stream the labels of a run, or those that `train_prm` trained on."""
    reward = source.step("reward")
    if reward is not None:
        yield from reward.rows(LabelledStep, below=TRAIN)
        return
    for each in recorded_rollouts(source):
        assert each.rollouts.finished is not None
        for rollout in each.rollouts.finished.rows(Rollout):
            yield from labelled_steps(rollout, trained=each.trained)


def _trained_model(source: Run) -> ModelRef | None:
    """The model of `train_prm`, or the one a run trained last, taken or not; None without any.

    Raises:
        RunDirectoryError: `train_prm` has not finished here, or could not train.
    """
    steps: list[FinishedStep] = [step for step in source.steps if step.kind == "reward"]
    models = [step.model for step in steps if step.model is not None]
    if models:
        return models[-1]
    if storage.exists(source.file("reward")):
        raise RunDirectoryError(
            f"{source.path} holds no finished reward model; run `sphere train-prm` to its end first"
        )
    return None


def _fresh(
    settings: RunSettings,
    executor: Executor,
    problems: Sequence[Problem],
    completions: int,
    policy: ModelRef,
) -> Made:
    """Roll the problems out with values of `completions` completions, stage 1 alone."""
    known = settings.engines.scorer
    sampling = known if isinstance(known, RolloutValueSettings) else RolloutValueSettings()
    scorer = sampling.model_copy(update={"num_completions": completions, "trained": None})
    method = settings.method
    stages = method.stages.model_copy(update={"self_correction": False, "diversity": False})
    changed = settings.model_copy(
        update={
            "engines": settings.engines.model_copy(update={"scorer": scorer}),
            "method": method.model_copy(update={"stages": stages}),
        }
    )
    given = executor.make(GivenProblemsStep(split="train", problems=tuple(problems)))
    return executor.make(RolloutsStep(settings=changed, problems=given, policy=policy, iteration=0))


def _unseen(
    settings: RunSettings, split: SplitSettings, target: str, seen: Set[str]
) -> tuple[list[Problem], int]:
    """Problems of a source that no reward model was trained on, and how many were left out.

    Raises:
        ProblemSourceError: the source cannot be used, or has none of them.
    """
    result = ingest_splits({"train": split}, reader_for(settings))
    rejected = f"{target}-rejected.jsonl"
    if result.rejected:
        storage.write_text(rejected_lines(result.rejected), rejected)
    require_usable(result, settings.problems.max_rejected_share, rejected)
    problems = [each for each in result.problems["train"] if each.problem_id not in seen]
    if not problems:
        raise ProblemSourceError(
            f"{split.source}: the reward model was trained on all of these problems; name others "
            "with --problems"
        )
    return problems, len(result.problems["train"]) - len(problems)


def _scored_by(settings: RunSettings, trained: ModelRef | None) -> RunSettings:
    """The settings under which one source alone scores."""
    scorer = settings.engines.scorer
    if trained is None:
        scorer = scorer.model_copy(update={"trained": None})
    elif scorer.trained is not None:
        schedule = scorer.trained.schedule.model_copy(update={"audit_share": 0.0})
        changed = scorer.trained.model_copy(update={"schedule": schedule})
        scorer = scorer.model_copy(update={"trained": changed})
    engines = settings.engines.model_copy(update={"scorer": scorer})
    return settings.model_copy(update={"engines": engines})


def _truth(fresh: Made, known: Sequence[LabelledStep]) -> _Truth:
    assert fresh.finished is not None
    rollouts = list(fresh.finished.rows(Rollout))
    steps = [step for row in rollouts for step in labelled_steps(row, trained=False)]
    by_step = {(step.problem_id, step.prefix, step.text): step for step in steps}
    return _Truth(steps=by_step, rollouts=rollouts, known=known)


def _measured(made: Made, truth: _Truth) -> tuple[SourceReport, dict[Key, float]]:
    """The figures of one source, and its scores by step."""
    assert made.finished is not None
    rows = list(made.finished.rows(ScoreRow))
    given = {(r.problem_id, s.prefix, s.text): s.reward for r in rows for s in r.scores}
    keys = [key for key in truth.steps if key in given]
    if len(keys) < _FEWEST_STEPS:
        errors = [row.error for row in rows if row.error]
        raise RunDirectoryError(
            f"{made.path}: hardly a step could be scored; most rows failed, for example: "
            f"{errors[0] if errors else 'no step had a reward'}"
        )
    steps, scores = [truth.steps[key] for key in keys], [given[key] for key in keys]
    baseline = shape_scores(truth.known, steps) if truth.known else None
    figures = quality(steps, scores, baseline=baseline)
    report: SourceReport = {
        "quality": figures,
        "inversions": _inversions(truth.rollouts, given),
        "failed_rows": sum(row.error is not None for row in rows),
        "cost_per_1000": storage.read_json(f"{made.path}/{COST}"),
    }
    return report, dict(zip(keys, scores, strict=True))


def _inversions(rollouts: Sequence[Rollout], given: Mapping[Key, float]) -> float | None:
    """Among pairs of a right and a wrong chain of a problem, by the score of the last step."""
    pairs = [
        (right, wrong)
        for rollout in rollouts
        for right in _last_scores(rollout, Verdict.CORRECT, given)
        for wrong in _last_scores(rollout, Verdict.WRONG, given)
    ]
    return inversion_rate(pairs)


def _last_scores(rollout: Rollout, verdict: Verdict, given: Mapping[Key, float]) -> list[float]:
    found = []
    for chain in rollout.chains:
        if chain.verdict == verdict and chain.steps:
            *before, last = (step.candidate.text for step in chain.steps)
            score = given.get((rollout.problem.problem_id, tuple(before), last))
            found += [] if score is None else [score]
    return found


def _agreement(scores: Mapping[str, Mapping[Key, float]]) -> dict[str, float | None]:
    found = {}
    for one, other in combinations(scores, 2):
        both = [key for key in scores[one] if key in scores[other]]
        pair = ([scores[name][key] for key in both] for name in (one, other))
        found[f"{one} and {other}"] = rank_correlation(*pair)
    return found
