"""The graphs on a local Ray: files in, files out, each row once whatever dies in between."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from sphere_ray.config.method import MethodSettings, PairSettings
from sphere_ray.config.run import RolloutSettings
from sphere_ray.errors import EngineError
from sphere_ray.method.pairs import build_pairs
from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    FinishReason,
    LabelledStep,
    PreferencePair,
    Problem,
    Rollout,
    StageName,
    Step,
    StopReason,
    Verdict,
)
from sphere_ray.rollout import pipeline
from sphere_ray.rollout.stages import RowStage, rollout_table
from sphere_ray.schema import from_table, to_table
from tests.rollout.odd_stages import Dying, Gathering, Given, Nothing
from tests.simulated_problems import simulated_problem

pytestmark = [pytest.mark.ray]

METHOD = MethodSettings(pairs=PairSettings(max_off_policy_share=0.5, min_edit_distance=3))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def chain(number: int, text: str, stage: StageName, branch: Branch, *, right: bool) -> Chain:
    candidate = Candidate(
        text=text, token_ids=(1, 2), logprob=-1.0, stop_reason=StopReason.END, reward=0.5
    )
    return Chain(
        chain_id=f"{number}:{stage}:{branch}",
        stage=stage,
        branch=branch,
        model="m",
        steps=(Step(candidates=(candidate,), chosen=0),),
        answer="1",
        verdict=Verdict.CORRECT if right else Verdict.WRONG,
        finish_reason=FinishReason.ANSWER,
        num_tokens=2,
        seed=0,
    )


def rollout(number: int) -> Rollout:
    """By turns an on-policy pair, an off-policy one, one that is too similar, none, a failure."""
    kind = number % 5
    first = StageName.SELF_GENERATION
    chains = [chain(number, f"the answer is {number}", first, Branch.MAX, right=True)]
    if kind == 0:
        chains += [chain(number, "something else", first, Branch.MIN, right=False)]
    if kind == 1:
        chains += [chain(number, "of a small one", StageName.DIVERSITY, Branch.MIN, right=False)]
    if kind == 2:
        chains += [chain(number, f"The answer is {number}", first, Branch.MIN, right=False)]
    error = "RequestError: no" if kind == 4 else None
    return Rollout(problem=simulated_problem(number), chains=tuple(chains), error=error)


def write_rollouts(folder: Path, rollouts: list[Rollout], rows_per_file: int) -> str:
    folder.mkdir()
    for first in range(0, len(rollouts), rows_per_file):
        some = rollouts[first : first + rows_per_file]
        pq.write_table(rollout_table(some), folder / f"part-{first:05}.parquet")
    return str(folder)


def read(folder: Path, cls: type[Any]) -> list[Any]:
    return [row for file in files(folder) for row in from_table(pq.read_table(file), cls)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def test_pairs_are_those_of_each_rollout_and_off_policy_ones_are_capped(tmp_path: Path) -> None:
    rollouts = [rollout(number) for number in range(50)]
    source = write_rollouts(tmp_path / "rollouts", rollouts, 8)
    output = tmp_path / "pairs"
    counts = pipeline.pair(source, str(output), METHOD)
    every = [pair for each in rollouts for pair in build_pairs(each, METHOD).pairs]
    on_policy = [pair for pair in every if pair.stage is not StageName.DIVERSITY]
    off_policy = sorted(
        (pair for pair in every if pair.stage is StageName.DIVERSITY), key=lambda p: p.pair_id
    )
    assert (len(on_policy), len(off_policy)) == (10, 10)
    # A half of all may be off-policy: all ten stay.
    found = read(output, PreferencePair)
    assert sorted(found, key=lambda p: p.pair_id) == sorted(every, key=lambda p: p.pair_id)
    assert counts.kept == {"self_generation": 10, "diversity": 10}
    assert counts.dropped == {"too_similar": 10}
    assert {path.name for path in output.iterdir()} == {"part-00000.parquet", "dropped"}

    capped = METHOD.model_copy(update={"pairs": PairSettings(max_off_policy_share=0.2)})
    counts = pipeline.pair(source, str(output), capped)
    assert counts.kept == {"self_generation": 10, "diversity": 2}
    assert counts.dropped == {"too_similar": 10, "off_policy_cap": 8}
    kept = [p for p in read(output, PreferencePair) if p.stage is StageName.DIVERSITY]
    assert sorted(kept, key=lambda p: p.pair_id) == off_policy[:2]
    dropped = pa.concat_tables(map(pq.read_table, files(output / "dropped")))
    assert Counter(dropped["reason"].to_pylist()) == counts.dropped
    assert set(dropped["pair_id"].to_pylist()) >= {pair.pair_id for pair in off_policy[2:]}


def test_families_are_balanced_before_the_off_policy_share_is_taken(tmp_path: Path) -> None:
    """30 pairs of family a and 10 of b, an off-policy one for each on-policy one."""
    rollouts = []
    for number in range(100):
        each = rollout(number)
        family = "b" if number % 4 == 0 else "a"
        rollouts.append(replace(each, problem=replace(each.problem, family=family)))
    source = write_rollouts(tmp_path / "rollouts", rollouts, 8)
    method = MethodSettings(
        pairs=PairSettings(max_off_policy_share=0.9, min_edit_distance=3, max_family_ratio=1.0)
    )
    made = [(each, build_pairs(each, method).pairs) for each in rollouts]
    ids: dict[str, list[str]] = {"a": [], "b": []}
    for each, pairs in made:
        ids[str(each.problem.family)] += [pair.pair_id for pair in pairs]
    assert {name: len(some) for name, some in ids.items()} == {"a": 30, "b": 10}
    counts = pipeline.pair(source, str(tmp_path / "pairs"), method)
    kept = {pair.pair_id for pair in read(tmp_path / "pairs", PreferencePair)}
    assert kept == {*sorted(ids["a"])[:10], *ids["b"]}
    assert counts.dropped == {"too_similar": 20, "family_balance": 20}
    assert sum(counts.kept.values()) == 20


def test_pairs_that_are_known_from_elsewhere_are_duplicates(tmp_path: Path) -> None:
    source = write_rollouts(tmp_path / "some", [rollout(number) for number in range(25)], 8)
    earlier = str(tmp_path / "earlier")
    first = pipeline.pair(source, earlier, METHOD)
    source = write_rollouts(tmp_path / "all", [rollout(number) for number in range(50)], 8)
    counts = pipeline.pair(source, str(tmp_path / "pairs"), METHOD, [earlier])
    assert counts.dropped["duplicate"] == sum(first.kept.values()) > 0
    sets = [
        {p.pair_id for p in read(Path(at), PreferencePair)} for at in (earlier, tmp_path / "pairs")
    ]
    pipeline.pair(source, str(tmp_path / "whole"), METHOD)
    assert not sets[0] & sets[1]
    assert sets[0] | sets[1] == {p.pair_id for p in read(tmp_path / "whole", PreferencePair)}


def test_rollouts_without_pairs_give_none(tmp_path: Path) -> None:
    source = write_rollouts(tmp_path / "rollouts", [rollout(3), rollout(4)], 8)
    counts = pipeline.pair(source, str(tmp_path / "pairs"), METHOD)
    assert (counts.kept, counts.dropped) == ({}, {})
    assert files(tmp_path / "pairs") == []


def test_labels_are_split_by_problem_and_the_same_in_any_files(tmp_path: Path) -> None:
    rollouts = [rollout(number) for number in range(40)]
    found = []
    for rows in (7, 40):
        source = write_rollouts(tmp_path / f"by-{rows}", rollouts, rows)
        output = tmp_path / f"labels-{rows}"
        counts = pipeline.label([(source, False)], str(output), share=0.3, seed=1)
        train = read(output / "train", LabelledStep)
        held_out = read(output / "held_out", LabelledStep)
        assert (len(train), len(held_out)) == (counts.train, counts.held_out)
        assert not {s.problem_id for s in train} & {s.problem_id for s in held_out}
        found.append((set(train), set(held_out)))
    assert found[0] == found[1]
    assert {step.problem_id for half in found[0] for step in half} == {
        each.problem.problem_id for each in rollouts if each.error is None
    }
    # The trained model's own rewards are no labels.
    counts = pipeline.label([(source, True)], str(tmp_path / "none"), share=0.3, seed=1)
    assert (counts.train, counts.held_out) == (0, 0)


def test_many_small_files_become_few_and_stay_what_they_were(tmp_path: Path) -> None:
    rollouts = [rollout(number) for number in range(60)]
    output = tmp_path / "rollouts"
    output.mkdir()
    write_rollouts(Path(pipeline.parts_dir(str(output))), rollouts, 4)
    for _ in range(2):  # a run that was killed compacts again
        pipeline.compact(str(output), rows_per_file=25)
        assert [pq.read_metadata(file).num_rows for file in files(output)] == [24, 24, 12]
        assert read(output, Rollout) == rollouts
    pipeline.compact(str(output))
    assert [path.name for path in files(output)] == ["part-00000.parquet"]


def streamed(
    tmp_path: Path,
    problems: list[Problem],
    stages: tuple[type[RowStage], ...],
    **settings: Any,
) -> list[Problem]:
    source, output = tmp_path / "problems", tmp_path / "rows"
    source.mkdir()
    pq.write_table(to_table(problems, Problem), source / "part-00000.parquet")
    rollout_settings = RolloutSettings(problem_timeout_s=30, **settings)
    assignment: Any = Given(
        settings=SimpleNamespace(rollout=rollout_settings),
        progress=Nothing(),
        marker=str(tmp_path / "died"),
        gather=rollout_settings.batch_size * rollout_settings.batches_in_flight,
    )
    pipeline._stream(str(source), str(output), stages, assignment)
    pipeline.compact(str(output))
    return read(output, Problem)


FEW = {"batch_size": 4, "batches_in_flight": 2}


def test_so_many_batches_are_worked_on_at_once_as_the_settings_say(tmp_path: Path) -> None:
    """One table of problems is read as eight blocks; the graph must cut them into batches."""
    problems = [simulated_problem(number) for number in range(96)]
    found = streamed(tmp_path, problems, (Gathering,), batch_size=2, batches_in_flight=24)
    assert {row.level for row in found} == {problem.level for problem in problems}


def test_a_stage_that_dies_costs_no_problem_and_doubles_none(tmp_path: Path) -> None:
    problems = [simulated_problem(number) for number in range(24)]
    problems[17] = replace(problems[17], level=9)
    found = [row.problem_id for row in streamed(tmp_path, problems, (Dying, Dying), **FEW)]
    assert (tmp_path / "died").exists()
    assert sorted(found) == sorted(problem.problem_id for problem in problems)


def test_an_error_of_the_run_ends_the_stream(tmp_path: Path) -> None:
    problems = [replace(simulated_problem(0), level=8)]
    with pytest.raises(EngineError, match="the engines are gone"):
        streamed(tmp_path, problems, (Dying, Dying), **FEW)
