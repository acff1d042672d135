"""Every figure of summary.json again, from the parquet files alone and without sphere_ray.

Deliberately a second implementation: plain dictionaries read by pyarrow, so that a mistake in
records, schema or summary cannot hide itself.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

STAGES = ("self_generation", "self_correction", "diversity")


def check_run(run_dir: Path) -> None:
    """Assert that summary.json of a finished run says what its data files hold."""
    summary = json.loads((run_dir / "summary.json").read_text())
    for item in summary["iterations"]:
        folder = run_dir / f"iter-{item['iteration']:03}"
        said = dict(item["rollout"])
        check_pools(said.pop("pools"), said.pop("seconds"), folder / "rollouts")
        rate = said.pop("chains_per_second")
        assert said == rollouts(folder / "rollouts")
        seconds = item["rollout"]["seconds"]
        assert rate == pytest.approx(said["chains"] / seconds, rel=1e-3, abs=1e-3)
        per_hour = item["pairs"].pop("per_hour")
        assert item["pairs"] == pairs(folder)
        assert per_hour == {
            stage: pytest.approx(3600 * number / seconds, rel=1e-3, abs=0.1)
            for stage, number in item["pairs"]["by_stage"].items()
        }
        own = item["writers"][-1]
        assert (own["iteration"], own["pairs"]) == (item["iteration"], item["pairs"]["total"])
        check_reward(item["reward"], folder / "rollouts")
        if item["training"] is not None:
            check_training(item["training"], folder)
        assert item["promoted"] == (item["refusal"] is None)
        for candidate in item["candidates"]:
            check_candidate(candidate, run_dir)
        assert item["promoted"] == any(each["promoted"] for each in item["candidates"])
        if item["evaluation"] is None:
            continue
        last = [each for each in item["candidates"] if each["after"]][-1]
        before, after = answered(*(all_rows(run_dir, last[side]) for side in ("before", "after")))
        check_score(item["evaluation"]["before"], before)
        check_score(item["evaluation"]["after"], after)
        assert item["evaluation"]["n"] == len(after)
        asked = len(all_rows(run_dir, last["after"]))
        assert item["evaluation"]["failed"] == asked - len(after)
    promoted = [item["iteration"] for item in summary["iterations"] if item["promoted"]]
    tests = run_dir / "test"
    final = f"iter-{promoted[-1]:03}" if promoted else "base"
    assert (tests / final / "manifest.json").exists()
    check_test(summary["test"], rows(tests / "base"), rows(tests / final))
    for name, said in summary["benchmarks"].items():
        folder = run_dir / "benchmarks" / name
        models = {"base": rows(folder / "base"), "final": rows(folder / final)}
        check_benchmark(said, models, rows(folder / "problems" / name))
    check_seconds(summary["seconds_by_phase"], run_dir)


def check_benchmark(
    said: dict[str, Any], models: dict[str, list[dict[str, Any]]], problems: list[dict[str, Any]]
) -> None:
    """Assert the shares of a benchmark that need no more than counting."""
    assert said["problems"] == len(problems)
    assert set(said["models"]) == set(models)
    for name, found in models.items():
        score, answered = said["models"][name], [row for row in found if row["error"] is None]
        assert (score["n"], score["failed"]) == (len(answered), len(found) - len(answered))
        right = sum(row["verdict"] == "correct" for row in answered)
        assert score["pass@1"] == pytest.approx(right / len(answered))
        low, high = score["ci95"]
        assert low <= score["pass@1"] <= high
        if score["samples"]:
            drawn = [row["sample_verdicts"] for row in answered]
            means = [each.count("correct") / len(each) for each in drawn]
            assert score["mean@k"] == pytest.approx(sum(means) / len(means))


def all_rows(run_dir: Path, steps: list[str]) -> list[dict[str, Any]]:
    """The rows of several steps."""
    return [row for step in steps for row in rows(run_dir / step)]


def check_candidate(said: dict[str, Any], run_dir: Path) -> None:
    """Assert the gain of a candidate, its error and its interval, from both models' answers."""
    if not said["after"]:
        assert (said["gain"], said["n"], said["promoted"]) == (None, 0, False)
        return
    before, after = answered(*(all_rows(run_dir, said[side]) for side in ("before", "after")))
    assert said["n"] == len(after)
    old = {row["problem_id"]: row for row in before}
    gains = [share(row) - share(old[row["problem_id"]]) for row in after]
    gain = sum(gains) / len(gains)
    assert said["gain"] == pytest.approx(gain)
    if len(gains) > 1:
        squares = sum((each - gain) ** 2 for each in gains)
        error = math.sqrt(squares / (len(gains) - 1) / len(gains))
        assert said["standard_error"] == pytest.approx(error)
        low, high = said["ci95"]
        assert -1 <= low <= gain <= high <= 1
    assert said["seconds"] > 0
    assert 0 <= said["fresh"] <= len(all_rows(run_dir, said["after"]))


