"""Settings of all tests, and the command line in this process."""

import os

import pytest
from hypothesis import settings

from sphere_ray import cli

# Ray runs its workers at a low priority; beside busy processes they would all but stand still.
os.environ.update(RAY_worker_niceness="0")
# A busy machine is no failure; pytest-timeout bounds a whole test.
settings.register_profile("sphere", deadline=None)
settings.load_profile("sphere")


@pytest.fixture
def sphere(capsys, monkeypatch):
    """Run the command line in this process: its exit code, standard output and error."""
    monkeypatch.setattr(cli, "catch_signals", lambda: None)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(list(arguments))
        told = capsys.readouterr()
        return exit_.value.code or 0, told.out, told.err

    return call
