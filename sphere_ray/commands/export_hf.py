"""A run for the Hugging Face hub: the final model and its pairs, each with a card."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from httpx import HTTPError
from huggingface_hub import HfApi

from sphere_ray import storage
from sphere_ray.commands.cards import dataset_card, model_card, public_source
from sphere_ray.commands.export import TRL_SCHEMA, pairs_steps, trl_row
from sphere_ray.errors import ConfigError, FatalError, RunDirectoryError
from sphere_ray.records import PreferencePair, Problem
from sphere_ray.reporting.summary import RunSummary
from sphere_ray.runs.directory import CANDIDATES, FinishedStep, Run

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LINEAGE = {
    "pair_id": pa.string(),
    "iteration": pa.int32(),
    "stage": pa.string(),
    "problem_id": pa.string(),
    "question": pa.string(),
    "answer": pa.string(),
    "source": pa.string(),
    "chosen_chain": pa.string(),
    "rejected_chain": pa.string(),
    "chosen_reward": pa.float64(),
    "rejected_reward": pa.float64(),
}
_SCHEMA = pa.schema([*TRL_SCHEMA, *_LINEAGE.items()])


@dataclass(frozen=True, slots=True, kw_only=True)
class HubExport:
    """What was written, and where it was pushed to (nothing without a push)."""

    num_pairs: int
    model: str
    dataset: str
    pushed: tuple[str, ...] = ()


def export_hf(
    run_dir: str, *, output: str | None, push: str | None, api: HfApi | None = None
) -> HubExport:
    """Write `model/` and `dataset/`, by default below RUN/export/hf; an earlier export is replaced.

    With `push` (OWNER/NAME) both are uploaded, to OWNER/NAME and OWNER/NAME-pairs. Repositories
    that do not exist yet are made private.

    Raises:
        RunDirectoryError: the run is unfinished or promoted no policy, or `output` cannot be
            written.
        ConfigError: `push` is no name of a repository.
        FatalError: the hub cannot be reached, or refuses the upload.
    """
    if push is not None:
        _require_name(push)
    run = Run.open(run_dir)
    summary, made = _final_model(run)
    folder = storage.resolve(output) if output else run.file("export/hf")
    model, dataset = f"{folder}/model", f"{folder}/dataset"
    pairs_name = f"{push}-pairs" if push else None
    shown = push or run.settings.name
    try:
        storage.remove(model)
        storage.copy_directory(made, model, last="config.json")
        card = model_card(run.settings, summary, pairs_name, shown.rpartition("/")[2])
        storage.write_text(str(card), f"{model}/README.md")
        storage.remove(dataset)
        num_pairs = _write_pairs(run, f"{dataset}/data/pairs.parquet")
        title = f"{shown.rpartition('/')[2]}-pairs"
        storage.write_text(str(dataset_card(run.settings, summary, title)), f"{dataset}/README.md")
    except OSError as error:
        raise RunDirectoryError(
            f"{folder} cannot be written: {error.strerror or error}; choose another --output"
        ) from error
    pushed: tuple[str, ...] = ()
    if push is not None and pairs_name is not None:
        hub = api or HfApi()
        pushed = (
            _pushed(hub, model, push, "model"),
            _pushed(hub, dataset, pairs_name, "dataset"),
        )
    return HubExport(num_pairs=num_pairs, model=model, dataset=dataset, pushed=pushed)


def _require_name(push: str) -> None:
    if not _NAME.fullmatch(push):
        raise ConfigError(f"--push {push}: this is no name of a repository; give OWNER/NAME")


def _final_model(run: Run) -> tuple[RunSummary, str]:
    """The summary, and the directory of the last policy that was promoted."""
    summary = run.summary
    if summary is None:
        raise RunDirectoryError(f"{run.path} has not finished; let it, then export again")
    for each in reversed(summary["iterations"]):
        for candidate in each["candidates"]:
            step = run.step(CANDIDATES[candidate["candidate"]], each["iteration"])
            if candidate["promoted"] and step is not None and step.model is not None:
                return summary, step.model.path
    raise RunDirectoryError(
        f"{run.path} promoted no policy, so there is no model to export; `--format trl` exports "
        "its pairs"
    )


def _write_pairs(run: Run, file: str) -> int:
    problems = _problems(run)
    num_pairs = 0
    with storage.replacing(file) as opened, pq.ParquetWriter(opened, _SCHEMA) as writer:
        for step in pairs_steps(run, None):
            for rows in _batches(step, problems):
                writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
                num_pairs += len(rows)
    return num_pairs


def _batches(step: FinishedStep, problems: dict[str, Problem]) -> Iterator[list[dict[str, Any]]]:
    """The rows of an iteration's pairs, some hundred at a time."""
    batch: list[dict[str, Any]] = []
    for pair in step.rows(PreferencePair):
        problem = problems[pair.problem_id]
        known = {name: getattr(pair, name) for name in _LINEAGE if hasattr(pair, name)}
        lineage = {
            **known,
            "stage": str(pair.stage),
            "iteration": step.iteration,
            "question": problem.question,
            "answer": problem.answer,
            "source": public_source(problem.source),
        }
        batch.append({**trl_row(pair), **lineage})
        if len(batch) == 512:
            yield batch
            batch = []
    if batch:
        yield batch


def _problems(run: Run) -> dict[str, Problem]:
    step = run.step("problems")
    if step is None:
        raise RunDirectoryError(f"{run.path} has lost its problems; run the same command again")
    return {problem.problem_id: problem for problem in step.rows(Problem, below="train")}


def _pushed(api: HfApi, folder: str, name: str, kind: str) -> str:
    try:
        api.create_repo(name, repo_type=kind, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=name, repo_type=kind, folder_path=folder, commit_message="Export of sphere_ray"
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FatalError(
            f"{name} could not be pushed to the hub ({reason}); {folder} is complete: log in with "
            "`hf auth login` (or set HF_TOKEN) and run the same command again"
        ) from error
    return name
