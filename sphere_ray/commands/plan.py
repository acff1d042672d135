"""`sphere plan` and `sphere run --dry-run`: what a run needs, takes and reuses; nothing starts."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import ray
import yaml

from sphere_ray import storage
from sphere_ray.benchmarks.named import BENCHMARKS, asked, names_of
from sphere_ray.commands.options import PlanOptions
from sphere_ray.config import RunSettings, load_config
from sphere_ray.config.base import dump
from sphere_ray.config.placement import NodeResources, needed_resources
from sphere_ray.errors import ConfigError, PlacementError, RunDirectoryError, SphereError
from sphere_ray.evolution.evolve import plan as planned_steps
from sphere_ray.planning.habits import assumed
from sphere_ray.planning.hardware import parse_nodes
from sphere_ray.planning.plan import Question, make_plan
from sphere_ray.planning.report import lines
from sphere_ray.planning.timing import Record, key
from sphere_ray.pools.nodes import MIB, cluster_nodes, gpu_memory_mib
from sphere_ray.records import Outcome, StageName
from sphere_ray.runs.directory import FinishedStep, Run
from sphere_ray.runs.step import State
from sphere_ray.runs.steps.policy import OUTCOME

_LONGEST_START_S = 600.0


def plan(config: Path, overrides: Sequence[str], options: PlanOptions) -> Iterator[str]:
    """The lines of a plan; of one that does not fit those of its memory, before the error.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    settings = load_config(config, overrides)
    nodes, here = _nodes(settings, options.on)
    reused, note = _reused(settings)
    found = make_plan(
        Question(
            settings=settings,
            nodes=nodes,
            here=here,
            given=_given(options.model_config or []),
            benchmarks={
                name: (asked(settings, name), BENCHMARKS[name].num_problems)
                for name in names_of(settings.evaluation.benchmarks)
            },
            record=_record(settings, options.like),
            price=options.price,
            chains=options.chains,
            reused=reused,
        )
    )
    yield from lines(found)
    if found.refusal is not None:
        raise PlacementError(found.refusal)
    if note:
        yield note


def dry_run(settings: RunSettings, origin: str | None) -> Iterator[str]:
    """The settings, the resources, and one line a step: what would be done, where, and why."""
    yield yaml.safe_dump(dump(settings), sort_keys=False, allow_unicode=True).rstrip()
    yield f"# needs {needed_resources(settings)}"
    plans = planned_steps(settings, origin)
    width = max(len(each.step.place) for each in plans)
    for each in plans:
        directory = each.path.rpartition("/")[2]
        variant = f" (as {directory})" if not each.step.place.endswith(directory) else ""
        yield f"# {each.step.place:{width}}  {each.state:8}  {each.reason}{variant}"


def _nodes(settings: RunSettings, on: str | None) -> tuple[list[NodeResources], bool]:
    """The nodes to plan for, and whether they are this machine."""
    if on is not None:
        return parse_nodes(on), False
    address = settings.ray.address
    if address != "local":
        try:
            return _nodes_of_cluster(address), False
        except ConnectionError as error:
            if address != "auto" or "RAY_ADDRESS" in os.environ:
                raise PlacementError(
                    f"no Ray cluster answers at {address}; start one, or name nodes with --on"
                ) from error
    gpus = gpu_memory_mib()
    here = NodeResources(
        cpus=settings.ray.num_cpus or os.cpu_count() or 1,
        gpus=len(gpus),
        gpu_bytes=min((size for _, size in gpus), default=0) * MIB or None,
    )
    return [here], True


def _nodes_of_cluster(address: str) -> list[NodeResources]:
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        return cluster_nodes()
    finally:
        ray.shutdown()


def _record(settings: RunSettings, like: str | None) -> Record | None:
    """What `--like` names, else the run that this configuration continues, if it got so far."""
    if like is not None:
        return record_of(like)
    try:
        return record_of(settings.run_dir)
    except RunDirectoryError:
        return None


def _given(pairs: Sequence[str]) -> dict[str, Path]:
    """The files of `--model-config MODEL=FILE`."""
    given = {}
    for pair in pairs:
        model, _, file = pair.partition("=")
        if not model or not Path(file).is_file():
            raise ConfigError(f"--model-config {pair} names no file; write MODEL=CONFIG.JSON")
        given[model] = Path(file)
    return given


def _reused(settings: RunSettings) -> tuple[frozenset[str], str]:
    """The places of the steps that are made already, and a sentence if nobody can say."""
    try:
        Run.open(settings.run_dir)
    except RunDirectoryError:
        return frozenset(), ""
    try:
        plans = planned_steps(settings)
    except SphereError as error:
        return frozenset(), f"- which steps of {settings.run_dir} are reused is unknown: {error}"
    return frozenset(each.step.place for each in plans if each.state is State.REUSE), ""


