"""Published sets of real views of one object: viewpoint, light, exposure, blur and deformation.

They measure the invariance of a representation to real changes: Ericsson et al. 2021, "Why Do
Self-Supervised Models Transfer?", https://arxiv.org/abs/2111.11398. The layouts are those that its
code reads (``datasets/*.py`` of https://github.com/linusericsson/ssl-invariances) or that the
archives unpack to.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Literal

from ssl_transfer.datasets.base import Dataset
from ssl_transfer.datasets.layout import require
from ssl_transfer.datasets.object_views import (
    Group,
    View,
    read_views,
    refuse_options_of_labels,
    views_below,
)
from ssl_transfer.datasets.reader import Options, reader

Factor = Literal["viewpoint", "illumination", "temperature"]
"""What differs between the views of an object: camera and rotation, light, or colour of light."""

ViewOf = Callable[[re.Match[str]], View | None]

COIL_OBJECTS = 100
ANGLES = tuple(str(angle) for angle in range(0, 360, 5))
"""Angles of a turntable in degrees, as COIL-100 and ALOI photographed their objects."""


@reader
def flickr1024(options: Options, root: str, download: bool = False) -> Dataset:
    """Return Flickr1024: 1,024 stereo pairs of photographs, the left and the right view.

    Wang et al. 2019, https://yingqianwang.github.io/Flickr1024/. The pairs of its training,
    validation and test part are all used, as by the published evaluation of invariance.

    Args:
        options: shared options.
        root: folder that holds ``Train``, ``Validation`` and ``Test``.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or not in pairs, or an image does not decode.
    """
    refuse_options_of_labels(options)
    parts = ["Train", "Validation", "Test"]
    source = "Train, Validation and Test of https://yingqianwang.github.io/Flickr1024/"
    base = require(options, root, parts, download=download, source=source)

    def view_of(match: re.Match[str]) -> View:
        return View((match["part"], match["pair"]), match["side"])

    views = views_below(
        options, base, parts, r"(?P<part>\w+)/(?P<pair>[^/]+)_(?P<side>[LR])\.png", view_of,
        form="<pair>_L.png or <pair>_R.png",
    )  # fmt: skip
    return read_views(
        options, base, views, conditions=["L", "R"], expected={"objects": 1024, "views": 2048}
    )


@reader
def coil100(options: Options, root: str, download: bool = False) -> Dataset:
    """Return COIL-100: 100 objects on a turntable, 72 views each, 5 degrees apart.

    Nene et al. 1996, https://www.cs.columbia.edu/CAVE/software/softlib/coil-100.php

    Args:
        options: shared options.
        root: folder that holds ``coil-100``, as the archive unpacks.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or surplus, or an image does not decode.
    """
    refuse_options_of_labels(options)
    source = "coil-100.zip of https://www.cs.columbia.edu/CAVE/software/softlib/coil-100.php"
    base = require(options, root, ["coil-100"], download=download, source=source)

    def view_of(match: re.Match[str]) -> View:
        return View((int(match["object"]),), match["angle"], int(match["object"]) - 1)

    views = views_below(
        options, base, ["coil-100"], r"coil-100/obj(?P<object>[1-9]\d*)__(?P<angle>\d+)\.png",
        view_of, form=f"obj<1 to {COIL_OBJECTS}>__<angle>.png",
    )  # fmt: skip
    return read_views(
        options,
        base,
        views,
        conditions=ANGLES,
        groups=[(number,) for number in range(1, COIL_OBJECTS + 1)],
        expected={"objects": COIL_OBJECTS, "views": COIL_OBJECTS * len(ANGLES)},
        classes=[f"obj{number}" for number in range(1, COIL_OBJECTS + 1)],
    )


ALOI_OBJECTS = 1000
# Of the end of a file's name, by factor: "_r5", "_l3c2" (light, camera), "_i110" (voltage of the
# lamps by colour temperature).
ALOI_NAMES = {
    "viewpoint": r"r(?P<condition>\d+)",
    "illumination": r"(?P<condition>l\d)c(?P<camera>[1-3])",
    "temperature": r"(?P<condition>i\d+)",
}
ALOI_VIEWS = {
    "viewpoint": ANGLES,
    "illumination": tuple(f"l{light}" for light in range(1, 9)),
    "temperature": tuple(f"i{kind}" for kind in (*range(110, 200, 10), 210, 230, 250)),
}


ALOI_FORMS = {
    "viewpoint": "r<angle>",
    "illumination": "l<light>c<camera>",
    "temperature": "i<110 to 250>",
}


@reader
def aloi(
    options: Options, root: str, factor: Factor = "viewpoint", download: bool = False
) -> Dataset:
    """Return ALOI: 1,000 small objects under one varying condition.

    Geusebroek et al. 2005, https://aloi.science.uva.nl/. Its three archives unpack to the same
    folder; each one's object folders lie in a folder of the factor's name, as in the published
    evaluation of invariance.

    Args:
        options: shared options.
        root: folder that holds ``viewpoint``, ``illumination`` or ``temperature``.
        factor: ``viewpoint`` has 72 views of 1,000 objects, 5 degrees apart; ``illumination`` has 8
            directions of light, for each object and each of 3 cameras (3,000 groups);
            ``temperature`` has 12 colours of light.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or surplus, or an image does not decode.
    """
    refuse_options_of_labels(options)
    archive = {"viewpoint": "view", "illumination": "ill", "temperature": "col"}[factor]
    source = (
        f"the folders 1 to {ALOI_OBJECTS} of aloi_red4_{archive}.tar or of another resolution, "
        "https://aloi.science.uva.nl/"
    )
    base = require(options, root, [factor], download=download, source=source)
    by_camera = factor == "illumination"

    def view_of(match: re.Match[str]) -> View:
        number = int(match["object"])
        group = (number, int(match["camera"])) if by_camera else (number,)
        return View(group, match["condition"], number - 1)

    views = views_below(
        options, base, [factor],
        rf"{factor}/(?P<object>[1-9]\d*)/(?P=object)_{ALOI_NAMES[factor]}\.png",
        view_of, form=f"{factor}/<object>/<object>_{ALOI_FORMS[factor]}.png",
    )  # fmt: skip
    objects, conditions = range(1, ALOI_OBJECTS + 1), ALOI_VIEWS[factor]
    groups: list[Group] = [(number,) for number in objects]
    if by_camera:
        groups = list(itertools.product(objects, (1, 2, 3)))
    return read_views(
        options,
        base,
        views,
        conditions=conditions,
        groups=groups,
        expected=_numbers(groups, conditions),
        classes=list(map(str, objects)),
        facts={"factor": factor},
    )


def _numbers(groups: Sequence[Group], conditions: Sequence[str]) -> dict[str, int]:
    """Return the numbers of objects and of views of a complete set."""
    return {"objects": len(groups), "views": len(groups) * len(conditions)}


TEXTURES = 250
LIGHTS = (1, 2, 3, 4, 5, 8)
CAMERAS = (1, 2, 3, 4)
ROTATIONS = (0, 60, 120, 180)
# "1_c1l1.png", "1_c1l1r60.png", "1_c1i.png": camera, light (8: all five), rotation; reddish light.
ALOT_NAME = (
    r"(?P<texture>[1-9]\d{0,2})/(?P=texture)_c(?P<camera>[1-4])"
    r"(?:i|l(?P<light>[1-58])(?:r(?P<rotation>60|120|180))?)\.png"
)


@reader
def alot(
    options: Options,
    root: str,
    factor: Factor = "viewpoint",
    grouping: Literal["texture_and_light", "published"] = "texture_and_light",
    download: bool = False,
) -> Dataset:
    """Return ALOT: 250 textures under one varying condition.

    Burghouts and Geusebroek 2009, https://aloi.science.uva.nl/public_alot/: four cameras, four
    rotations, five lights and all of them together, and one image per camera in reddish light.

    Args:
        options: shared options.
        root: folder that holds the textures' folders ``1`` to ``250``.
        factor: ``viewpoint`` has 16 views, every camera and rotation, for each texture and light
            (1,500 groups); ``illumination`` has 6 views, every light, for each texture, camera and
            rotation (4,000 groups); ``temperature`` has 2 views, reddish and white light, for each
            texture and camera (1,000 groups).
        grouping: ``published`` uses the groups of the code that was published with the evaluation
            of invariance: texture ``t``, counted from 0, only under the light at position ``t
            modulo 6``, which leaves 250 different groups. It only concerns ``viewpoint``.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or surplus, or an image does not decode.
    """
    refuse_options_of_labels(options)
    if grouping == "published" and factor != "viewpoint":
        raise ValueError(
            "`dataset.grouping` must be `texture_and_light` unless dataset.factor is `viewpoint`, "
            f"but is `published` with `{factor}`; leave it out."
        )
    folders = [str(number) for number in range(1, TEXTURES + 1)]
    source = (
        f"the folders 1 to {TEXTURES} of alot_png4.tar or of another resolution, "
        "https://aloi.science.uva.nl/public_alot/"
    )
    base = require(options, root, folders[:1], download=download, source=source)
    published = grouping == "published"
    views = views_below(
        options, base, [folder for folder in folders if (base / folder).is_dir()], ALOT_NAME,
        _alot_view(factor, published=published),
        form="<texture>/<texture>_c<camera>l<light>r<rotation>.png or <texture>_c<camera>i.png",
    )  # fmt: skip
    groups = _alot_groups(factor, published=published)
    return read_views(
        options,
        base,
        views,
        conditions=ALOT_VIEWS[factor],
        groups=groups,
        expected=_numbers(groups, ALOT_VIEWS[factor]),
        classes=folders,
        facts={"factor": factor, "grouping": grouping},
    )


ALOT_VIEWS = {
    "viewpoint": tuple(f"c{camera}r{rotation}" for camera in CAMERAS for rotation in ROTATIONS),
    "illumination": tuple(f"l{light}" for light in LIGHTS),
    "temperature": ("i", "l8"),
}


def _alot_groups(factor: str, *, published: bool) -> list[Group]:
    """Return the groups of the complete set."""
    textures = range(1, TEXTURES + 1)
    if factor == "viewpoint":
        lights = {texture: [_light(texture)] if published else LIGHTS for texture in textures}
        return [(texture, light) for texture in textures for light in lights[texture]]
    rest = (CAMERAS, ROTATIONS) if factor == "illumination" else (CAMERAS,)
    return list(itertools.product(textures, *rest))


def _light(texture: int) -> int:
    """Return the only light under which the published groups show a texture."""
    return LIGHTS[(texture - 1) % len(LIGHTS)]


def _alot_view(factor: str, *, published: bool) -> ViewOf:
    """Return the function from a file's name to its group and condition."""

    def view_of(match: re.Match[str]) -> View | None:
        texture, camera = int(match["texture"]), int(match["camera"])
        light, rotation = int(match["light"] or 0), int(match["rotation"] or 0)
        if factor == "temperature":
            used = rotation == 0 and light in (0, 8)
            condition = f"l{light}" if light else "i"
            return View((texture, camera), condition, texture - 1) if used else None
        if light == 0:
            return None
        if factor == "illumination":
            return View((texture, camera, rotation), f"l{light}", texture - 1)
        if published and light != _light(texture):
            return None
        return View((texture, light), f"c{camera}r{rotation}", texture - 1)

    return view_of