def share(row: dict[str, Any]) -> float:
    """The share of all answers to a problem that is right."""
    verdicts = [row["verdict"], *row["sample_verdicts"]]
    return verdicts.count("correct") / len(verdicts)


def check_pools(said: dict[str, Any], seconds: float, folder: Path) -> None:
    """Assert the figures of engine pools, from the manifest."""
    report = json.loads((folder / "manifest.json").read_text())["report"]
    assert seconds == pytest.approx(report["seconds"], abs=1e-3)
    assert said.keys() == {use["name"] for use in report["pools"]}
    for use in report["pools"]:
        pool = said[use["name"]]
        rate = use["generated_tokens"] / use["seconds"]
        assert pool["tokens_per_second"] == pytest.approx(rate, rel=1e-3, abs=1e-3)
        assert pool["prefilled_tokens"] == use["prefix_queries"] - use["prefix_hits"] >= 0
        assert 0 <= pool["idle"] <= 1
        assert (pool["prefix_hits"] is None) == (use["prefix_queries"] == 0)


def check_reward(said: dict[str, Any], folder: Path) -> None:
    """Assert the numbers of scored and audited steps; chains share their first steps."""
    scored, audited, proposed = 0, 0, []
    for row in rows(folder):
        seen = set()
        for chain in row["chains"]:
            before: tuple[int, ...] = ()
            for step in chain["steps"]:
                siblings = json.dumps([chain["stage"], before, step["candidates"]])
                if siblings not in seen:
                    seen.add(siblings)
                    rewarded = [c for c in step["candidates"] if c["reward"] is not None]
                    scored += len(rewarded)
                    proposed += [len(step["candidates"])] * bool(rewarded)
                    audited += sum(c["audit"] is not None for c in rewarded)
                before = (*before, *step["candidates"][step["chosen"]]["token_ids"])
    assert (said["steps"], said["audited"]) == (scored, audited)
    assert (said["agreement"] is not None) <= bool(audited)
    mean = round(sum(proposed) / len(proposed), 3) if proposed else None
    assert said["distinct_candidates"] == mean
    check_process(said["process"], [judged(row) for row in rows(folder)])


def judged(row: dict[str, Any]) -> tuple[list[bool | None], bool] | None:
    """Whether each step of stage 1's Sol_max has a reward of one half, and its answer is right."""
    for chain in row["chains"]:
        if (chain["stage"], chain["branch"]) == ("self_generation", "max"):
            rewards = [step["candidates"][step["chosen"]]["reward"] for step in chain["steps"]]
            flags = [None if reward is None else reward >= 0.5 for reward in rewards]
            return flags, chain["verdict"] == "correct"
    return None


