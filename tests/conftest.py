"""Settings of all tests."""

from hypothesis import settings

# A busy machine is no failure; pytest-timeout bounds a whole test.
settings.register_profile("sphere", deadline=None)
settings.load_profile("sphere")
