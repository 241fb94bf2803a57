"""Errors that mean more than a wrong value."""


class NotApplicable(ValueError):  # an answer rather than an error
    """A measurement makes no sense for this encoder or dataset; its cell is empty, not failed."""


UserError = (ValueError, OSError)
"""Errors whose message is a sentence for the user; anything else is a bug and shows its trace."""


def last_line(error: Exception) -> str:
    """Return what an error other than a user's says, as a traceback ends with it."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
