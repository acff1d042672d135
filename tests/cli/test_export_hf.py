"""A run's model and pairs for the hub, read back by its own loaders; nothing leaves the machine."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard
from transformers import AutoConfig

from sphere_ray import cli, storage
from sphere_ray.commands import cards
from sphere_ray.commands.export_hf import export_hf
from sphere_ray.errors import ConfigError, FatalError, RunDirectoryError
from sphere_ray.records import Message, PreferencePair, Problem, StageName
from sphere_ray.runs.step import Result, Step, Work
from sphere_ray.schema import to_table
from tests.runs.steps import executor, opened

PROBLEM = Problem(problem_id="p", question="2+2?", answer="4", source="generated:arithmetic")
PAIR = PreferencePair(
    pair_id="1",
    problem_id="p",
    stage=StageName.DIVERSITY,
    prompt=(Message(role="user", content="2+2?"),),
    chosen="4",
    rejected="5",
    chosen_reward=0.75,
    chosen_chain="p:0:diversity:max",
)
SCORE = {"pass@1": 0.25, "ci95": [0.125, 0.375]}


def summary(*, promoted: bool = True) -> dict[str, Any]:
    return {
        "run": "try",
        "base": {"path": "tiny:llama", "fingerprint": "f"},
        "iterations": [
            {
                "iteration": 0,
                "rollout": {"problems": 7},
                "reward": {"source": "rollout_value"},
                "pairs": {
                    "total": 1,
                    "by_stage": {"diversity": 1, "self_correction": 0},
                    "dropped": {"too_similar": 3},
                },
                "training": {"steps": 24, "loss_first": 0.9, "loss_last": 0.43},
                "candidates": [
                    {"candidate": "trained", "promoted": False},
                    {"candidate": "half_rate", "promoted": promoted},
                ],
                "promoted": promoted,
            }
        ],
        "test": {
            "n": 320,
            "base": SCORE,
            "final": {"pass@1": 0.5, "ci95": [0.375, 0.625]},
            "difference": 0.25,
            "difference_ci95": [0.2, 0.3],
            "p_value": 2e-8,
            "conclusion": "this run alone proves a gain",
        },
    }


@dataclass(frozen=True, kw_only=True)
class Written(Step):
    """A step that only writes files."""

    kind: ClassVar[str] = "problems"

    tables: dict[str, Any] = field(default_factory=dict)
    model: bool = False

    def identity(self) -> dict[str, Any]:
        return {}

    def inputs(self) -> dict[str, Any]:
        return {}

    def run(self, work: Work) -> Result:
        for name, table in self.tables.items():
            storage.write_table(table, f"{work.path}/{name}")
        if self.model:
            config = {"model_type": "llama", "hidden_size": 64, "name": self.kind}
            storage.write_json(config, f"{work.path}/model/config.json")
        return Result(rows_in=1, rows_out=1)


class Pairs(Written):
    kind: ClassVar[str] = "pairs"


class Policy(Written):
    kind: ClassVar[str] = "policy"


class HalfRate(Written):
    kind: ClassVar[str] = "half_rate"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    with opened(tmp_path / "r") as run:
        make = executor(run).make
        make(Written(tables={"train/part-0.parquet": to_table([PROBLEM], Problem)}))
        make(Pairs(tables={"part-0.parquet": to_table([PAIR], PreferencePair)}, iteration=0))
        make(Policy(model=True, iteration=0))
        make(HalfRate(model=True, iteration=0))
        storage.write_json(summary(), run.file("summary.json"))
    return tmp_path / "r"


def test_the_model_that_was_promoted_has_a_card_with_the_figures(run_dir: Path) -> None:
    written = export_hf(str(run_dir), output=None, push=None)
    assert AutoConfig.from_pretrained(written.model).name == "half_rate"
    card = ModelCard.load(Path(written.model) / "README.md")
    assert card.data.license == "unknown"
    assert card.data.library_name == "transformers"
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_name) == (50.0, "file:test.jsonl")
    for text in (
        "| base | 25.0 | 12.5 to 37.5 |",
        "| this | 50.0 | 37.5 to 62.5 |",
        "| change, paired by problem | +25.0 | +20.0 to +30.0, p = 2e-08 |",
        "320 test problems",
        "1 pairs of 7 problems (diversity 1)",
        "refused by gates: too_similar 3",
        "24 steps, loss 0.900 to 0.430",
    ):
        assert text in card.text


def test_pairs_load_as_a_data_set_and_say_where_they_come_from(
    run_dir: Path, tmp_path: Path
) -> None:
    written = export_hf(str(run_dir), output=str(tmp_path / "out"), push=None)
    card = DatasetCard.load(Path(written.dataset) / "README.md")
    assert card.data.task_categories == ["text-generation"]
    found = load_dataset(written.dataset, split="train", cache_dir=str(tmp_path / "cache"))
    assert found[0] == {
        "prompt": [{"role": "user", "content": "2+2?"}],
        "chosen": [{"role": "assistant", "content": "4"}],
        "rejected": [{"role": "assistant", "content": "5"}],
        "pair_id": "1",
        "iteration": 0,
        "stage": "diversity",
        "problem_id": "p",
        "question": "2+2?",
        "answer": "4",
        "source": "generated:arithmetic",
        "chosen_chain": "p:0:diversity:max",
        "rejected_chain": "",
        "chosen_reward": 0.75,
        "rejected_reward": None,
    }


def test_an_export_replaces_an_earlier_one(run_dir: Path) -> None:
    first = export_hf(str(run_dir), output=None, push=None)
    (Path(first.model) / "stale").touch()
    again = export_hf(str(run_dir), output=None, push=None)
    assert again == first
    assert not (Path(first.model) / "stale").exists()


class FakeHub:
    """The two calls of a push; `fails` is raised by the second."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.calls: list[Any] = []
        self.fails = fails

    def create_repo(self, name: str, **options: Any) -> None:
        self.calls.append((name, options))

    def upload_folder(self, *, folder_path: str, **options: Any) -> None:
        if self.fails is not None:
            raise self.fails
        assert (Path(folder_path) / "README.md").is_file()
        self.calls.append(options)


