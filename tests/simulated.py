"""Problems for the simulated engines, which solve sums."""

from hashlib import blake2b

from sphere_ray.records import Problem


def simulated_problem(number: int) -> Problem:
    """A problem that the simulated engines can solve; equal numbers give equal problems."""
    bits = int.from_bytes(blake2b(f"problem:{number}".encode(), digest_size=8).digest())
    terms = [10 + (bits >> shift) % 990 for shift in (0, 16, 32)]
    question = f"What is {' + '.join(map(str, terms))}?"
    return Problem(
        problem_id=blake2b(question.encode(), digest_size=16).hexdigest(),
        question=question,
        answer=str(sum(terms)),
        source="simulated",
    )
