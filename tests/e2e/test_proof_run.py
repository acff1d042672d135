"""A proof on real engines and a toy model: search as the bank, then samples of equal cost."""

import json

import pytest
import yaml
from driving import BIN, SMOKE, contents, finish

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    """The directory of a proof that ran once, and the command that ran it."""
    folder = tmp_path_factory.mktemp("proof")
    rows = [{"question": f"What is {n} - 1?", "answer": str(n - 1)} for n in (2, 3, 4, 5)]
    (folder / "minus.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    spec = folder / "spec.yaml"
    document = {
        "name": "toy",
        "run_dir": str(folder / "proof"),
        "config": SMOKE,
        # A rate that changes no answer: what is no worse is promoted, and plays on.
        "overrides": ["training.learning_rate=1e-7", "ray.address=local", "ray.dashboard=false"],
        "variants": {
            "search": ["iterations=2"],
            "generation": ["method.pairs.stages=[self_generation]"],
            "samples": ["method.search.strategy=sampled", "method.search.num_samples={tokens}"],
        },
        "guards": {"minus": {"source": f"file:{folder / 'minus.jsonl'}"}},
    }
    spec.write_text(yaml.safe_dump(document, sort_keys=False))
    command = [str(BIN / "sphere"), "proof", str(spec), "--set", "seeds=[0]"]
    done = finish(command)
    assert done.code == 0, done.out + done.err
    return folder / "proof", command


def test_variants_share_what_the_bank_has_made(proof):
    folder, _ = proof
    manifest = {
        variant: json.loads((folder / variant / "seed-0" / path / "manifest.json").read_text())
        for variant, path in (("search", "iter-000/rollouts"), ("generation", "iter-000/rollouts"))
    }
    assert manifest["search"] == manifest["generation"]
    pairs = json.loads((folder / "generation" / "seed-0" / "summary.json").read_text())
    by_stage = pairs["iterations"][0]["pairs"]["by_stage"]
    assert by_stage["self_generation"] >= 1
    assert sum(by_stage.values()) == by_stage["self_generation"]


def test_samples_decode_about_as_many_tokens_as_the_search(proof):
    found = json.loads((proof[0] / "proof.json").read_text())
    costs = {each["name"]: each["costs"][0][0] for each in found["variants"]}
    assert costs["samples"]["tokens"] == pytest.approx(costs["search"]["tokens"], rel=0.3)
    assert costs["generation"]["tokens"] < costs["search"]["tokens"]


def test_each_iteration_and_the_guards_are_measured(proof):
    found = json.loads((proof[0] / "proof.json").read_text())
    gains = {each["name"]: [gain["n"] for gain in each["gains"]] for each in found["variants"]}
    assert gains == {"search": [8, 8], "generation": [8], "samples": [8]}
    assert found["guards"]["minus"]["n"] == 4
    assert (proof[0] / "proof.png").stat().st_size > 0


def test_a_finished_proof_is_read_back(proof):
    folder, command = proof
    before = contents(folder)
    done = finish(command)
    assert done.code == 0, done.out + done.err
    assert "Gain over the base model" in done.out
    assert contents(folder) == before
