"""Parameters of the problem sources."""

from typing import Annotated

from pydantic import Field, model_validator

from sphere_ray.config.base import Placement, Settings


class SplitSettings(Settings):
    """Where one split of problems comes from.

    `source` is a URI: `file:PATH_OR_URL`, `hf:OWNER/NAME@REVISION?split=..&config=..`,
    `generated:arithmetic?..`, `generated:reasoning-gym/NAME?..`, `benchmark:NAME`, which is one of
    `sphere_ray/benchmarks/named.py`. The first two take
    `question=COLUMN,COLUMN`, `answer=COLUMN`, `choices=COLUMN` and `grade=letters` or `values`; a
    column may be a path such as `reward_model.ground_truth`. Secrets of a URL are never written.
    `limit` keeps the first so many valid problems (0 keeps all).
    """

    source: str
    limit: int = Field(0, ge=0)


class ProblemSettings(Settings):
    """The three splits; a problem of one split never appears in another.

    Training problems that say what a validation or test problem says, word for word over 13 words
    or with the same numbers in other words, are left out and listed in rejected/.
    A split with more rejected rows than `max_rejected_share` is refused.
    """

    train: SplitSettings
    validation: SplitSettings
    test: SplitSettings
    max_rejected_share: Annotated[float, Placement] = Field(0.2, ge=0, le=1)

    @model_validator(mode="after")
    def _splits_differ(self) -> "ProblemSettings":
        sources = [self.train.source, self.validation.source, self.test.source]
        if len(set(sources)) < len(sources):
            raise ValueError(
                "train, validation and test must name different sources; "
                "give each its own file, or its own split= in the URI"
            )
        return self
