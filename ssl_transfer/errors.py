"""Errors that mean more than a wrong value."""


class NotApplicable(ValueError):  # an answer rather than an error
    """A measurement makes no sense for this encoder or dataset; its cell is empty, not failed."""
