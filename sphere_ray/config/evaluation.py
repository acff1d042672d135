"""Parameters of evaluation, and of the decision that follows it."""

from pydantic import Field

from sphere_ray.config.base import Settings


class EvaluationSettings(Settings):
    """Greedy pass@1 and, with `num_samples` above 0, mean@k; lengths count tokens."""

    num_samples: int = Field(0, ge=0)
    temperature: float = Field(0.8, gt=0)
    max_tokens: int = Field(2048, ge=1)


class PromotionSettings(Settings):
    """A new policy is promoted if validation is no worse than before by more than `tolerance`.

    `max_truncated_share` refuses a policy whose answers run away; after `patience` refusals in a
    row the run ends; each refusal halves the learning rate.
    """

    tolerance: float = Field(0.0, ge=0, le=1)
    max_truncated_share: float = Field(0.5, gt=0, le=1)
    patience: int = Field(2, ge=1)
