"""Examples of what happened: a pair, a problem gained, one lost, one repaired by self-correction.

They are the first that are found, not chosen by hand, and little is read to find them.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa

from sphere_ray.records import Chain, Outcome, PreferencePair, Problem, Rollout, StageName, Verdict
from sphere_ray.runs.directory import FinishedStep
from sphere_ray.schema import from_table

_MAX_PAIRS, _MAX_GROUPS = 1000, 50
"""Pairs, and row groups of rollouts, that are looked at for an example."""
_CHANGES = {
    (True, True): "right_in_both",
    (False, False): "wrong_in_both",
    (False, True): "gained",
    (True, False): "lost",
}
_ANSWERS = ["problem_id", "verdict", "error"]
Facts = dict[str, Any]


def pair_example(rollouts: FinishedStep, pairs: FinishedStep) -> Facts | None:
    """The first pair whose problem is near the beginning, with its chains' steps and rewards."""
    first = next((table.slice(0, _MAX_PAIRS) for table in pairs.tables()), None)
    if first is None:
        return None
    ids = dict[str, int]()
    # A pair of two whole chains shows more than one with a completion, so it is taken first.
    for index in sorted(range(first.num_rows), key=lambda i: "/" in _sides(first, i)):
        ids.setdefault(first["problem_id"][index].as_py(), index)
    for rollout in _beginning(rollouts, ids):
        index = ids[rollout.problem.problem_id]
        (pair,) = from_table(first.slice(index, 1), PreferencePair)
        chains = {chain.chain_id: chain for chain in rollout.chains}
        sides = {
            name: _side(text, reward, chains.get(chain_id.partition("/")[0]), "/" in chain_id)
            for name, text, reward, chain_id in (
                ("chosen", pair.prefix + pair.chosen, pair.chosen_reward, pair.chosen_chain),
                (
                    "rejected",
                    pair.prefix + pair.rejected,
                    pair.rejected_reward,
                    pair.rejected_chain,
                ),
            )
        }
        return {"problem": _problem(rollout.problem), "stage": pair.stage, **sides}
    return None


def repaired_example(rollouts: FinishedStep) -> Facts | None:
    """The first problem near the beginning that self-correction repaired."""
    ends = {f"{StageName.SELF_CORRECTION}:{end}" for end in (Outcome.PAIR, Outcome.BOTH_RIGHT)}
    for rollout in _beginning(rollouts, None):
        if ends & set(rollout.route):
            best = {chain.stage: chain for chain in rollout.chains if chain.branch == "max"}
            before, after = (
                best[stage] for stage in (StageName.SELF_GENERATION, StageName.SELF_CORRECTION)
            )
            return {
                "problem": _problem(rollout.problem),
                "before": {"text": before.text, "verdict": before.verdict},
                "after": {"text": after.text, "verdict": after.verdict},
            }
    return None


def flips(problems: FinishedStep, base: FinishedStep, final: FinishedStep) -> Facts:
    """Test problems by whether the base and the final model solve them, with an example of a flip.

    `gained` is one that only the final model solves, `lost` one that only the base model solves.
    """
    before, after = _right(base), _right(final)
    found = dict[str, list[str]]()
    for name in sorted(before.keys() & after.keys()):
        found.setdefault(_CHANGES[before[name], after[name]], []).append(name)
    return {
        "counts": {change: len(found.get(change, [])) for change in _CHANGES.values()},
        **{
            change: _flip(problems, base, final, found[change][0]) if change in found else None
            for change in ("gained", "lost")
        },
    }


def _flip(
    problems: FinishedStep, base: FinishedStep, final: FinishedStep, problem_id: str
) -> Facts | None:
    row = _row(problems, problem_id, "test")
    if row is None:
        return None
    return {
        "problem": _problem(from_table(row, Problem)[0]),
        "before": _answer(base, problem_id),
        "after": _answer(final, problem_id),
    }


def _sides(pairs: pa.Table, index: int) -> str:
    return str(pairs["chosen_chain"][index].as_py()) + str(pairs["rejected_chain"][index].as_py())


def _beginning(rollouts: FinishedStep, ids: Mapping[str, int] | None) -> Iterator[Rollout]:
    """The rollouts of the first row groups, one by one; those of `ids` alone."""
    for table in islice(rollouts.tables(), _MAX_GROUPS):
        names = table["problem"].combine_chunks().field("problem_id").to_pylist()
        for index, name in enumerate(names):
            if ids is None or name in ids:
                yield from from_table(table.slice(index, 1), Rollout)


def _side(text: str, reward: float | None, chain: Chain | None, completed: bool) -> Facts:
    """One side of a pair; of a completion the steps are those of the chain that it leaves."""
    steps = [] if chain is None else chain.steps
    return {
        "text": text,
        "reward": reward,
        "completed": completed,
        "steps": [
            [
                {"text": each.text, "reward": each.reward, "taken": index == step.chosen}
                for index, each in enumerate(step.candidates)
            ]
            for step in steps
        ],
    }


def _problem(problem: Problem) -> Facts:
    return {"question": problem.question, "gold": problem.answer, "family": problem.family}


def _right(answers: FinishedStep) -> dict[str, bool]:
    """Whether each answered problem is right, by id."""
    found = dict[str, bool]()
    for table in answers.tables(_ANSWERS):
        columns = (table[name].to_pylist() for name in _ANSWERS)
        for name, verdict, error in zip(*columns, strict=True):
            if error is None:
                found[name] = verdict == Verdict.CORRECT
    return found


def _row(step: FinishedStep, problem_id: str, below: str = "") -> pa.Table | None:
    """The row of a problem, as a table of one row."""
    for table in step.tables(below=below):
        index = table["problem_id"].index(problem_id).as_py()
        if index >= 0:
            return table.slice(index, 1)
    return None


def _answer(answers: FinishedStep, problem_id: str) -> Facts:
    row = _row(answers, problem_id)
    assert row is not None
    return {"text": row["response"][0].as_py(), "verdict": row["verdict"][0].as_py()}
