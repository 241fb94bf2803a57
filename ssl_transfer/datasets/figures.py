"""Rendered stick figures with known joints: nothing to download."""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image, ImageDraw

from ssl_transfer.datasets.base import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.reader import Options, assemble, reader
from ssl_transfer.datasets.splitting import hold_out
from ssl_transfer.randomness import uniforms

FIGURES = 600
SIDE = 64
FINE = 4
"""Figures are drawn at this multiple of their size and averaged down."""
THICK = 6
"""Half of the thickness of limbs, in fine pixels."""
TEST_FRACTION = 1 / 3


@dataclasses.dataclass(frozen=True)
class Bone:
    """A line from one joint to another one.

    Args:
        joint: the joint at its end.
        parent: the joint at its start.
        length: share of the figure's height.
        angle: mean direction in degrees; 0 points up, 90 to the right of the image.
        spread: largest deviation from the mean, in degrees.
        bends: whether the direction is relative to that of the bone before it.
    """

    joint: str
    parent: str
    length: float
    angle: float
    spread: float
    bends: bool = False


# The person looks at the viewer: the right arm is on the left of the image.
SKELETON = (
    Bone("neck", "pelvis", 0.30, 0, 20),
    Bone("head_top", "neck", 0.20, 0, 25, bends=True),
    Bone("right_shoulder", "neck", 0.10, -90, 10, bends=True),
    Bone("left_shoulder", "neck", 0.10, 90, 10, bends=True),
    Bone("right_elbow", "right_shoulder", 0.16, -130, 70),
    Bone("left_elbow", "left_shoulder", 0.16, 130, 70),
    Bone("right_wrist", "right_elbow", 0.15, 0, 80, bends=True),
    Bone("left_wrist", "left_elbow", 0.15, 0, 80, bends=True),
    Bone("right_hip", "pelvis", 0.06, -90, 10),
    Bone("left_hip", "pelvis", 0.06, 90, 10),
    Bone("right_knee", "right_hip", 0.22, 180, 40),
    Bone("left_knee", "left_hip", 0.22, 180, 40),
    Bone("right_ankle", "right_knee", 0.22, 0, 40, bends=True),
    Bone("left_ankle", "left_knee", 0.22, 0, 40, bends=True),
)
JOINTS = tuple(bone.joint for bone in SKELETON)
TORSO = ("left_shoulder", "right_hip")
_PARENTS = ("pelvis", *JOINTS)
# Random numbers of a figure: place, height, colours, and one per bone.
_PLACE, _HEIGHT, _COLOURS, _BONES = slice(0, 2), 2, slice(3, 12), slice(12, 12 + len(SKELETON))
_DRAWS = 12 + len(SKELETON)


@reader
def figures(options: Options) -> Dataset:
    """Return 600 stick figures of 64x64 px with 14 joints.

    Place, height, pose and colours of each figure are random, but always the same. A third is
    tested (seeded); the validation split is made from the rest.
    """
    draws = uniforms(0, "figures", np.zeros(FIGURES, np.int64), np.arange(FIGURES), draws=_DRAWS)
    joints = posed(draws)
    pixels = np.stack([_drawn(*figure) for figure in zip(joints, draws, strict=True)])
    everything = Split(
        images=ArrayImages(pixels),
        targets=joints[:, 1:].reshape(FIGURES, -1) / FINE,
        names=[f"{number:04d}" for number in range(FIGURES)],
        sizes=np.full((FIGURES, 2), SIDE, dtype=np.int64),
    )
    one_class = np.zeros(FIGURES, dtype=np.int64)
    train, test = hold_out(one_class, TEST_FRACTION, options.split_seed, "test")
    return assemble(
        options,
        classes=JOINTS,
        train=everything.subset(train),
        test=everything.subset(test),
        content=hashlib.sha256(pixels.tobytes()).hexdigest(),
        target="landmarks",
        facts={"test": "seeded, 1/3", "normaliser": list(TORSO)},
    )


def posed(
    draws: Float64[np.ndarray, "figures draws"],
) -> Float64[np.ndarray, "figures points 2"]:
    """Return the pelvis and the joints of each figure in whole fine pixels.

    Args:
        draws: uniform numbers in [0, 1), one row per figure.
    """
    side = SIDE * FINE
    height = side * (0.5 + 0.3 * draws[:, _HEIGHT])
    places = np.empty((len(draws), len(_PARENTS), 2))
    # The pelvis lies near the centre, so that most joints are inside of the image.
    places[:, 0] = side * (0.5 + 0.2 * (draws[:, _PLACE] - 0.5))
    directions = {"pelvis": np.zeros(len(draws))}
    for number, bone in enumerate(SKELETON, start=1):
        deviation = bone.spread * (2 * draws[:, _BONES][:, number - 1] - 1)
        before = directions[bone.parent] if bone.bends else 0.0
        directions[bone.joint] = before + np.deg2rad(bone.angle + deviation)
        step = np.stack([np.sin(directions[bone.joint]), -np.cos(directions[bone.joint])], axis=1)
        start = places[:, _PARENTS.index(bone.parent)]
        places[:, number] = start + (bone.length * height)[:, None] * step
    return np.rint(places)


def _drawn(
    places: Float64[np.ndarray, "points 2"], draws: Float64[np.ndarray, " draws"]
) -> UInt8[np.ndarray, "side side 3"]:
    """Return the picture of one figure."""
    levels = draws[_COLOURS].reshape(3, 3)
    # The background is dark, and limbs and head are bright, each in a colour of its own.
    background, limbs, head = (
        tuple(np.rint(low + span * level).astype(int).tolist())
        for level, (low, span) in zip(levels, ((0, 100), (150, 105), (150, 105)), strict=True)
    )
    picture = Image.new("RGB", (SIDE * FINE, SIDE * FINE), background)
    canvas = ImageDraw.Draw(picture)
    points: list[tuple[int, int]] = [(x, y) for x, y in places.astype(int).tolist()]
    for number, bone in enumerate(SKELETON, start=1):
        start, end = points[_PARENTS.index(bone.parent)], points[number]
        if bone.joint != "head_top":
            canvas.line([start, end], limbs, width=2 * THICK)
            for x, y in (start, end):  # round ends
                canvas.ellipse([x - THICK, y - THICK, x + THICK, y + THICK], limbs)
    neck, top = (points[_PARENTS.index(name)] for name in ("neck", "head_top"))
    centre: Int64[np.ndarray, " 2"] = (np.array(neck) + np.array(top)) // 2
    radius = int(np.hypot(*(np.array(top) - np.array(neck)))) // 2
    canvas.ellipse([*(centre - radius).tolist(), *(centre + radius).tolist()], head)
    return np.asarray(picture.reduce(FINE))
