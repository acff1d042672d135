"""Whether a library still is the version that was tested and still has the private names we use."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def doubts(
    distributions: Iterable[str], tested: str, private: Iterable[tuple[object, str]]
) -> list[str]:
    """Reasons not to rely on private names of a library; empty if there are none.

    `distributions` are the names the library is published under (the first installed one counts),
    `tested` is the version our code was tested with, and `private` lists (object, attribute name).
    """
    found = []
    installed = next((v for name in distributions if (v := _version(name)) is not None), None)
    if installed != tested:
        found.append(f"version {installed} is installed and {tested} was tested")
    for owner, name in private:
        if not hasattr(owner, name):
            found.append(f"{getattr(owner, '__name__', owner)} has no {name}")
    return found


def _version(distribution: str) -> str | None:
    try:
        return version(distribution).partition("+")[0]
    except PackageNotFoundError:
        return None
