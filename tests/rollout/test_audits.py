"""Pairs and labels of rollout files honour an audit, and say what it did. One file needs no Ray."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sphere_ray import storage
from sphere_ray.config.method import MethodSettings, PairSettings
from sphere_ray.errors import ConfigError
from sphere_ray.method.audit import Audit, Sides, text_id
from sphere_ray.records import Branch, LabelledStep, PreferencePair, Rollout, StageName
from sphere_ray.reward.judgements import AuditLine, Judged
from sphere_ray.rollout import pipeline
from sphere_ray.rollout.audits import load_audit
from sphere_ray.rollout.stages import rollout_table
from sphere_ray.schema import from_table
from tests.audit.made_run import chain, rollout

PLAIN = MethodSettings(pairs=PairSettings(min_edit_distance=3))


def written(folder: Path, rollouts: list[Rollout]) -> str:
    storage.write_table(rollout_table(rollouts), str(folder / "part-00000.parquet"))
    return str(folder)


def pairs_in(folder: Path) -> list[PreferencePair]:
    files = sorted(folder.glob("*.parquet"))
    return [row for file in files for row in from_table(pq.read_table(file), PreferencePair)]


def accepted(pairs: list[PreferencePair]) -> dict[str, dict[str, Sides]]:
    return {
        p.problem_id: {p.pair_id: Sides(p.stage, p.chosen_chain, p.rejected_chain)} for p in pairs
    }


def test_what_people_decided_is_done_and_counted(tmp_path: Path) -> None:
    source = written(tmp_path / "rollouts", [rollout(number) for number in range(12)])
    pipeline.pair(source, str(tmp_path / "before"), PLAIN)
    before = pairs_in(tmp_path / "before")
    assert len(before) == 12
    assert not (tmp_path / "before" / "audit.json").exists()
    wrong = rollout(3).chains[0]
    audit = Audit(
        rejected=frozenset({before[0].pair_id, before[1].pair_id}),
        accepted=accepted(before[4:7]),
        verdicts={before[3].problem_id: {text_id(before[3].problem_id, wrong.text): False}},
    )
    counts = pipeline.pair(source, str(tmp_path / "after"), PLAIN, (), audit)
    gone = {each.pair_id for each in before[:2]}
    # The completion after the corrected chain's first step is right still, so the problem pairs.
    assert {p.pair_id for p in pairs_in(tmp_path / "after")} >= {p.pair_id for p in before[4:]}
    assert not {p.pair_id for p in pairs_in(tmp_path / "after")} & (gone | {before[3].pair_id})
    assert counts.dropped["audit_rejected"] == 2
    assert storage.read_json(str(tmp_path / "after" / "audit.json")) == {
        "accepted": 3,
        "rejected": 2,
        "corrected": 1,
    }


@pytest.mark.parametrize(
    "rules",
    [
        {"max_off_policy_share": 0.25},
        {"max_off_policy_share": 0},
        {"max_family_ratio": 1.0, "max_off_policy_share": 1.0},
    ],
)
def test_no_cap_of_an_iteration_takes_an_accepted_pair(
    tmp_path: Path, rules: dict[str, Any]
) -> None:
    """Families a (3 of 4 problems) and b; every second pair is off-policy."""
    rollouts = []
    for number in range(16):
        made = rollout(number)
        family = "b" if number % 4 == 0 else "a"
        chains = made.chains
        if number % 2:
            small = chain(made.problem.problem_id, Branch.MIN, f"small {number}", right=False)
            stage = StageName.DIVERSITY
            small = replace(small, stage=stage, chain_id=f"{small.chain_id}:s", model="small")
            chains = (chains[0], small)
        rollouts.append(replace(made, problem=replace(made.problem, family=family), chains=chains))
    source = written(tmp_path / "rollouts", rollouts)
    free = MethodSettings(pairs=PairSettings(min_edit_distance=3, max_off_policy_share=1.0))
    pipeline.pair(source, str(tmp_path / "all"), free)
    every = {p.pair_id: p for p in pairs_in(tmp_path / "all")}
    method = MethodSettings(pairs=PairSettings(min_edit_distance=3, **rules))
    usual = pipeline.pair(source, str(tmp_path / "usual"), method)
    cut = sorted(set(every) - {p.pair_id for p in pairs_in(tmp_path / "usual")})
    assert len(cut) >= 2
    audit = Audit(accepted=accepted([every[cut[-1]], every[cut[-2]]]))
    counts = pipeline.pair(source, str(tmp_path / "kept"), method, (), audit)
    assert {p.pair_id for p in pairs_in(tmp_path / "kept")} >= {cut[-1], cut[-2]}
    if rules != {"max_off_policy_share": 0}:  # others make room, the cap itself holds
        assert sum(counts.kept.values()) == sum(usual.kept.values())


def test_labels_hold_the_corrected_verdict(tmp_path: Path) -> None:
    made = rollout(1)
    source = written(tmp_path / "rollouts", [made])
    right, end = made.chains[0], made.chains[0].steps[-1].candidate.text
    audit = Audit(verdicts={made.problem.problem_id: {
        text_id(made.problem.problem_id, right.text): False}})  # fmt: skip
    values = []
    for number, given in enumerate((Audit(), audit)):
        output = tmp_path / str(number)
        pipeline.label([(source, False)], str(output), share=0.0, seed=1, audit=given)
        labels = from_table(pq.read_table(output / "train" / "part-00000.parquet"), LabelledStep)
        values.append({(step.prefix, step.text): step.value for step in labels})
    (place,) = (
        key for key in values[0] if key[1] == end and key[0][0].startswith("Let us see, so")
    )
    assert (values[0][place], values[1][place]) == (1.0, 0.0)
    assert {key for key in values[0] if values[0][key] != values[1][key]} == {place}


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method.pairs.audit: .*No such file.*sphere audit"):
        load_audit(str(tmp_path / "audit.jsonl"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"method.pairs.audit: .*cannot be read"):
        load_audit(str(tmp_path / "binary"))
    assert load_audit(None) == Audit()


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    line = AuditLine(
        when=datetime.now(UTC),
        who="ann",
        iteration=0,
        problem_id="p",
        pair_id="x",
        stage=StageName.DIVERSITY,
        decision="reject",
        sides=(Judged(chain_id="a", text_id="1"), Judged(chain_id="b", text_id="2")),
    )
    path = tmp_path / "audit.jsonl"
    path.write_text(f"{line.model_dump_json()}\n\nnonsense\n")
    with pytest.raises(ConfigError, match=r"audit\.jsonl, line 3: "):
        load_audit(str(path))
    path.write_text(f"{line.model_dump_json()}\n\n")
    assert load_audit(str(path)).rejected == {"x"}
