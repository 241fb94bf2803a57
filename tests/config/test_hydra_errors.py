"""What Hydra's parser says is told as a sentence."""

import pytest
from hydra.errors import HydraException

from ssl_transfer.config import compose
from ssl_transfer.config.hydra_errors import sentence


@pytest.mark.parametrize("override", ["method.epochs={a:[b=1]}", "model.width=[1,2", "a b=3"])
def test_an_argument_that_does_not_parse_is_named_with_what_to_do(override: str) -> None:
    with pytest.raises(HydraException) as caught:
        compose([override])
    told = sentence(caught.value)
    assert told.startswith(f"every argument must read as key=value, but `{override}` does not (")
    assert "put quotes around" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            ["method=as_is", "dataset@method.pretrain_on=digits"],
            "`dataset@method.pretrain_on` has no place in the option chosen of `method`",
        ),
        (
            ["model=mobilenet_v3_small", "model.preprocessing.size=32"],
            "as it stands; `+model.preprocessing.size=…` adds it.",
        ),
        (["method=simclr", "method.views.2.count=4"], "the list has no such place"),
        (["method=simclr", "method.epoch=4"], "did you mean `epochs`?"),
    ],
)
def test_what_cannot_be_overridden_is_told_with_what_to_do(line: list[str], told: str) -> None:
    with pytest.raises(HydraException) as caught:
        compose(line)
    assert told in sentence(caught.value)
