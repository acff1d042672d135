"""The base of every parameter class: frozen, and unknown keys are errors."""

from pydantic import BaseModel, ConfigDict


class Placement:
    """Marks a field that says where or how fast a run works, and changes no result of it.

    Write `Annotated[int, Placement]`; such fields stay out of a step's identity.
    """


class Settings(BaseModel):
    """A frozen group of parameters; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
