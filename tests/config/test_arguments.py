import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from ssl_transfer.config.arguments import argument

TEXTS = [
    "val", "Black_footed-Albatross", "my val", "2019", "007.Cat", "1e5", "null", "True", "nan",
    "müll", "训练集", "a,b", "a=b", "[x]", "{y}", "it's", 'say "x"',
    "back\\slash", 'odd\\"', "end\\",
    "#1", "$HOME", "a:b", "~", "(c)", "",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_shell_and_hydra_read_the_text_that_was_meant(text: str) -> None:
    for values, is_list in (([text], False), ([text], True), ([text, "other"], True)):
        (word,) = shlex.split(argument("dataset.key", *values, is_list=is_list))
        override = OverridesParser.create().parse_override(word)
        assert override.key_or_group == "dataset.key"
        assert override.value() == (values if is_list else text)


def test_plain_text_is_not_quoted() -> None:
    assert argument("dataset.test_folder", "val") == "dataset.test_folder=val"
    assert argument("dataset.exclude_classes", "a", "b") == "dataset.exclude_classes=[a,b]"
    assert argument("dataset.name", "my set") == "'dataset.name=\"my set\"'"
