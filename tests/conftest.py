"""Settings of all tests."""

import os

from hypothesis import settings

# Ray runs its workers at a low priority; beside busy processes they would all but stand still.
os.environ.update(RAY_worker_niceness="0")
# A busy machine is no failure; pytest-timeout bounds a whole test.
settings.register_profile("sphere", deadline=None)
settings.load_profile("sphere")
