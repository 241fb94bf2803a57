"""A table of the encoders with published weights, from the facts in their options.

python -m ssl_transfer.models.catalogue                 # all of them
python -m ssl_transfer.models.catalogue dinov3 siglip   # those whose name contains a word
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ssl_transfer.config import compose, options, plain, resolve

COLUMNS = (
    "option", "network", "features", "pixels", "trained on", "epochs", "linear", "k-NN", "licence",
)  # fmt: skip
Row = tuple[str, ...]


def rows(words: Sequence[str] = ()) -> Iterator[Row]:
    """Yield a row per encoder with published weights, sorted by name.

    Args:
        words: parts of names; an option is left out unless its name contains one of them (empty:
            none is left out).
    """
    for option in options("model"):
        if words and not any(word in option for word in words):
            continue
        node = resolve(plain(compose([f"model={option}"])))["model"]
        if node.get("facts") and node["name"] == option:
            yield _row(option, node)


def _row(option: str, node: Mapping[str, Any]) -> Row:
    facts = node["facts"]
    return (
        option,
        str(node.get("arch") or "").partition(".")[0],
        str(node["features"]),
        _pixels(node),
        str(facts.get("trained_on") or ""),
        str(facts.get("epochs") or ""),
        _percent(facts.get("imagenet_top1")),
        _percent(facts.get("imagenet_knn")),
        str(facts.get("licence") or ""),
    )


def _pixels(node: Mapping[str, Any]) -> str:
    """Return the side of an option's images; that of timm's registry unless it sets one."""
    if size := (node.get("preprocessing") or {}).get("size"):
        return str(size)
    if node["_target_"].endswith(".timm_backbone"):
        import timm

        registered = timm.models.get_pretrained_cfg(node["arch"])
        return "" if registered is None else str(registered.input_size[-1])
    return ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def table(words: Sequence[str] = ()) -> str:
    """Return the rows as a table in Markdown.

    Raises:
        ValueError: if no encoder has such a name.
    """
    lines = [f"| {' | '.join(row)} |" for row in rows(words)]
    if not lines:
        raise ValueError(
            f"a name of an encoder with published weights must contain one of {list(words)}, but "
            "none does; leave the words out to see all."
        )
    head = [f"| {' | '.join(COLUMNS)} |", f"| {' | '.join('---' for _ in COLUMNS)} |"]
    return "\n".join([*head, *lines]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ssl_transfer.models.catalogue",
        description="List the encoders with published weights: linear and k-NN accuracy on "
        "ImageNet in percent, as published; an empty field was not looked up.",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="a part of names to list")
    try:
        sys.stdout.write(table(parser.parse_args(arguments).words))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
