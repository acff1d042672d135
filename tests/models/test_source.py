import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sphere_ray.config.models import ModelSettings
from sphere_ray.errors import ModelError
from sphere_ray.models.source import (
    FINGERPRINT_FILE,
    MADE,
    REMEMBERED,
    model_fingerprint,
    models_dir,
    require_dense,
    resolve_model,
)

TINY = [name for name in MADE if name.startswith("tiny:")]


def resolve(path: object, cache: Path | None = None) -> str:
    return resolve_model(ModelSettings(path=str(path)), cache)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The least that passes for a model directory."""
    made = tmp_path / "model"
    made.mkdir()
    for name, content in {
        "config.json": "{}",
        "tokenizer.json": "{}",
        "model.safetensors": "weights",
    }.items():
        (made / name).write_text(content)
    return made


def test_a_whole_directory_is_returned_as_absolute_path(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)
    assert resolve("./model") == str(directory.resolve())
    assert resolve("model") == str(directory.resolve())


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "lacks its weights"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_an_incomplete_directory_is_refused(directory: Path, missing: str, said: str) -> None:
    (directory / missing).unlink()
    with pytest.raises(ModelError, match=said) as caught:
        resolve(directory)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors"):
        resolve(directory)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": [1]}', "\udc80", "[" * 99_999])
def test_a_damaged_index_of_shards_is_one_sentence(directory: Path, text: str) -> None:
    (directory / "model.safetensors").unlink()
    index = directory / "model.safetensors.index.json"
    index.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelError, match="no index of the shards") as caught:
        resolve(directory)
    assert str(index) in str(caught.value)


def test_a_broken_configuration_is_refused(directory: Path) -> None:
    (directory / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        resolve(directory)


@pytest.mark.parametrize("path", ["/no/such/model", "./no-such-model", "~/no/such/model"])
def test_a_missing_directory_is_never_taken_for_a_hub_name(path: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        resolve(path)


@pytest.mark.parametrize("path", ["tiny:gpt", "embedded:smollm", "a/b/c", "s3://bucket/model"])
def test_an_unknown_name_is_answered_with_the_known_ones(path: str) -> None:
    with pytest.raises(ModelError, match="tiny:llama"):
        resolve(path)


@pytest.mark.parametrize("name", ["models--owner--model", "my--model", "owner/a..b"])
def test_a_name_that_the_hub_does_not_allow_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=name):
        resolve(name)


def test_a_hub_model_is_the_directory_in_the_shared_cache(
    monkeypatch: pytest.MonkeyPatch, directory: Path, tmp_path: Path
) -> None:
    cached = tmp_path / "hub" / "models--owner--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    shutil.copytree(directory, cached / "snapshots" / "abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Path(resolve("owner/model")).samefile(cached / "snapshots" / "abc")
    with pytest.raises(ModelError, match="model owner/other at main is neither"):
        resolve("owner/other")


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPHERE_MODELS", str(tmp_path / "models"))
    assert models_dir() == tmp_path / "models"
    monkeypatch.delenv("SPHERE_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert models_dir().is_relative_to(tmp_path / "cache")


def test_fingerprints_follow_content(directory: Path) -> None:
    first = model_fingerprint(str(directory))
    (directory / "README.md").write_text("about it")
    assert model_fingerprint(str(directory)) == first
    (directory / "model.safetensors").write_text("weightz")
    assert model_fingerprint(str(directory)) != first


def aged(directory: Path, seconds: float = 60) -> None:
    """As if the files had been written a while ago."""
    for file in directory.iterdir():
        before = file.stat()
        os.utime(file, (before.st_atime - seconds, before.st_mtime - seconds))


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed from now on."""
    names: list[str] = []
    digest = hashlib.file_digest

    def counted(file: Any, kind: str) -> Any:
        names.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return names


