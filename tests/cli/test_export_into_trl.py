"""TRL itself tokenises an exported file, as its DPO trainer does before the first step."""

import json

import pytest
from datasets import load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from sphere_ray.commands.export import trl_row
from sphere_ray.records import Message, PreferencePair, StageName

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}:{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


@pytest.fixture
def tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "</s>"]
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokens = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        chat_template=TEMPLATE,
    )


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_trl_prepares_exported_pairs_without_loss(tmp_path, tokenizer):
    pair = PreferencePair(
        pair_id="1",
        problem_id="p",
        stage=StageName.SELF_GENERATION,
        prompt=(Message(role="user", content="2+2?"),),
        prefix="First.\n\n",
        chosen="It is 4.",
        rejected="It is 5.",
    )
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(trl_row(pair))}\n" * 2)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    model = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(model)
    trainer = DPOTrainer(
        model=str(model),
        args=DPOConfig(output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, report_to=[]),
        processing_class=tokenizer,
        train_dataset=load_dataset(
            "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
        ),
    )
    row = trainer.train_dataset[0]
    assert tokenizer.decode(row["prompt_ids"]) == "<s>user:2+2?</s><s>assistant:"
    assert tokenizer.decode(row["chosen_ids"]) == "First.\n\nIt is 4.</s>"
    assert tokenizer.decode(row["rejected_ids"]) == "First.\n\nIt is 5.</s>"
