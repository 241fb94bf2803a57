"""Command-line arguments as a user can type them, for messages that suggest one."""

import re
import shlex

_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*", re.ASCII)
_WORDS = frozenset({"null", "true", "false", "nan", "inf"})  # words that Hydra reads as values


def argument(key: str, *values: str, is_list: bool = False) -> str:
    """Return ``key=value``, quoted for the shell and for Hydra's grammar where needed.

    Args:
        key: key of the configuration, e.g. ``dataset.test_folder``.
        values: value of the key as text; several values make a list.
        is_list: whether to write a single value as a list, too.
    """
    parts = [quoted(value) for value in values]
    whole = f"[{','.join(parts)}]" if is_list or len(values) != 1 else parts[0]
    text = f"{key}={whole}"
    return text if parts == list(values) else shlex.quote(text)


def quoted(value: str) -> str:
    """Return a text quoted so that Hydra reads it as text, not as a number or a list."""
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)  # Hydra's rule: backslashes before a quote count
    tail = re.search(r"\\*$", escaped)
    return f'"{escaped}{tail[0] if tail else ""}"'
