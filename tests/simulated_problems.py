"""Problems that the simulated engines can solve."""

from hashlib import blake2b

from sphere_ray.records import Problem


def simulated_problem(number: int) -> Problem:
    """A sum of three terms; equal numbers give equal problems."""
    bits = int.from_bytes(blake2b(f"problem:{number}".encode(), digest_size=8).digest())
    terms = [10 + (bits >> shift) % 990 for shift in (0, 16, 32)]
    question = f"What is {' + '.join(map(str, terms))}?"
    return Problem(
        problem_id=blake2b(question.encode(), digest_size=16).hexdigest(),
        question=question,
        answer=str(sum(terms)),
        source="simulated",
    )
