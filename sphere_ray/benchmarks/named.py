"""Benchmarks by name: where each lies on the hub, and how it is asked.

Whatever the benchmark, answers are graded by the same rules as everywhere here. Minerva and
OlympiadBench are published with tolerances for rounded numbers too, which these rules do not have.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sphere_ray.config import RunSettings
from sphere_ray.config.method import PromptSettings
from sphere_ray.errors import ProblemSourceError

SCHEME = "benchmark:"
_REFERENCE = re.compile(r"(?P<name>[a-z0-9]+)(?:@(?P<revision>[\w.-]+))?", re.ASCII)
_SMALL = 32
"""Samples a problem where a set is so small that greedy answers say little (avg@32)."""
BOXED = PromptSettings(
    question="{question}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
)
"""The prompt where no other is configured: that of Qwen2.5-Math's published evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One named benchmark.

    `options` are those of an `hf:` or `file:` URI: the columns, where they do not have usual names.
    `num_problems` are in the whole set. Besides the greedy answer a problem gets `num_samples`
    samples. An answer has at most `max_tokens` tokens, and no more than the model has room for.
    """

    dataset: str
    revision: str
    split: str
    num_problems: int
    max_tokens: int
    num_samples: int = 0
    config: str | None = None
    options: str = ""

    def hub_uri(self, revision: str | None = None) -> str:
        """The `hf:` source of the set, at the known revision or another."""
        config = f"&config={self.config}" if self.config else ""
        options = f"&{self.options}" if self.options else ""
        found = f"hf:{self.dataset}@{revision or self.revision}"
        return f"{found}?split={self.split}{config}{options}"


BENCHMARKS = {
    "gsm8k": Benchmark(
        dataset="openai/gsm8k",
        revision="740312add88f781978c0658806c59bc2815b9866",
        config="main",
        split="test",
        num_problems=1319,
        max_tokens=2048,
    ),
    "math500": Benchmark(
        dataset="HuggingFaceH4/MATH-500",
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        split="test",
        num_problems=500,
        max_tokens=8192,
    ),
    "aime24": Benchmark(
        dataset="HuggingFaceH4/aime_2024",
        revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        split="train",
        num_problems=30,
        num_samples=_SMALL,
        max_tokens=16384,
    ),
    "aime25": Benchmark(
        dataset="math-ai/aime25",
        revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
        split="test",
        num_problems=30,
        num_samples=_SMALL,
        max_tokens=16384,
    ),
    "amc23": Benchmark(
        dataset="math-ai/amc23",
        revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
        split="test",
        num_problems=40,
        num_samples=_SMALL,
        max_tokens=8192,
    ),
    "olympiadbench": Benchmark(
        dataset="Hothan/OlympiadBench",
        revision="91184b52131e7fc9455fef848035173aea8cc01a",
        config="OE_TO_maths_en_COMP",
        split="train",
        num_problems=674,
        max_tokens=8192,
        options="question=context,question&answer=final_answer",
    ),
    "minerva": Benchmark(
        dataset="math-ai/minervamath",
        revision="ee46ddc498933b1977577953250ca5c66be64f96",
        split="test",
        num_problems=272,
        max_tokens=8192,
    ),
    "svamp": Benchmark(
        dataset="ChilleD/SVAMP",
        revision="5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
        split="test",
        num_problems=300,
        max_tokens=2048,
        options="question=Body,Question&answer=Answer",
    ),
}
"""Revisions are commits that several public projects pin; `num_problems` are of those."""


def find(reference: str) -> tuple[str, Benchmark, str | None]:
    """The name, the benchmark and the revision (if one is named) behind `NAME[@REVISION]`.

    Raises:
        ProblemSourceError: there is none of this name.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None or match["name"] not in BENCHMARKS:
        raise ProblemSourceError(
            f"{reference!r} is no benchmark; name one of {', '.join(BENCHMARKS)}, with @REVISION "
            "behind it to read another commit of the hub"
        )
    return match["name"], BENCHMARKS[match["name"]], match["revision"]


def names_of(references: Sequence[str]) -> dict[str, str]:
    """The reference of each benchmark by its name.

    Raises:
        ProblemSourceError: a name is unknown, or there twice.
    """
    found: dict[str, str] = {}
    for reference in references:
        name, _, _ = find(reference)
        if name in found:
            raise ProblemSourceError(f"the benchmark {name} is named twice; name it once")
        found[name] = reference
    return found


def asked(
    settings: RunSettings, name: str, samples: int | None = None, max_tokens: int | None = None
) -> RunSettings:
    """The settings to ask a benchmark with: its samples, its limit, and a prompt.

    `samples` and `max_tokens` replace its own. Otherwise these are at least those of `evaluation`.
    """
    benchmark, evaluation = BENCHMARKS[name], settings.evaluation
    if samples is None:
        samples = max(benchmark.num_samples, evaluation.num_samples)
    if max_tokens is None:
        max_tokens = max(benchmark.max_tokens, evaluation.max_tokens)
    changes = {"num_samples": samples, "max_tokens": max_tokens}
    method = settings.method
    if method.prompts == PromptSettings():
        method = method.model_copy(update={"prompts": BOXED})
    return settings.model_copy(
        update={"evaluation": evaluation.model_copy(update=changes), "method": method}
    )
