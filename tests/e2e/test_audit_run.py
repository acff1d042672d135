"""A run that honours an audit: the same command, with `method.pairs.audit`, pairs again by it."""

import itertools
import json
from datetime import UTC, datetime

import pytest
import yaml
from driving import BIN, finish

from sphere_ray.audit.journal import Journal
from sphere_ray.method.audit import text_id
from sphere_ray.records import PreferencePair, Rollout, Verdict
from sphere_ray.reward.judgements import AuditLine, Judged
from sphere_ray.runs.directory import Run
from tests.simulated_problems import simulated_problem

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]

COUNTS = {"train": 24, "validation": 4, "test": 4}


def configured(folder):
    """A simulated run; no pairs are enough to train."""
    problems = map(simulated_problem, itertools.count())
    for split, count in COUNTS.items():
        rows = [
            {"question": p.question, "answer": p.answer} for p in itertools.islice(problems, count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pool = {"max_num_seqs": 16, "kv_cache_gib": 1}
    config = {
        "name": "audited",
        "run_dir": str(folder / "run"),
        "problems": {split: {"source": f"file:{folder / split}.jsonl"} for split in COUNTS},
        "engines": {
            "backend": "simulated",
            "simulated": {"accuracy": 0.4},
            "policy": {"path": "policy"},
            "policy_pool": pool,
            "small": {"path": "small"},
            "small_pool": pool,
            "scorer": {"kind": "simulated"},
        },
        # One pair less makes no other one go.
        "method": {"pairs": {"max_off_policy_share": 1.0}},
        "rollout": {"batch_size": 4, "batches_in_flight": 2},
        "training": {"min_pairs": 10**6},
        "ray": {"address": "local", "num_cpus": 2, "object_store_gib": 0.5, "dashboard": False},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def sphere(config, *settings):
    flags = [part for setting in settings for part in ("--set", setting)]
    return finish([str(BIN / "sphere"), "run", str(config), *flags])


def pairs_of(run):
    return {pair.pair_id: pair for pair in run.step("pairs", 0).rows(PreferencePair)}


def decided(pair, decision, chains, chain_id=None):
    """A line about a pair, or about the verdict of one of its sides."""
    sides = [
        Judged(
            chain_id=name,
            text_id=text_id(pair.problem_id, chains[name].text if name in chains else name),
            verdict=verdict,
            reward=0.5,
        )
        for name, verdict in (
            (pair.chosen_chain, Verdict.CORRECT),
            (pair.rejected_chain, Verdict.WRONG),
        )
    ]
    return AuditLine(
        when=datetime.now(UTC),
        who="ann",
        iteration=0,
        problem_id=pair.problem_id,
        pair_id=pair.pair_id,
        chain_id=chain_id,
        stage=pair.stage,
        decision=decision,
        sides=tuple(each for each in sides if chain_id in (None, each.chain_id)),
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audited")
    config = configured(folder)
    done = sphere(config)
    assert done.code == 0, done.out + done.err
    return config, Run.open(str(folder / "run"))


def test_the_next_run_pairs_by_the_audit_and_makes_nothing_else_anew(first):
    config, run = first
    before = pairs_of(run)
    rollouts = {r.problem.problem_id: r for r in run.step("rollouts", 0).rows(Rollout)}
    chains = {c.chain_id: c for r in rollouts.values() for c in r.chains}
    assert json.loads((config.parent / "run/summary.json").read_text())["audit"] is None
    rejected, accepted, *others = list(before.values())
    wrong = next(p for p in others if p.chosen_chain in chains)
    journal = Journal(run.file("audit.jsonl"))
    journal.append(decided(rejected, "reject", chains))
    journal.append(decided(accepted, "accept", chains))
    journal.append(decided(wrong, "wrong", chains, wrong.chosen_chain))
    done = sphere(config, f"method.pairs.audit={journal.path}")
    assert done.code == 0, done.out + done.err
    again = Run.open(run.path)
    after = pairs_of(again)
    assert rejected.pair_id not in after
    assert after[accepted.pair_id] == accepted
    corrected = text_id(wrong.problem_id, chains[wrong.chosen_chain].text)
    chosen = [text_id(p.problem_id, p.chosen) for p in after.values()]
    assert corrected not in chosen
    touched = {rejected.problem_id, wrong.problem_id}
    untouched = {k: p for k, p in before.items() if p.problem_id not in touched}
    assert {k: p for k, p in after.items() if p.problem_id not in touched} == untouched
    summary = json.loads((config.parent / "run/summary.json").read_text())
    assert summary["iterations"][0]["pairs"]["dropped"]["audit_rejected"] == 1
    assert summary["iterations"][0]["pairs"]["audit"] == {
        "accepted": 1,
        "rejected": 1,
        "corrected": 1,
    }
    said = summary["audit"]
    assert (said["accepted"], said["rejected"], said["verdicts"]) == (1, 1, 1)
    assert (said["grader"]["agreed"], said["grader"]["n"]) == (2, 3)
    # A variant beside the first pairs, of the same rollouts.
    assert again.step("pairs", 0).path != run.file("iter-000/pairs")
    assert again.step("rollouts", 0).path == run.file("iter-000/rollouts")
    # Without it, the old pairs are used again.
    done = sphere(config)
    assert done.code == 0, done.out + done.err
    assert pairs_of(Run.open(run.path)) == before


def test_a_broken_line_ends_the_run_before_it_starts(first, tmp_path):
    file = tmp_path / "audit.jsonl"
    file.write_text("\nnonsense\n")
    done = sphere(first[0], f"method.pairs.audit={file}")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert f"{file}, line 2: Invalid JSON" in done.err