def test_a_push_makes_private_repositories_whose_cards_know_each_other(run_dir: Path) -> None:
    hub: Any = FakeHub()
    written = export_hf(str(run_dir), output=None, push="me/better", api=hub)
    assert written.pushed == ("me/better", "me/better-pairs")
    first, model, second, dataset = hub.calls
    assert first == ("me/better", {"repo_type": "model", "private": True, "exist_ok": True})
    assert second[1]["private"] is True
    assert (model["repo_id"], dataset["repo_id"]) == written.pushed
    assert (model["repo_type"], dataset["repo_type"]) == ("model", "dataset")
    card = ModelCard.load(Path(written.model) / "README.md")
    assert card.data.datasets == ["me/better-pairs"]


def test_a_hub_that_refuses_leaves_the_directory_and_a_sentence(run_dir: Path) -> None:
    hub: Any = FakeHub(OSError("401\nno token"))
    with pytest.raises(FatalError, match=r"401 no token.*is complete.*hf auth login"):
        export_hf(str(run_dir), output=None, push="me/better", api=hub)
    assert (run_dir / "export" / "hf" / "model" / "README.md").is_file()


@pytest.mark.parametrize("name", ["better", "me/b/c", "me/ x", "/x"])
def test_a_name_that_no_repository_can_have_is_refused(run_dir: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        export_hf(str(run_dir), output=None, push=name)


def test_without_a_promoted_policy_or_an_end_there_is_nothing_to_export(run_dir: Path) -> None:
    storage.write_json(summary(promoted=False), str(run_dir / "summary.json"))
    with pytest.raises(RunDirectoryError, match="promoted no policy"):
        export_hf(str(run_dir), output=None, push=None)
    (run_dir / "summary.json").unlink()
    with pytest.raises(RunDirectoryError, match="has not finished"):
        export_hf(str(run_dir), output=None, push=None)


def test_the_license_is_the_one_that_the_base_states(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    with opened(tmp_path / "r") as run:
        engines = run.settings.engines
        known = engines.policy.model_copy(update={"path": str(base)})
        local = run.settings.model_copy(
            update={"engines": engines.model_copy(update={"policy": known})}
        )
    assert cards.base_of(local) == (None, "mit")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("file:/home/me/data/x.csv?answer=a/b", "file:x.csv?answer=a/b"),
        ("file:x.csv", "file:x.csv"),
        ("file:https://host/data/x.csv", "file:https://host/data/x.csv"),
        ("hf:openai/gsm8k@1?split=test", "hf:openai/gsm8k@1?split=test"),
    ],
)
def test_no_directory_of_this_machine_is_published(source: str, shown: str) -> None:
    assert cards.public_source(source) == shown


def test_options_that_do_nothing_are_refused(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in (["--format", "trl", "--push", "a/b"], ["--format", "hf", "--iteration", "0"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["export", str(run_dir), *options])
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("error: --")
