import json
from dataclasses import replace
from pathlib import Path

import pytest

from sphere_ray.engines.tokens import load_tokenizer, prompt_ids
from sphere_ray.errors import ModelError
from sphere_ray.models.tiny import make_llama
from sphere_ray.records import Message
from sphere_ray.training.encoding import PairEncoder, encode_pairs
from tests.training.pairs import make_pairs

END_OF_TURN, END_OF_TEXT = 2, 0
PAIR = make_pairs(1)[0]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> PairEncoder:
    directory: Path = tmp_path_factory.mktemp("tiny")
    make_llama(directory)
    return PairEncoder(str(directory))


def test_a_whole_chain_ends_with_end_of_sequence(encoder: PairEncoder) -> None:
    encoded = encoder.encode(PAIR)
    assert encoded.chosen_ids[-1] == encoded.rejected_ids[-1] == END_OF_TURN
    assert END_OF_TURN not in encoded.chosen_ids[:-1]


@pytest.mark.parametrize("end", [END_OF_TURN, END_OF_TEXT])
def test_the_engines_own_ids_are_taken_as_they_are(encoder: PairEncoder, end: int) -> None:
    encoded = encoder.encode(replace(PAIR, chosen_ids=(40, 41, end), rejected_ids=(50, 51)))
    assert encoded.chosen_ids == (40, 41, end)
    assert encoded.rejected_ids == (50, 51)  # a first step must not learn to be the last


def test_a_step_gets_no_end_and_its_prefix_belongs_to_the_prompt(encoder: PairEncoder) -> None:
    whole = encoder.encode(PAIR)
    step = encoder.encode(replace(PAIR, prefix="Step 1", prefix_ids=(60, 61), chosen_ids=(40,)))
    assert step.prompt_ids == (*whole.prompt_ids, 60, 61)
    assert step.chosen_ids == (40,)
    assert step.rejected_ids == whole.rejected_ids[:-1]  # text behind a prefix is a step too


def test_the_prompt_is_the_chat_template_up_to_the_answer(encoder: PairEncoder) -> None:
    tokenizer = encoder._tokenizer
    text = tokenizer.decode(encoder.encode(PAIR).prompt_ids)
    expected = f"<|im_start|>user\n{PAIR.prompt[0].content}<|im_end|>\n<|im_start|>assistant\n"
    assert text == expected


def test_unusable_pairs_are_dropped_by_reason(encoder: PairEncoder) -> None:
    pairs = [
        PAIR,
        replace(PAIR, chosen="", rejected="x"),
        replace(PAIR, chosen_ids=(40, END_OF_TURN), rejected_ids=(40, END_OF_TURN)),
        replace(PAIR, rejected="so 42 " * 200),
    ]
    kept, dropped = encode_pairs(pairs, encoder, max_length=200)
    assert [pair.pair_id for pair in kept] == [PAIR.pair_id]
    assert dropped == {"empty": 1, "identical": 1, "too_long": 1}


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tokenizer cannot be loaded") as raised:
        PairEncoder(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_whole_text_ends_as_the_chat_template_ends_a_turn(tmp_path: Path) -> None:
    """Gemma's turns end with a token that is not the tokenizer's end of sequence."""
    make_llama(tmp_path)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (file := tmp_path / name).is_file():
            document = json.loads(file.read_text())
            document["eos_token"] = "<|endoftext|>"
            file.write_text(json.dumps(document))
    assert PairEncoder(str(tmp_path))._tokenizer.eos_token_id == END_OF_TEXT
    assert PairEncoder(str(tmp_path)).encode(PAIR).chosen_ids[-1] == END_OF_TURN


def test_a_template_that_refuses_the_messages_is_one_sentence(tmp_path: Path) -> None:
    make_llama(tmp_path)
    refusal = "{{ raise_exception('System role not supported') }}"
    tokenizer = load_tokenizer(str(tmp_path))
    tokenizer.chat_template = refusal
    asked = (Message(role="system", content="s"), Message(role="user", content="u"))
    with pytest.raises(ModelError, match=r"System role not supported; change method\.prompts"):
        prompt_ids(tokenizer, asked)
