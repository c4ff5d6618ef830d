"""What all tests share."""

from hypothesis import settings

# A property is true or false; how long an example takes on a busy machine says nothing about it.
settings.register_profile("capsnb", deadline=None)
settings.load_profile("capsnb")