DALI_OBJECTS = 12
DALI_VIEWS = 32


@reader
def dali(options: Options, root: str, download: bool = False) -> Dataset:
    """Return DaLI: 12 objects that are deformed and lit in several ways, at the same time.

    Simo-Serra et al. 2015, https://esslab.jp/~ess/en/data/dali_data/

    Args:
        options: shared options.
        root: folder that holds ``input/png`` with a folder for each object, ``1`` to ``12``.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or surplus, or an image does not decode.
    """
    refuse_options_of_labels(options)
    source = "https://esslab.jp/~ess/en/data/dali_data/"
    base = require(options, root, ["input/png"], download=download, source=source)

    def view_of(match: re.Match[str]) -> View:
        return View((int(match["object"]),), match["view"], int(match["object"]) - 1)

    views = views_below(
        options, base, ["input/png"], r"input/png/(?P<object>[1-9]\d*)/(?P<view>[^/]+)\.png",
        view_of, form="input/png/<object from 1 to 12>/<view>.png",
    )  # fmt: skip
    return read_views(
        options,
        base,
        views,
        conditions=None,
        groups=[(number,) for number in range(1, DALI_OBJECTS + 1)],
        classes=[str(number) for number in range(1, DALI_OBJECTS + 1)],
        expected={"objects": DALI_OBJECTS, "views": DALI_OBJECTS * DALI_VIEWS},
    )


