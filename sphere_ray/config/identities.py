"""Which settings decide what a policy writes, for the identities of steps."""

from typing import Any

from sphere_ray.config.base import identity
from sphere_ray.config.run import RunSettings
from sphere_ray.provenance import module_hash


def generation_identity(settings: RunSettings) -> dict[str, Any]:
    """What decides any text that the policy writes, and how it is graded."""
    engines = settings.engines
    return identity(
        seed=settings.seed,
        prompts=question_prompts(settings),
        backend=engines.backend,
        simulated=engines.simulated if engines.backend == "simulated" else None,
        policy=engines.policy,
        policy_pool=engines.policy_pool,
        grading=settings.grading,
    )


def question_prompts(settings: RunSettings) -> dict[str, Any]:
    """The prompts that a question is asked with; that of a correction is not among them."""
    return settings.method.prompts.model_dump(exclude={"correction", "correction_examples"})


def verifier_input(settings: RunSettings) -> dict[str, str]:
    """The user's verifier by the hash of its file, if there is one."""
    verifier = settings.grading.verifier
    return {"verifier": module_hash(verifier)} if verifier else {}
