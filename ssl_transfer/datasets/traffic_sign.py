"""Signs cut out of the scenes of the German Traffic Sign Detection Benchmark."""

from ssl_transfer.config.ranges import ProperFraction
from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.files import Listing
from ssl_transfer.datasets.folder import class_listing
from ssl_transfer.datasets.layout import published, require
from ssl_transfer.datasets.photographs import SplitRule, mix_bt_split
from ssl_transfer.datasets.reader import Options, reader
from ssl_transfer.datasets.walk import subfolders

HOME = "FullIJCNN2013"


@reader
def traffic_sign(
    options: Options,
    root: str,
    split_rule: SplitRule | None = None,
    test_fraction: ProperFraction = 0.2,
    download: bool = False,
) -> Dataset:
    """Return the 43 signs of the German Traffic Sign Detection Benchmark, cut out, top-1.

    The benchmark splits its 900 scenes. The archive also holds the cut-out signs, in a folder per
    class and without a split: a seeded, stratified share of these is tested. Houben et al. 2013,
    https://benchmark.ini.rub.de

    Args:
        options: shared options.
        root: folder that holds ``FullIJCNN2013``.
        split_rule: ``mix_bt`` tests on the fifth of every class that github.com/wgcban/mix-bt
            draws if a folder's files come in the order of their names (its
            ``transfer_datasets/traffic_sign.py`` uses the order of the file system)
            (``None``: a seeded share).
        test_fraction: share of every class that is tested, without a rule.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if a folder is missing or an image does not decode.
    """
    source = (
        "https://sid.erda.dk/public/archives/ff17dc924eba88d5d01a807357d6614c/FullIJCNN2013.zip"
    )
    base = require(options, root, [f"{HOME}/00"], download=download, source=source) / HOME
    # The scenes lie beside these folders.
    classes = tuple(folder.name for folder in subfolders(base) if folder.name.isdecimal())
    everything = class_listing(base, classes, base)
    listings: dict[str, Listing] = {"train": everything}
    if split_rule is not None:
        parts = mix_bt_split(everything.targets)
        listings = {key: everything.keep(part) for key, part in parts.items()}
    return published(
        options,
        classes,
        listings,
        expected={"classes": 43},
        test_fraction=test_fraction,
        facts={"split_rule": split_rule},
    )