EXPOSURES = ("N1.5", "N1", "0", "P1", "P1.5")
EXPOSURE_OBJECTS = {"training": 3535, "validation": 150}


@reader
def exposure_errors(
    options: Options,
    root: str,
    part: Literal["training", "validation"] = "training",
    download: bool = False,
) -> Dataset:
    """Return the exposure errors of Afifi et al.: photographs, each in five wrong exposures.

    Afifi et al. 2021, https://github.com/mahmoudnafifi/Exposure_Correction. A group has the six
    images whose names have the same text before the first ``-``. The published evaluation of
    invariance searches for this text anywhere in the path, which gives the same groups as long as
    it occurs in no other image's name.

    Args:
        options: shared options.
        root: folder that holds ``training`` or ``validation``, as the archives unpack.
        part: which of them.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or surplus, or an image does not decode.
    """
    refuse_options_of_labels(options)
    folders = [f"{part}/GT_IMAGES", f"{part}/INPUT_IMAGES"]
    source = f"the {part} part of https://github.com/mahmoudnafifi/Exposure_Correction"
    base = require(options, root, folders, download=download, source=source)

    def view_of(match: re.Match[str]) -> View:
        return View((match["id"] or match["id_of_input"],), match["exposure"] or "GT")

    views = views_below(
        options, base, folders,
        rf"{part}/(?:GT_IMAGES/(?P<id>[^-/]+)-[^/]+|INPUT_IMAGES/(?P<id_of_input>[^-/]+)-[^/]+_"
        r"(?P<exposure>0|[NP]1(?:\.5)?))\.(?i:jpg)",
        view_of,
        form=f"GT_IMAGES/<id>-<name>.jpg or INPUT_IMAGES/<id>-<name>_<{', '.join(EXPOSURES)}>.JPG",
    )  # fmt: skip
    objects = EXPOSURE_OBJECTS[part]
    return read_views(
        options,
        base,
        views,
        conditions=["GT", *EXPOSURES],
        expected={"objects": objects, "views": objects * (1 + len(EXPOSURES))},
        facts={"part": part},
    )