def check_process(
    said: dict[str, Any], solutions: list[tuple[list[bool | None], bool] | None]
) -> None:
    """Assert the process metrics of solutions, by lists."""
    found = [each for each in solutions if each is not None]
    known = [[flag for flag in flags if flag is not None] for flags, _ in found]
    broken = [(flags, right) for flags, right in found if False in flags]
    behind = [
        flag for flags, _ in broken for flag in flags[flags.index(False) + 1 :] if flag is not None
    ]
    assert said["solutions"] == len(found)
    assert said["judged"] == sum(bool(flags) for flags in known)
    expected = {
        "step_validity": [flag for flags in known for flag in flags],
        "flawed_right": [
            False in flags
            for flags, (_, right) in zip(known, found, strict=True)
            if flags and right
        ],
        "first_error": [flags.index(False) + 1 for flags, _ in broken],
        "recovery": [right for _, right in broken],
        "propagation": [not flag for flag in behind],
    }
    for name, values in expected.items():
        mean = pytest.approx(sum(values) / len(values)) if values else None
        assert said[name]["value"] == mean, name
    assert sum(depth["first_errors"] for depth in said["by_depth"]) == len(broken)


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of the data files of a phase."""
    files = sorted(p for p in folder.glob("*.parquet") if p.name[0] not in "._")
    assert files, f"no data files in {folder}"
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def rollouts(folder: Path) -> dict[str, Any]:
    """The `rollout` part of an iteration, without its seconds."""
    found = rows(folder)
    ids = [row["problem"]["problem_id"] for row in found]
    assert len(set(ids)) == len(ids), "a problem appears twice"
    routes = Counter(entry for row in found for entry in row["route"])
    routes.update("failed" for row in found if row["error"] is not None)
    by_stage = {
        stage: {
            "problems": sum(any(e.split(":")[0] == stage for e in row["route"]) for row in found),
            "tokens": 0,
            "chains": 0,
            "correct": 0,
        }
        for stage in (*STAGES, "correction_check")
    }
    for row in found:
        assert sum(row["stage_tokens"]) == row["tokens"]
        for entry, tokens in zip(row["route"], row["stage_tokens"], strict=True):
            by_stage[entry.split(":")[0]]["tokens"] += tokens
        checked = any(entry.startswith("correction_check:") for entry in row["route"])
        for chain in row["chains"]:
            second = chain["stage"] == "self_correction"
            counts = by_stage["correction_check" if checked and second else chain["stage"]]
            counts["chains"] += 1
            counts["correct"] += chain["verdict"] == "correct"
    return {
        "problems": len(found),
        "chains": sum(len(row["chains"]) for row in found),
        "tokens": sum(row["tokens"] for row in found),
        "by_stage": by_stage,
        "routes": dict(routes),
        "prm_inversions": sum(
            any(entry.endswith(":inversion") for entry in row["route"]) for row in found
        ),
        "wrong_to_correct": sum(_repaired(row) for row in found),
        "correct_to_wrong": sum("correction_check:lost" in row["route"] for row in found),
    }


def _repaired(row: dict[str, Any]) -> bool:
    """By the chains, not the route: Sol_max wrong in stage 1 and right after stage 2."""

    def right(stage: str) -> bool | None:
        best = [c for c in row["chains"] if c["stage"] == stage and c["branch"] == "max"]
        return best[0]["verdict"] == "correct" if best else None

    return right("self_generation") is False and right("self_correction") is True


def pairs(folder: Path) -> dict[str, Any]:
    """The `pairs` part of an iteration."""
    kept = rows(folder / "pairs")
    assert len({pair["pair_id"] for pair in kept}) == len(kept)
    refused = (
        rows(folder / "pairs" / "dropped") if any((folder / "pairs/dropped").glob("*")) else []
    )
    found = {row["problem"]["problem_id"]: row for row in rows(folder / "rollouts")}
    for pair in kept:
        for side in ("chosen", "rejected"):
            text, verdict = solution(found[pair["problem_id"]], pair[f"{side}_chain"])
            assert pair["prefix"] or text == pair[side]
            assert pair["prefix"] or (verdict == "correct") == (side == "chosen")
    chains = {c["chain_id"] for row in found.values() for c in row["chains"]}
    for pair in refused:
        assert {pair[f"{side}_chain"].split("/")[0] for side in ("chosen", "rejected")} <= chains
    dropped = Counter(pair["reason"] for pair in refused)
    stages = Counter(pair["stage"] for pair in kept)
    tokens = sum(row["tokens"] for row in found.values())
    return {
        "total": len(kept),
        "from_completions": sum(
            "/" in pair["chosen_chain"] + pair["rejected_chain"] for pair in kept
        ),
        "tokens_per_pair": round(tokens / len(kept), 1) if kept else None,
        "per_1000_tokens": round(1000 * len(kept) / tokens, 3),
        "by_stage": {stage: stages[stage] for stage in STAGES},
        "dropped": dict(dropped),
        "audit": None,  # test_audit_run.py counts those that honour one
    }


def solution(row: dict[str, Any], name: str) -> tuple[str, str]:
    """The text and the verdict of a chain, or of a completion below it (`CHAIN/d.s.c`)."""
    chain_id, _, place = name.partition("/")
    (chain,) = (c for c in row["chains"] if c["chain_id"] == chain_id)
    taken = [step["candidates"][step["chosen"]]["text"] for step in chain["steps"]]
    if not place:
        return "".join(taken).rstrip(), chain["verdict"]
    depth, sibling, number = map(int, place.split("."))
    candidate = chain["steps"][depth]["candidates"][sibling]
    rest = candidate["completions"][number]
    text = "".join(taken[:depth]) + candidate["text"] + rest["text"]
    return text.rstrip(), rest["verdict"]


def check_training(said: dict[str, Any], folder: Path) -> None:
    """Assert the `training` part of an iteration, from the reference table and the steps."""
    result = json.loads((folder / "policy" / "training.json").read_text())
    steps = result["history"]
    report = json.loads((folder / "policy" / "manifest.json").read_text())["report"]
    parts = [pa.ipc.open_file(part) for part in (folder / "reference").glob("*.arrow")]
    assert said["pairs"] == sum(part.read_all().num_rows for part in parts) > 0
    assert [step["step"] for step in steps] == list(range(1, said["steps"] + 1))
    assert (said["loss_first"], said["loss_last"]) == (steps[0]["loss"], steps[-1]["loss"])
    assert said["reward_accuracy"] == steps[-1]["reward_accuracy"]
    assert said["update_survival"] == pytest.approx(result["update_survival"], abs=1e-4)
    assert 0.95 < said["update_survival"] < 1.05
    rate = sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps)
    assert said["tokens_per_second"] == pytest.approx(rate, rel=1e-3)
    assert 0 <= said["padding"] < 1
    assert said["seconds"] == pytest.approx(report["seconds"], abs=1e-3)


def check_seconds(said: dict[str, float], run_dir: Path) -> None:
    """Assert the seconds of each kind of phase, over all manifests."""
    found: Counter[str] = Counter()
    summary = json.loads((run_dir / "summary.json").read_text())
    for step in summary["steps"]:
        report = json.loads((run_dir / step / "manifest.json").read_text())["report"]
        found[report["phase"].partition("/")[0]] += report["seconds"]
    assert said == pytest.approx(dict(found), abs=0.01)


def answered(
    one: list[dict[str, Any]], other: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the problems that both models answered."""
    failed = {row["problem_id"] for row in (*one, *other) if row["error"] is not None}
    first, second = ([r for r in each if r["problem_id"] not in failed] for each in (one, other))
    return first, second


