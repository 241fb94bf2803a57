"""Arguments of the command line as a user can type them, for messages that say what to set."""

import re
import shlex

_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*", re.ASCII)
_WORDS = frozenset({"null", "true", "false", "nan", "inf"})  # words that Hydra takes for values


def argument(key: str, *values: str, is_list: bool = False) -> str:
    """Return ``key=value``, quoted for the shell and for Hydra's grammar where that is needed.

    Args:
        key: of the configuration, e.g. ``dataset.test_folder``.
        values: the text that the key is to get; several make a list.
        is_list: whether one value makes a list, too.
    """
    parts = [quoted(value) for value in values]
    whole = f"[{','.join(parts)}]" if is_list or len(values) != 1 else parts[0]
    text = f"{key}={whole}"
    return text if parts == list(values) else shlex.quote(text)


def quoted(value: str) -> str:
    """Return a text that Hydra reads as that text, not as a number or a list."""
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)  # Hydra's rule: backslashes before a quote count
    tail = re.search(r"\\*$", escaped)
    return f'"{escaped}{tail[0] if tail else ""}"'
