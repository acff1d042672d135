"""The cards of an exported model and of its pairs, for the Hugging Face hub.

Every number comes from summary.json.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from huggingface_hub import try_to_load_from_cache as cached

from sphere_ray import __version__
from sphere_ray.config import RunSettings
from sphere_ray.config.base import dump
from sphere_ray.reporting.summary import HeldOutSummary, RunSummary, Score

KNOWN_BASES = {
    "embedded:smollm2-135m-instruct": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
}
"""Names and licenses of models that are made here."""
UNKNOWN = "unknown"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LOCAL = re.compile(r"^file:(?!\w+://)[^?#]*/")
_METHOD = (
    "[SPHERE](https://arxiv.org/abs/2503.04813): the model solved the problems step by step, a "
    "reward source judged the steps, and right and wrong solutions became pairs for DPO "
    f"(sphere_ray {__version__})."
)


def base_of(settings: RunSettings) -> tuple[str | None, str]:
    """The name of the base model on the hub (None: it has none) and its license.

    The license is the one that the model's own card states, `unknown` without a card.
    """
    path = settings.engines.policy.path
    if path in KNOWN_BASES:
        return KNOWN_BASES[path]
    here = Path(path).expanduser()
    named = not here.exists() and _HUB_NAME.fullmatch(path) is not None
    revision = settings.engines.policy.revision
    card: Any = cached(path, "README.md", revision=revision) if named else here / "README.md"
    stated = None
    if isinstance(card, str | Path) and Path(card).is_file():
        stated = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    return path if named else None, str(stated or UNKNOWN)


def model_card(
    settings: RunSettings, summary: RunSummary, dataset: str | None, name: str
) -> ModelCard:
    """The card of the final model; `dataset` is the name of its pairs on the hub, if they have one.

    `name` is the model's own on the hub, or else the run's.
    """
    base, license_id = base_of(settings)
    data = ModelCardData(
        base_model=base,
        datasets=None if dataset is None else [dataset],
        eval_results=_results(settings, summary["test"]),
        language="en",
        library_name="transformers",
        license=license_id,
        model_name=name,
        pipeline_tag="text-generation",
        tags=["dpo", "math", "sphere"],
    )
    text = f"""---
{data.to_yaml()}
---

# {name}

{_shown_base(settings)}, trained to solve mathematical problems by its own solutions. {_METHOD}

## Figures

Greedy answers to {summary["test"]["n"]} test problems, which decided nothing; pass@1 in % with
95% bootstrap intervals: {summary["test"]["conclusion"]}.

{_figures(summary["test"])}

## Data

{_sources(settings)}
{_pairs(summary)}

## Training

{_training(settings, summary)}

## Limits

- The figures are those of one run with one seed ({settings.seed}); other seeds give others.
- The test problems are of the kinds named above. Nothing was measured on other tasks, and nothing
  about safety.
- A solution may end in the right answer by wrong steps; the pairs were selected by answers and
  step rewards, not by people.
- {_license_limit(license_id)}
"""
    return ModelCard(text)


def dataset_card(settings: RunSettings, summary: RunSummary, name: str) -> DatasetCard:
    """The card of the pairs."""
    data = DatasetCardData(
        configs=[{"config_name": "default", "data_files": "data/*.parquet"}],
        language="en",
        license=UNKNOWN,
        pretty_name=name,
        tags=["dpo", "math", "preference", "sphere"],
        task_categories=["text-generation"],
    )
    text = f"""---
{data.to_yaml()}
---

# {name}

Preference pairs that {_shown_base(settings)} made of its own solutions. {_METHOD}

`prompt`, `chosen` and `rejected` are conversations, as TRL takes them. The other columns say where
a pair comes from: `iteration` and `stage` made it, `problem_id` with `question`, `answer` and
`source` is its problem, `chosen_chain` and `rejected_chain` are the chains in the run's rollouts,
and `chosen_reward` and `rejected_reward` the smallest step rewards of these.

{_sources(settings)}
{_pairs(summary)}

The license of the problems is that of their source, and of the texts what the license of the model
says about its output; neither is recorded here.
"""
    return DatasetCard(text)


def public_source(source: str) -> str:
    """A problem source without the directories of this machine."""
    return _LOCAL.sub("file:", source)


def _shown_base(settings: RunSettings) -> str:
    """The base model as text: no directory of this machine, and whether its weights are whole."""
    path, (name, _) = settings.engines.policy.path, base_of(settings)
    shown = f"`{name or path.rstrip('/').rpartition('/')[2]}`"
    return f"{shown} (4-bit weights, de-quantised)" if path in KNOWN_BASES else shown


def _results(settings: RunSettings, test: HeldOutSummary) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="custom",
            dataset_name=public_source(dump(settings.problems)["test"]["source"]),
            metric_type="pass@1",
            metric_name="pass@1, greedy",
            metric_value=round(100 * test["final"]["pass@1"], 1),
        )
    ]


def _figures(test: HeldOutSummary) -> str:
    lines = ["| model | pass@1 | interval |", "|---|---|---|"]
    lines += [f"| base | {_score(test['base'])}", f"| this | {_score(test['final'])}"]
    low, high = test["difference_ci95"]
    p = f"p = {test['p_value']:.2g}"
    change = f"{100 * test['difference']:+.1f} | {100 * low:+.1f} to {100 * high:+.1f}, {p}"
    return "\n".join([*lines, f"| change, paired by problem | {change} |"])


def _score(score: Score) -> str:
    low, high = score["ci95"]
    return f"{100 * score['pass@1']:.1f} | {100 * low:.1f} to {100 * high:.1f} |"


def _sources(settings: RunSettings) -> str:
    splits = dump(settings.problems)
    names = ("train", "validation", "test")
    sources = {name: public_source(splits[name]["source"]) for name in names}
    return "\n".join(f"- {name} problems: `{source}`" for name, source in sources.items())


def _pairs(summary: RunSummary) -> str:
    lines = []
    for each in summary["iterations"]:
        pairs = each["pairs"]
        refused = _counts(pairs["dropped"]) or "none"
        lines.append(
            f"- iteration {each['iteration']}: {pairs['total']} pairs of "
            f"{each['rollout']['problems']} problems ({_counts(pairs['by_stage'])}); steps judged "
            f"by `{each['reward']['source']}`; refused by gates: {refused}"
        )
    return "\n".join(lines)


def _training(settings: RunSettings, summary: RunSummary) -> str:
    training = settings.training
    lines = [
        f"DPO with DeepSpeed: loss `{training.loss.kind}`, beta {training.loss.beta:g}, NLL weight "
        f"{training.loss.nll_weight:g}, learning rate {training.learning_rate:g}, batch "
        f"{training.batch_size}, {training.epochs} epochs, precision {training.precision}."
    ]
    for each in summary["iterations"]:
        made = each["training"]
        if made is not None:
            ending = "promoted" if each["promoted"] else "refused"
            lines.append(
                f"Iteration {each['iteration']} ({ending}): {made['steps']} steps, loss "
                f"{made['loss_first']:.3f} to {made['loss_last']:.3f}."
            )
    return "\n".join(lines)


def _license_limit(license_id: str) -> str:
    if license_id == UNKNOWN:
        return "The license of the base model is not recorded; it binds this model, too."
    return f"The base model's license ({license_id}) binds this model, too."


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)
