import pytest

from sphere_ray.trackers import feed


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a library takes longer to load than a run waits for it at its end."""
    monkeypatch.setattr(feed, "CLOSE_S", 300.0)