@reader
def realblur(options: Options, root: str, download: bool = False) -> Dataset:
    """Return RealBlur-J: pairs of a sharp and a blurred photograph of one scene.

    Rim et al. 2020, https://github.com/rimchang/RealBlur. The 4,738 pairs of all 232 scenes are
    used, those of the training list and of the test list.

    Args:
        options: shared options.
        root: folder that holds ``RealBlur-J_ECC_IMCORR_centroid_itensity_ref``.
        download: fetches nothing: the set must be fetched by hand. The key is for sweeps over sets.

    Raises:
        ValueError: if files are missing or not in pairs, or an image does not decode.
    """
    refuse_options_of_labels(options)
    home = "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"
    source = "RealBlur.tar.gz of https://github.com/rimchang/RealBlur"
    base = require(options, root, [home], download=download, source=source)

    def view_of(match: re.Match[str]) -> View:
        return View((match["scene"], int(match["number"])), match["kind"])

    views = views_below(
        options, base, [home],
        rf"{home}/(?P<scene>[^/]+)/(?P<kind>gt|blur)/(?P=kind)_(?P<number>\d+)\.png", view_of,
        form=f"{home}/<scene>/gt/gt_<number>.png or {home}/<scene>/blur/blur_<number>.png",
    )  # fmt: skip
    return read_views(
        options, base, views, conditions=["gt", "blur"], expected={"objects": 4738, "views": 9476}
    )
