"""Log-probs of given token ids under a model in vLLM; a process of its own, as vLLM wants it."""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams

GIB = 1 << 30


def _main(model_dir: str, dtype: str, ids_file: str, output_file: str) -> None:
    engine = LLM(
        model=model_dir,
        dtype=dtype,  # its own choice for float32 weights is bfloat16
        max_model_len=512,
        enforce_eager=True,
        block_size=32,
        kv_cache_memory_bytes=GIB // 8,
    )
    rows = json.loads(Path(ids_file).read_text())
    outputs = engine.generate(
        [{"prompt_token_ids": ids} for ids in rows],
        SamplingParams(max_tokens=1, prompt_logprobs=0),
    )
    logps = [
        [
            position[token].logprob
            for position, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)
        ]
        for output, ids in zip(outputs, rows, strict=True)
    ]
    Path(output_file).write_text(json.dumps(logps))


if __name__ == "__main__":
    _main(*sys.argv[1:])