def test_an_unchanged_directory_is_hashed_once(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPHERE_MODELS", str(tmp_path / "models"))
    aged(directory)
    names = hashed(monkeypatch)
    first = model_fingerprint(str(directory))
    assert len(names) == 3
    assert model_fingerprint(str(directory)) == first
    assert len(names) == 3
    weights = directory / "model.safetensors"
    weights.write_text("weightz")  # of the same size
    aged(directory, 30)
    assert model_fingerprint(str(directory)) != first
    weights.unlink()
    assert model_fingerprint(str(directory)) != first


def test_a_directory_that_was_just_written_is_not_taken_for_settled(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPHERE_MODELS", str(tmp_path / "models"))
    names = hashed(monkeypatch)
    assert model_fingerprint(str(directory)) == model_fingerprint(str(directory))
    assert len(names) == 6


@pytest.mark.parametrize("content", ["{", ""])
def test_a_damaged_memory_of_fingerprints_is_made_anew(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("SPHERE_MODELS", str(tmp_path))
    aged(directory)
    first = model_fingerprint(str(directory))
    (tmp_path / REMEMBERED).write_text(content)
    assert model_fingerprint(str(directory)) == first
    names = hashed(monkeypatch)
    assert model_fingerprint(str(directory)) == first
    assert names == []


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_are_the_same_in_every_process(name: str, tmp_path: Path) -> None:
    here = resolve(name, tmp_path / "here")
    program = (
        "import sys; from pathlib import Path; "
        "from sphere_ray.config.models import ModelSettings; "
        "from sphere_ray.models.source import resolve_model; "
        "resolve_model(ModelSettings(path=sys.argv[1]), Path(sys.argv[2]))"
    )
    there = tmp_path / "there"
    subprocess.run([sys.executable, "-c", program, name, str(there)], check=True)
    (copy,) = there.iterdir()
    assert digest(copy) == digest(Path(here))


def digest(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.blake2b(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


def test_a_made_model_is_not_made_again(tmp_path: Path) -> None:
    path = Path(resolve("tiny:llama", tmp_path))
    before = path.stat().st_ctime_ns, (path / "model.safetensors").stat().st_mtime_ns
    assert resolve("tiny:llama", tmp_path) == str(path)
    assert (path.stat().st_ctime_ns, (path / "model.safetensors").stat().st_mtime_ns) == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_damaged_made_model_is_refused(tmp_path: Path) -> None:
    path = Path(resolve("tiny:llama", tmp_path))
    assert (path / FINGERPRINT_FILE).read_text() == model_fingerprint(str(path))
    (path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="damaged; remove it"):
        resolve("tiny:llama", tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    cache = tmp_path_factory.mktemp("models")
    return lambda name: resolve(name, cache)


@pytest.mark.parametrize("name", ["tiny:llama", "tiny:qwen2"])
def test_tiny_models_load_and_prefer_some_tokens(name: str, tiny: Callable[[str], str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny(name))
    tokenizer = AutoTokenizer.from_pretrained(tiny(name))
    turns = [{"role": "user", "content": "What is 3 x 5?\n\nAnswer: 15\u00a3"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(text, return_tensors="pt")
    assert tokenizer.decode(ids[0]) == text
    assert text.endswith("<|im_start|>assistant\n")
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    # Every id the model can emit is one its tokenizer can spell.
    assert len(logits) == len(tokenizer)
    assert logits.std() > 0.3
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id


def test_the_tiny_reward_model_has_step_tags_and_ids_of_its_own(tiny: Callable[[str], str]) -> None:
    directory = Path(tiny("tiny:qwen2-prm"))
    reward = AutoTokenizer.from_pretrained(directory)
    policy = AutoTokenizer.from_pretrained(tiny("tiny:qwen2"))
    tag = reward.convert_tokens_to_ids("<extra_0>")
    assert reward.encode("one<extra_0>two<extra_0>").count(tag) == 2
    assert reward.encode("one") != policy.encode("one")
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForProcessRewardModel"]
    weights = load_file(directory / "model.safetensors")
    assert weights["score.2.weight"].shape == (2, config["hidden_size"])
    assert config["hidden_size"] // config["num_attention_heads"] >= 32


@pytest.mark.slow
def test_the_embedded_model_answers(tmp_path: Path) -> None:
    path = resolve("embedded:smollm2-135m-instruct", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(output)
    assert output[-1] in model.generation_config.eos_token_id


def test_a_mixture_of_experts_is_no_model_to_train(directory: Path) -> None:
    require_dense(str(directory))
    (directory / "config.json").write_text(json.dumps({"num_experts": 64, "hidden_size": 8}))
    with pytest.raises(ModelError, match=r"mixture of experts \(num_experts: 64\).*dense"):
        require_dense(str(directory))
    (directory / "config.json").write_text(json.dumps({"num_experts": 0}))
    require_dense(str(directory))
