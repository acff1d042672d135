"""Seeds derived from identity (run, iteration, problem, stage, branch, depth), never from order."""

from hashlib import blake2b


def derive_seed(*parts: str | int) -> int:
    """Return a 63-bit seed that depends on the parts, their types and their order alone."""
    digest = blake2b(digest_size=8)
    for part in parts:
        content = f"{'i' if isinstance(part, int) else 's'}{part}".encode()
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(len(content).to_bytes(8) + content)
    return int.from_bytes(digest.digest()) >> 1


def falls_within(share: float, *parts: str | int) -> bool:
    """Select a `share` of all identities: the same identity always gets the same answer."""
    return derive_seed(*parts) < int(share * 2**63)
