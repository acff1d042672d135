"""One prompt is the same tokens in rollouts and in training, whatever the chat template does."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.engines.reward_prompt import RewardPrompt
from sphere_ray.engines.tokens import end_ids, load_tokenizer, prompt_ids, text_ids, text_of
from sphere_ray.engines.vllm_engine import AsyncLLM
from sphere_ray.engines.vllm_generator import VllmGenerator
from sphere_ray.errors import ModelError
from sphere_ray.method.ports import GenerateRequest
from sphere_ray.records import Message, StopReason
from sphere_ray.training.encoding import PairEncoder
from tests.engines.chat_models import FAMILIES, write_model
from tests.training.pairs import make_pairs

ASKED = (Message(role="system", content="Think."), Message(role="user", content=" 2+2? "))
SHOWN = (
    *ASKED,
    Message(role="assistant", content="4"),
    Message(role="user", content="3+3?"),
)
PAIR = make_pairs(1)[0]

each_family = pytest.mark.parametrize("family", FAMILIES)


def asked(question: str) -> tuple[Message, ...]:
    return (ASKED[0], Message(role="user", content=question))


class Llm:
    """Stands where vLLM does: keeps what it is asked, and answers with given ids."""

    def __init__(self, answer: tuple[int, ...], stop_reason: Any) -> None:
        self.model_config = SimpleNamespace(get_vocab_size=lambda: 1000)
        self.prompt: list[int] = []
        self.params: Any = None
        self._sample = SimpleNamespace(
            index=0,
            token_ids=answer,
            cumulative_logprob=-1.0,
            finish_reason="stop",
            stop_reason=stop_reason,
        )

    async def generate(self, prompt: Any, params: Any, *_: Any, **__: Any) -> AsyncIterator[Any]:
        self.prompt, self.params = prompt["prompt_token_ids"], params
        yield SimpleNamespace(outputs=[self._sample])


async def generate(path: str, monkeypatch: pytest.MonkeyPatch, llm: Llm) -> Any:
    """What the engine of rollouts makes of `ASKED`, with vLLM replaced."""
    monkeypatch.setattr(AsyncLLM, "from_engine_args", lambda *_, **__: llm)
    spec = EngineSpec(
        kind="vllm_generator",
        name="policy",
        path=path,
        model=ModelSettings(path=path, max_model_len=4096),
        pool=PoolSettings(kv_cache_gib=1),
    )
    engine = VllmGenerator(spec)
    await engine.start()
    request = GenerateRequest(
        problem_id="p", messages=ASKED, n=1, temperature=1.0, max_tokens=8, seed=0
    )
    (candidate,) = await engine.generate(request)
    return candidate


@each_family
async def test_rollouts_and_training_ask_with_the_same_tokens_on_every_day(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(family, tmp_path)
    tokenizer = load_tokenizer(path)
    llm = Llm((40,), None)
    await generate(path, monkeypatch, llm)
    assert tokenizer.decode(llm.prompt) == FAMILIES[family].prompt

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Later":
            return cls(2031, 1, 2, tzinfo=tz)

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    encoded = PairEncoder(path).encode(replace(PAIR, prompt=ASKED))
    assert list(encoded.prompt_ids) == llm.prompt


@each_family
async def test_a_chain_that_the_template_would_end_so_has_ended_by_itself(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(family, tmp_path)
    tokenizer = load_tokenizer(path)
    end = tokenizer.convert_tokens_to_ids(FAMILIES[family].end_of_turn)
    assert end_ids(tokenizer, path)[0] == end
    for told in (end, None):  # vLLM names a token it was given, and not one of its own
        llm = Llm((*text_ids(tokenizer, "4."), end), told)
        candidate = await generate(path, monkeypatch, llm)
        assert end in llm.params.stop_token_ids
        assert candidate.stop_reason is StopReason.END
        assert candidate.text == "4."
    closed = PairEncoder(path).encode(replace(PAIR, chosen="4.", chosen_ids=()))
    assert closed.chosen_ids == candidate.token_ids


@each_family
def test_every_known_end_ends_an_answer(family: str, tmp_path: Path) -> None:
    path = write_model(family, tmp_path)
    tokenizer, known = load_tokenizer(path), FAMILIES[family]
    expected = {known.end_of_turn, known.eos, *known.known_ends}
    assert set(tokenizer.convert_ids_to_tokens(end_ids(tokenizer, path))) == expected
    (tmp_path / "generation_config.json").unlink()
    assert set(end_ids(tokenizer, path)) >= set(
        tokenizer.convert_tokens_to_ids([known.end_of_turn, known.eos])
    )


@each_family
def test_the_text_of_a_control_token_stays_text(family: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_model(family, tmp_path))
    plain = prompt_ids(tokenizer, asked("Is x a word?"))
    special = {tokenizer.convert_tokens_to_ids(each) for each in FAMILIES[family].specials}
    control = [token for token in plain if token in special]
    for text in FAMILIES[family].specials:
        for question in (f"Is {text} a word?", text * 2, f"{text}\n{FAMILIES[family].specials}"):
            ids = prompt_ids(tokenizer, asked(question))
            assert [token for token in ids if token in special] == control
            assert question in tokenizer.decode(ids)
        assert not special & set(text_ids(tokenizer, f"So {text} it is."))
        assert tokenizer.decode(text_ids(tokenizer, f"So {text} it is.")) == f"So {text} it is."


@each_family
def test_a_question_without_such_text_is_what_transformers_makes_of_it(
    family: str, tmp_path: Path
) -> None:
    tokenizer: Any = load_tokenizer(write_model(family, tmp_path))
    question = (Message(role="user", content="2+2?"),)
    turns = [{"role": "user", "content": "2+2?"}]
    expected = tokenizer.apply_chat_template(
        turns,
        add_generation_prompt=True,
        return_dict=False,
        date_string="26 Jul 2024",
    )
    assert list(prompt_ids(tokenizer, question)) == expected


@each_family
def test_worked_examples_are_written_too(family: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_model(family, tmp_path))
    text = tokenizer.decode(prompt_ids(tokenizer, SHOWN))
    places = [text.index(words) for words in ("2+2?", "4" + FAMILIES[family].end_of_turn, "3+3?")]
    assert places == sorted(places)
    assert text.count("Think.") == 1


@each_family
def test_a_reward_model_reads_question_and_steps(family: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_model(family, tmp_path))
    for system in ("Judge.", ""):
        prompt = RewardPrompt(tokenizer, system=system, step_tag=None)
        text = text_of(tokenizer, tuple(prompt.ids("2+2?", ["It is 4.", "So 4."])))
        assert text.endswith("It is 4.\nSo 4.\n")
        assert system in text
        assert "2+2?" in text


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{% if %}", "{{ messages + 1 }}", "{{ x.y.z }}"]
)
def test_a_template_that_cannot_be_used_is_one_sentence(template: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_model("qwen", tmp_path))
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="its chat template refuses the prompt") as caught:
        end_ids(tokenizer, str(tmp_path))
    assert "\n" not in str(caught.value)
