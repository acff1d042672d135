"""Parameters of the method: prompts, search, stages and pair rules."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sphere_ray.config.base import Placement, Settings
from sphere_ray.records import StageName


class Example(Settings):
    """One worked example shown to the model before the question."""

    question: str
    response: str


class CorrectionExample(Example):
    """A worked correction: a question, a wrong attempt, and the response that corrects it."""

    attempt: str


class PromptSettings(Settings):
    """How a problem becomes chat messages; `{question}` and `{attempt}` are filled in.

    Both templates must hold the question, and `correction` the attempt. A correction is asked for
    after the `correction_examples`, and these come after the `examples`.
    """

    system: str | None = None
    question: str = "{question}"
    correction: str = (
        "{question}\n\nHere is an earlier attempt that is wrong:\n{attempt}\n\n"
        "Find the mistake, then solve the problem again from the start, step by step."
    )
    examples: tuple[Example, ...] = ()
    correction_examples: tuple[CorrectionExample, ...] = ()

    @model_validator(mode="after")
    def _templates_are_filled_in(self) -> "PromptSettings":
        for name, needed in (
            ("question", ("{question}",)),
            ("correction", ("{question}", "{attempt}")),
        ):
            missing = [each for each in needed if each not in getattr(self, name)]
            if missing:
                raise ValueError(f"{name} lacks {missing[0]}; put it where the text belongs")
        return self


class SearchSettings(Settings):
    """Step search (SPHERE stage 1): E candidates a step, the best and the worst are kept.

    `num_candidates` 5 and `temperature` 0.8 are the paper's, the limits are ours. Equal candidates
    are merged, and with `top_up` one more request asks for as many as were lost. A problem whose
    solutions were all right or all wrong in the last iteration gets `settled_candidates` in the
    first stage (null: as many as others). Only the `sampled` strategy uses `num_samples`. Lengths
    count tokens.
    """

    strategy: Literal["pruned_steps", "sampled"] = "pruned_steps"
    num_candidates: int = Field(5, ge=2)
    settled_candidates: int | None = Field(None, ge=2)
    top_up: bool = True
    num_samples: int = Field(8, ge=2)
    temperature: float = Field(0.8, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    boundary: str = Field("\n\n", min_length=1)
    max_depth: int = Field(16, ge=1)
    max_step_tokens: int = Field(512, ge=1)
    max_chain_tokens: int = Field(2048, ge=1)
    tie_tolerance: float = Field(0.02, ge=0, lt=1)

    @model_validator(mode="after")
    def _settled_problems_get_fewer(self) -> "SearchSettings":
        settled = self.settled_candidates
        if settled is not None and (self.strategy == "sampled" or settled > self.num_candidates):
            raise ValueError(
                f"settled_candidates ({settled}) has no effect with strategy: sampled, and is at "
                f"most num_candidates ({self.num_candidates}); lower it, or set it to null"
            )
        return self

    @model_validator(mode="after")
    def _a_step_fits(self) -> "SearchSettings":
        if self.max_step_tokens > self.max_chain_tokens:
            raise ValueError(
                f"max_step_tokens ({self.max_step_tokens}) is larger than max_chain_tokens "
                f"({self.max_chain_tokens}); lower the first or raise the second"
            )
        return self


class StageSettings(Settings):
    """Which stages run, and how the smaller sibling searches.

    `small_budget` multiplies the number of candidates (2E in the paper). `small_temperature`
    replaces the search temperature in stage 3. Of the problems with two wrong chains, a share of
    `correction_share` is corrected. An iteration corrects all of them where the iteration before
    repaired at least `min_repair_rate` of those it tried. Of the problems with two right chains, a
    share of `correction_check_share` is shown to the policy as if wrong, to measure how often it
    gives a right solution up.
    """

    self_correction: bool = True
    diversity: bool = True
    small_budget: int = Field(2, ge=1)
    small_temperature: float | None = Field(None, gt=0)
    correction_share: float = Field(1.0, gt=0, le=1)
    min_repair_rate: float = Field(0.1, gt=0, le=1)
    correction_check_share: float = Field(0.1, ge=0, le=1)

    def after(self, tried: int, repaired: int) -> "StageSettings":
        """The stages of an iteration, if the one before repaired so many of those it tried.

        This looks at whole iterations, so that no problem depends on the order of the others.
        """
        pays = tried > 0 and repaired >= self.min_repair_rate * tried
        return self.model_copy(update={"correction_share": 1.0}) if pays else self


class PairSettings(Settings):
    """Which pairs are made, and the gates on them. A pair that fails one is dropped and counted.

    `level` chooses whole chains, single steps with a shared prefix, or both. Of the `stages` only
    those named give pairs (null: all); the others run all the same. With
    `from_completions` the completions behind rollout values are solutions to pair, too. `rejected`
    says which wrong solution is preferred: the one with the `worst` reward, the one whose reward is
    nearest to `two_deviations` below the mean (arXiv 2502.16825), or the `likeliest` under the
    model that wrote it. `inversions` (Sol_max wrong, Sol_min right) are dropped, or swapped into
    pairs.

    A problem gives `max_per_problem` pairs, and a whole solution is in `max_uses` of them; those
    that no pair has yet come first. `max_tokens` bounds each side,
    `max_length_ratio` the tokens of the longer over the shorter side (0: no bound).
    `min_edit_distance` counts characters. `max_logprob_gap` is how far the mean log-prob per token
    of the rejected side may lie below that of the chosen one, in nats (null: no bound). With
    `sound_chosen` a chosen side has no false equation, and no step from which nothing reached the
    gold. `max_off_policy_share` caps the stage-3 pairs among all pairs of an iteration,
    `max_family_ratio` the pairs of a family over the mean of all families (null: no cap).
    A step-level pair needs a reward difference of `step_margin`, or of `step_errors` standard
    errors where rewards are estimated from completions.

    `audit` is the path of an audit.jsonl that `sphere audit` wrote (null: none). Pairs that people
    rejected are dropped, those that they accepted come first and are kept, and verdicts that they
    corrected replace the grader's, here and in the labels of a reward model.
    """

    level: Literal["chain", "step", "both"] = "chain"
    stages: tuple[StageName, ...] | None = Field(None, min_length=1)
    from_completions: bool = True
    rejected: Literal["worst", "two_deviations", "likeliest"] = "likeliest"
    inversions: Literal["drop", "swap"] = "swap"
    max_per_problem: int = Field(1, ge=1)
    max_uses: int = Field(1, ge=1)
    max_tokens: int = Field(2048, ge=1)
    min_edit_distance: int = Field(10, ge=0)
    max_length_ratio: float = Field(0.0, ge=0)
    max_logprob_gap: float | None = Field(0.75, gt=0)
    sound_chosen: bool = True
    max_off_policy_share: float = Field(0.3, ge=0, le=1)
    max_family_ratio: float | None = Field(None, ge=1)
    step_margin: float = Field(0.5, gt=0, le=1)
    step_errors: float = Field(2.0, gt=0)
    # The content of the file decides, not its path: it is an input of the steps.
    audit: Annotated[str | None, Placement] = Field(None, min_length=1)

    def keeps(self, stage: StageName) -> bool:
        """Whether a stage gives pairs."""
        return self.stages is None or stage in self.stages


class MethodSettings(Settings):
    """Everything `method/` reads."""

    prompts: PromptSettings = PromptSettings()
    search: SearchSettings = SearchSettings()
    stages: StageSettings = StageSettings()
    pairs: PairSettings = PairSettings()

    @model_validator(mode="after")
    def _what_is_set_has_an_effect(self) -> "MethodSettings":
        if self.stages.self_correction:
            return self
        given = [
            name
            for name, unused in (
                ("prompts.correction_examples", bool(self.prompts.correction_examples)),
                ("stages.correction_share", self.stages.correction_share < 1),
            )
            if unused
        ]
        if given:
            raise ValueError(
                f"method.{given[0]} has no effect without method.stages.self_correction; "
                "remove it, or set self_correction: true"
            )
        return self

    @model_validator(mode="after")
    def _stages_that_give_pairs_run(self) -> "MethodSettings":
        idle = [stage for stage in self.pairs.stages or () if stage not in self.taken_stages]
        if idle:
            taken = ", ".join(self.taken_stages)
            raise ValueError(
                f"method.pairs.stages names {idle[0]}, a stage that never runs with this "
                f"method.stages and method.search.strategy; name some of: {taken}"
            )
        return self

    def for_settled(self) -> "MethodSettings":
        """The same for a problem that was always right or always wrong in the last iteration."""
        number = self.search.settled_candidates or self.search.num_candidates
        search = self.search.model_copy(update={"num_candidates": number})
        return self.model_copy(update={"search": search})

    @property
    def taken_stages(self) -> tuple[StageName, ...]:
        """The stages that run, in their order.

        A field of `StageSettings` with the name of a stage switches it; any other stage always
        runs. Sampled chains end after the first.
        """
        if self.search.strategy == "sampled":
            return (StageName.SELF_GENERATION,)
        return tuple(stage for stage in StageName if getattr(self.stages, stage, True))
