"""`sphere proof` on runs that a fake makes: what is asked for, in which order, and what is told."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from sphere_ray import cli, storage
from sphere_ray.commands.proof import prove
from sphere_ray.records import EvaluationRow, PhaseReport, PoolUse, Problem, StageName, Verdict
from sphere_ray.runs.directory import WritableRun
from sphere_ray.runs.manifest import Manifest
from sphere_ray.schema import to_table
from sphere_ray.tables.proof import print_proof

FAMILIES = ("ages", "boats")
SAMPLED = ["method.search.strategy=sampled", "method.search.num_samples={tokens}"]
SLOWER = ["method.search.strategy=sampled", "method.search.num_samples={seconds}"]
GENERATION = ["method.pairs.stages=[self_generation]", "iterations=1"]
LENGTH, PROBLEMS, TOKENS, SECONDS, RATE = 10, 20, 1000, 30.0, 60.0


def rows(right, ids="abcdefgh"):
    return [
        EvaluationRow(
            problem_id=each,
            family=FAMILIES[index % 2],
            level=1,
            verdict=Verdict.CORRECT if index < right else Verdict.WRONG,
            num_tokens=LENGTH,
        )
        for index, each in enumerate(ids)
    ]


@dataclass
class Runs:
    """Makes run directories: the base model is right on two problems, later ones on `after`."""

    after: dict[str, list[int]]
    asked: list[tuple[str, int, str | None, int]] = field(default_factory=list)
    guarded: Counter[str] = field(default_factory=Counter)

    def run(self, settings, origin):
        variant = settings.run_dir.rsplit("/", 2)[-2]
        samples = settings.method.search.num_samples
        self.asked.append((variant, settings.iterations, origin, samples))
        with WritableRun.create(settings.run_dir, settings) as run:
            steps = [
                *(_problems(run, split, some) for split, some in (("train", 1), ("test", 2))),
                _step(run, "evaluation/base", rows(2), "base"),
                _step(run, "test/base", rows(2), "base"),
            ]
            right = self.after[variant][settings.iterations - 1]
            label = f"iter-{settings.iterations - 1:03}"
            policy = _step(run, f"{label}/policy", [], "m")
            storage.write_text("", f"{policy}/model/weights")
            steps += [policy, _step(run, f"test/{label}", rows(right), f"output of {policy}")]
            run.note_current(steps, all_of_them=True)
        return {"iterations": [_iteration(variant)] * settings.iterations}

    def answer(self, settings, model, problems, samples, directory):
        self.guarded[Path(model).parents[1].name if "/" in model else model] += 1
        ids = [each.problem_id for some in problems.values() for each in some]
        return {name: rows(1 if "/" in model else 0, ids) for name in problems}


def _iteration(variant):
    tokens = {str(stage): TOKENS // 4 for stage in StageName} | {"correction_check": TOKENS // 4}
    return {
        "rollout": {
            "problems": PROBLEMS,
            "tokens": TOKENS,
            "seconds": SECONDS,
            "by_stage": {stage: {"tokens": each} for stage, each in tokens.items()},
        },
        "pairs": {"total": 4},
    }


def _problems(run, split, families):
    found = [
        Problem(problem_id=f"{split}{i}", question="?", answer="1", source="s", family=FAMILIES[i])
        for i in range(families)
    ]
    storage.write_table(to_table(found, Problem), run.file(f"problems/{split}/part.parquet"))
    return _committed(run, "problems", "")


def _step(run, name, answers, model):
    storage.write_table(to_table(answers, EvaluationRow), run.file(f"{name}/part.parquet"))
    return _committed(run, name, model)


def _committed(run, name, model):
    path = run.file(name)
    use = PoolUse(
        name="policy",
        replicas=1,
        seconds=2.0,
        busy_s=1.0,
        generated_tokens=int(2 * RATE),
        prefix_queries=0,
        prefix_hits=0,
    )
    report = PhaseReport(
        phase=name, fingerprint="f", rows_in=1, rows_out=1, seconds=1.0, pools=(use,)
    )
    manifest = Manifest(
        step=name,
        fingerprint=path,
        output=f"output of {path}",
        identity={},
        inputs={"model": model},
        report=report,
        versions={},
        code="",
        created="",
    )
    storage.write_json(manifest.to_json(), f"{path}/manifest.json")
    return path


@pytest.fixture
def spec(tmp_path, config):
    def write(**changes):
        document = {
            "name": "proof",
            "run_dir": str(tmp_path / "proof"),
            "config": config.name,
            "overrides": ["iterations=2"],
            "variants": {"search": [], "part": GENERATION, "samples": SAMPLED, "slow": SLOWER},
        }
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(document | changes, sort_keys=False))
        return path

    return write


@pytest.fixture
def runs():
    return Runs({"search": [5, 6], "part": [4], "samples": [4, 3], "slow": [2, 2]})


def test_the_first_variant_is_the_bank_of_the_others_for_each_seed(spec, runs, tmp_path):
    prove(spec(), ["seeds=[0,1]"], run=runs.run, answer=runs.answer)
    banks = [str(tmp_path / "proof" / "search" / f"seed-{seed}") for seed in (0, 1)]
    shown = [(variant, iterations, origin) for variant, iterations, origin, _ in runs.asked]
    assert shown == [
        each
        for bank in banks
        for each in [
            ("search", 1, None),
            ("search", 2, None),
            ("part", 1, bank),
            *((name, number, bank) for name in ("samples", "slow") for number in (1, 2)),
        ]
    ]


def test_samples_cost_what_the_bank_cost(spec, runs):
    _, proof = prove(spec(), ["seeds=[0]"], run=runs.run, answer=runs.answer)
    samples = {variant: number for variant, _, _, number in runs.asked}
    assert samples["samples"] == TOKENS / (PROBLEMS * LENGTH)
    assert samples["slow"] == SECONDS * RATE / (PROBLEMS * LENGTH)
    told = {each["name"]: each["overrides"] for each in proof["variants"]}
    assert told["slow"] == [["method.search.strategy=sampled", "method.search.num_samples=9"]]


def test_gains_are_those_of_the_answers(spec, runs, tmp_path):
    target, proof = prove(spec(), ["seeds=[0,1]"], run=runs.run, answer=runs.answer)
    search, part, samples, _ = proof["variants"]
    assert [gain["mean"] for gain in search["gains"]] == [3 / 8, 4 / 8]
    assert (search["no_worse"], part["no_worse"], samples["no_worse"]) == (True, None, False)
    assert search["unseen"]["n"] == 4
    assert proof["unseen_families"] == ["boats"]
    differences = {each["variant"]: each for each in proof["comparisons"]}
    assert differences["part"]["iterations"] == 1
    assert differences["part"]["difference"]["mean"] == -1 / 8
    assert differences["samples"]["difference"]["mean"] == -3 / 8
    assert part["costs"][0][0]["tokens"] == TOKENS / 4
    assert json.loads((tmp_path / "proof" / "proof.json").read_text()) == proof
    assert Path(target, "proof.png").read_bytes().startswith(b"\x89PNG")


def test_guards_are_asked_of_the_base_once_and_of_the_last_models(spec, runs, tmp_path):
    known = tmp_path / "known.jsonl"
    known.write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    guards = {"sums": {"source": f"file:{known}"}, "gone": {"source": "file:gone.jsonl"}}
    path = spec(guards=guards, variants={"search": []})
    _, proof = prove(path, ["seeds=[0,1]"], run=runs.run, answer=runs.answer)
    assert runs.guarded == {"tiny:policy": 1, "iter-001": 2}
    assert proof["guards"]["sums"]["mean"] == 1.0
    assert "gone" not in proof["guards"]
    console = Console(record=True, width=200)
    print_proof(proof, console)
    text = " ".join(console.export_text().split())
    assert "gone is left out: file:gone.jsonl is not there" in text


def test_the_table_says_how_far_few_seeds_reach(spec, runs):
    _, proof = prove(spec(), ["seeds=[0,1]"], run=runs.run, answer=runs.answer)
    console = Console(record=True, width=200)
    print_proof(proof, console)
    text = " ".join(console.export_text().split())
    assert "2 seeds are few" in text
    assert "search: no seed gets worse in a later iteration" in text
    assert "samples: a seed gets worse in a later iteration" in text
    assert "+50.0" in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"variants": {}}, "variants: there is no variant"),
        ({"seeds": [0, 1, 0]}, "seeds: name at least one seed, and each once"),
        ({"sedes": [0]}, "sedes is not a known key; did you mean seeds?"),
        ({"variants": {"a": [], "b": ["training.betta=1"]}}, "variants.b: --set training.betta"),
        ({"variants": {"a": [], "b": ["seed=3"]}}, "variants.b: seed=3 has no effect"),
        ({"variants": {"a": SAMPLED}}, "variants.a: method.search.num_samples={tokens}"),
        ({"variants": {"a/b": []}}, "variants.a/b must match"),
        (
            {"variants": {"a": [], "b": ["evaluation.num_samples=2"]}},
            "variants.b changes evaluation",
        ),
        (
            {"variants": {"a": [], "b": ["problems.test.limit=2"]}},
            "variants.b changes problems.test",
        ),
        ({"config": "absent.yaml"}, "absent.yaml does not exist"),
    ],
)
def test_a_mistake_in_the_specification_is_one_sentence(spec, capsys, monkeypatch, changes, told):
    monkeypatch.setattr(cli, "catch_signals", lambda: None)
    path = spec(**changes)
    with pytest.raises(SystemExit) as ended:
        cli.main(["proof", str(path)])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert err.startswith(f"error: {path}: ")
    assert told in err
    assert err.count("\n") == 1
