"""How models behave on problems: lengths, steps, outcomes, pairs. Assumed, or counted in a run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs

from sphere_ray.config.run import RunSettings
from sphere_ray.errors import ConfigError

CHARS_PER_TOKEN = 3
KNOWN_SIZES: Mapping[str, int] = {
    "HuggingFaceH4/MATH-500": 500,
    "DigitalLearningGmbH/MATH-lighteval": 5000,
    "openai/gsm8k": 1319,
    "gsm8k": 1319,
    "math500": 500,
}
"""Problems of test sets, as their cards on the hub say."""
_COUNT = re.compile(r"(?:file|hf|benchmark):(?P<name>[^@?#]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What the sums of work rest on; every figure is a mean.

    `shared` are the tokens of a prompt that all problems share, `question` the others; `answer`
    is the length of a chain in tokens, `steps` in steps. `both_wrong` and `both_right` are shares
    of the problems after self-generation. `pairs` are those of a problem after all gates.
    `words` say in a sentence where each is from.
    """

    shared: float
    question: float
    answer: float
    steps: float
    both_wrong: float
    both_right: float
    pairs: float
    words: Mapping[str, str] = field(default_factory=dict)

    @property
    def prompt(self) -> float:
        """Tokens of a whole prompt."""
        return self.shared + self.question

    def counted(self, origin: str, **found: float | None) -> "Habits":
        """The same with what a run counted; what it did not (None) stays."""
        known = {name: value for name, value in found.items() if value is not None}
        told = {name: f"{name} {value:.3g}, counted in {origin}" for name, value in known.items()}
        return replace(self, **known, words={**self.words, **told})


def assumed(settings: RunSettings) -> Habits:
    """What is assumed where no run has counted it."""
    search, prompts = settings.method.search, settings.method.prompts
    texts = [prompts.system or "", prompts.question.replace("{question}", "")]
    texts += [each.question + each.response for each in prompts.examples]
    shared = sum(map(len, texts)) / CHARS_PER_TOKEN
    answer = 0.25 * search.max_chain_tokens
    steps = 1.0 if search.strategy == "sampled" else max(0.4 * search.max_depth, 1.0)
    pairs = 0.4 * settings.method.pairs.max_per_problem
    question = 40.0 if settings.problems.train.source.startswith("generated:") else 100.0
    return Habits(
        shared=shared,
        question=question,
        answer=answer,
        steps=steps,
        both_wrong=1 / 3,
        both_right=1 / 3,
        pairs=pairs,
        words={
            "shared": f"prompts share {shared:.0f} tokens (their text, 3 characters each)",
            "question": f"a question has {question:.0f} tokens (generated ones 40, others 100)",
            "answer": f"a chain has {answer:.0f} tokens (a quarter of method.search."
            "max_chain_tokens), an answer in an evaluation a quarter of its limit",
            "steps": f"a chain has {steps:.1f} steps (0.4 of method.search.max_depth)",
            "both_wrong": "of a third of the problems both chains are wrong",
            "both_right": "of a third of the problems both chains are right",
            "pairs": f"a problem gives {pairs:.1f} pairs (0.4 of method.pairs.max_per_problem)",
        },
    )


def split_size(settings: RunSettings, split: str) -> int:
    """How many problems a split has, without reading it.

    Raises:
        ConfigError: its source does not say, and no limit does.
    """
    chosen = getattr(settings.problems, split)
    if chosen.limit:
        return int(chosen.limit)
    counts = parse_qs(chosen.source.partition("?")[2]).get("count")
    if counts and counts[0].isdecimal():
        return int(counts[0])
    named = _COUNT.match(chosen.source)
    if named is not None and named["name"] in KNOWN_SIZES:
        return KNOWN_SIZES[named["name"]]
    raise ConfigError(
        f"nothing says how many problems.{split} there are, and planning reads no source; give "
        f"--set problems.{split}.limit=NUMBER"
    )
