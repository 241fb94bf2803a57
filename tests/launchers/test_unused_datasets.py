"""A data set that a command names in vain is said."""

import pytest

from launchers.base import warn_of_unused_datasets
from ssl_transfer.config import compose, plain
from ssl_transfer.runs import Run


def said(caplog: pytest.LogCaptureFixture, *commands: list[str]) -> str:
    caplog.clear()
    runs = [Run(plain(compose(overrides))) for overrides in commands]
    warn_of_unused_datasets(runs, commands)
    return caplog.text


def test_a_data_set_is_no_part_of_a_pre_training(caplog: pytest.LogCaptureFixture) -> None:
    pretrain = ["protocol=pretrain", "method=simclr"]
    named = "`dataset=textures` changes nothing with `protocol=pretrain`, which trains on `photos`"
    assert named in said(caplog, [*pretrain, "dataset=textures"])
    assert not said(caplog, [*pretrain, "dataset@method.pretrain_on=textures"])
    assert not said(caplog, [*pretrain, "dataset=textures"], ["protocol=knn", "dataset=textures"])