def check_score(said: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """Assert one pass@1, mean@k and interval."""
    right = [row["verdict"] == "correct" for row in found]
    assert said["pass@1"] == pytest.approx(sum(right) / len(right))
    low, high = said["ci95"]
    assert 0 <= low <= said["pass@1"] <= high <= 1
    shares = [
        sum(v == "correct" for v in row["sample_verdicts"]) / len(row["sample_verdicts"])
        for row in found
        if row["sample_verdicts"]
    ]
    assert said["mean@k"] == (pytest.approx(sum(shares) / len(shares)) if shares else None)
    solved = [share > 0 for share in shares]
    assert said["pass@k"] == (pytest.approx(sum(solved) / len(solved)) if shares else None)
    voted = [majority(row) for row in found if row["sample_verdicts"]]
    assert said["maj@k"] == (pytest.approx(sum(voted) / len(voted)) if voted else None)


def majority(row: dict[str, Any]) -> bool:
    """Whether the answer that most samples gave is right; of two the one given first.

    All right answers are one, however they are spelt.
    """
    given = [
        "right" if verdict == "correct" else f"wrong: {answer}"
        for answer, verdict in zip(row["sample_answers"], row["sample_verdicts"], strict=True)
        if answer is not None
    ]
    best = max(given, key=lambda answer: (given.count(answer), -given.index(answer)), default="")
    return best == "right"


def check_test(
    said: dict[str, Any], base: list[dict[str, Any]], final: list[dict[str, Any]]
) -> None:
    """Assert the held-out comparison, with the exact sign test."""
    asked = len(base)
    base, final = answered(base, final)
    assert said["failed"] == asked - len(base)
    first, last = ({r["problem_id"]: r for r in found} for found in (base, final))
    assert said["n"] == len(first) == len(base)
    assert first.keys() == last.keys()
    for score, found in ((said["base"], base), (said["final"], final)):
        check_score(score, found)
        families = Counter(row["family"] for row in found if row["family"] is not None)
        assert {name: part["n"] for name, part in score["by_family"].items()} == families
        for name, part in score["by_family"].items():
            check_score(part, [row for row in found if row["family"] == name])
        means = [part["pass@1"] for part in score["by_family"].values()]
        assert score["macro_average"] == (pytest.approx(sum(means) / len(means)) if means else None)
    process = said["process"]
    for name, change in process["difference"].items():
        before, after = (process[side][name]["value"] for side in ("base", "final"))
        both = None not in (before, after)
        assert change["value"] == (pytest.approx(after - before) if both else None)
    assert {process[side]["solutions"] for side in ("base", "final")} == {said["n"]}
    gained = [(last[i]["verdict"] == "correct") - (first[i]["verdict"] == "correct") for i in first]
    assert said["difference"] == pytest.approx(sum(gained) / len(gained))
    low, high = said["difference_ci95"]
    assert -1 <= low <= said["difference"] <= high <= 1
    up, down = gained.count(1), gained.count(-1)
    tail = sum(math.comb(up + down, i) for i in range(min(up, down) + 1))
    assert said["p_value"] == pytest.approx(min(1.0, 2 * tail / 2 ** (up + down)))
    proven = up != down and said["p_value"] < 0.05
    assert ("alone proves" in said["conclusion"]) == proven