def record_of(path: str) -> Record:
    """What a finished run counted and took.

    Raises:
        RunDirectoryError: there is no finished run, or another version of sphere wrote it.
    """
    run = Run.open(path)
    summary, settings = run.summary, run.settings
    if summary is None or not summary["iterations"]:
        raise RunDirectoryError(f"{path} has not finished an iteration; give a finished run")
    rollout = summary["iterations"][0]["rollout"]
    problems, routes = rollout["problems"], rollout["routes"]
    wrong, right = (
        routes.get(f"{StageName.SELF_GENERATION}:{end}", 0) / problems
        for end in (Outcome.BOTH_WRONG, Outcome.BOTH_RIGHT)
    )
    steps = {step.kind: step for step in run.steps if step.iteration == 0}
    base = next((step for step in run.steps if step.name == "evaluation/base"), None)
    computed, scored = _forward(steps.get("policy"), settings)
    name = path.rstrip("/").rpartition("/")[2]
    pairs = steps["pairs"].manifest.report.rows_out if "pairs" in steps else None
    return Record(
        name=name,
        settings=_with_counts(settings, run.steps),
        habits=assumed(settings).counted(
            name,
            answer=_answer(base),
            question=_question(base, settings),
            both_wrong=wrong,
            both_right=right,
            pairs=None if pairs is None else pairs / problems,
        ),
        work_s=_seconds(run.steps, 1),
        start_s=_seconds(run.steps, 0),
        tokens=rollout["tokens"],
        chains=rollout["chains"],
        nodes=_num_nodes(run),
        computed=computed,
        scored=scored,
    )


def _with_counts(settings: RunSettings, steps: Sequence[FinishedStep]) -> RunSettings:
    """The settings with the numbers of problems that the run read as the limits of its splits."""
    names = {"rollouts": "train", "evaluation/base": "validation", "test/base": "test"}
    found = {}
    for step in steps:
        if (split := names.get(key(step.name))) is not None:
            counted = {"limit": step.manifest.report.rows_in}
            found[split] = getattr(settings.problems, split).model_copy(update=counted)
    problems = settings.problems.model_copy(update=found)
    return settings.model_copy(update={"problems": problems})


def _num_nodes(run: Run) -> int:
    """Nodes of the cluster that the run used last, by its event `connected`."""
    sizes = [str(event.get("cluster", "")) for event in run.events() if "cluster" in event]
    number = sizes[-1].partition(" ")[0] if sizes else ""
    return int(number) if number.isdecimal() and int(number) else 1


def _answer(step: FinishedStep | None) -> float | None:
    """Tokens of a greedy answer."""
    report = step.manifest.report if step else None
    return report.tokens / report.rows_out if report and report.rows_out else None


def _question(step: FinishedStep | None, settings: RunSettings) -> float | None:
    """Tokens of a prompt beyond the text that all share: the engine was asked for each prompt."""
    report = step.manifest.report if step else None
    asked_for = sum(pool.prefix_queries for pool in report.pools) if report else 0
    if report is None or not asked_for or not report.rows_out:
        return None
    prompts = report.rows_out * (1 + settings.evaluation.num_samples)
    return max(asked_for / prompts - assumed(settings).shared, 1.0)


def _forward(
    policy: FinishedStep | None, settings: RunSettings
) -> tuple[float | None, float | None]:
    """Tokens of the largest forward of a training worker: all, and those that were scored."""
    outcome = storage.read_json(f"{policy.path}/{OUTCOME}") if policy else None
    history = (outcome or {}).get("history") or []
    if not history or not {"computed", "chosen_length", "rejected_length"} <= set(history[0]):
        return None, None
    training = settings.training
    forwards = training.batch_size // training.micro_batch_size
    sides = max(step["chosen_length"] + step["rejected_length"] for step in history)
    computed = max(step["computed"] for step in history) / forwards
    return computed, sides * training.micro_batch_size


def _seconds(steps: Sequence[FinishedStep], which: int) -> dict[str, float]:
    """By key of a phase, the mean seconds of what starts first (0), or of the work (1)."""
    found: dict[str, list[float]] = {}
    for step in steps:
        found.setdefault(key(step.name), []).append(_start_and_work(step)[which])
    return {name: fmean(seconds) for name, seconds in found.items()}


def _start_and_work(step: FinishedStep) -> tuple[float, float]:
    """Engines count their seconds, and training those of its steps; what is before is a start."""
    report, work = step.manifest.report, 0.0
    if report.pools:
        work = max(pool.seconds for pool in report.pools)
    elif step.kind == "policy":
        outcome = storage.read_json(f"{step.path}/{OUTCOME}") or {}
        work = sum(each["seconds"] for each in outcome.get("history", ()))
    start = min(report.seconds - work, _LONGEST_START_S) if work else 0.0
    return start, report.seconds - start
