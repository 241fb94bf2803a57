"""Preprocessing that published weights state in a JSON file beside them.

Two layouts: ``config.json`` of timm's models on the Hugging Face hub (``timm/models/_hub.py``), and
``preprocessor_config.json`` of the image processors of transformers.
"""

import functools
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ssl_transfer.preprocessing import TIMM_FILE, TRANSFORMERS_FILE, Preprocessing
from ssl_transfer.system import inputs

log = logging.getLogger(__name__)

_HUB_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Names on the hub of the weights that these files belong to, in several formats side by side."""
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".tar", ".ckpt", ".npz", ".pkl")
_LARGEST = 1 << 20  # bytes
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_GEOMETRY = frozenset({"size", "resize", "square", "squash"})
_WARPED_FROM = 384  # px; ConvNeXt's processor crops smaller images only


class _Stated(NamedTuple):
    """What a file states.

    Args:
        fields: fields of ``Preprocessing``.
        deviation: what cannot be carried out exactly, as a clause (``None``: nothing).
    """

    fields: dict[str, Any]
    deviation: str | None = None


def stated_preprocessing(weights: Path, own: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the fields of ``Preprocessing`` that a file beside the weights adds to one's own.

    The fields of ``own`` win; one line is logged about the fields that differ. Size, resize and
    square belong together. A file beside weights of several names is not used, as it may belong to
    other ones, unless the weights have a name that the hub gives them.

    Args:
        weights: the file of the weights.
        own: fields that the model's option or the command line sets.
        name: name of the model, for messages.

    Raises:
        ValueError: if the file states a preprocessing that cannot be carried out.
    """
    found = [p for key in (TRANSFORMERS_FILE, TIMM_FILE) if (p := weights.with_name(key)).is_file()]
    stated = next(((place, stated) for place in found if (stated := _read(place))), None)
    if stated is None:
        return {}
    place, (fields, deviation) = stated
    inputs.note_file(place)
    if weights.name not in _HUB_NAMES and (count := _count_weights(weights.parent)) > 1:
        _say(
            logging.WARNING,
            f"`{place}` is not used for `{name}`, because {count} files of weights lie beside it; "
            "give both a folder of their own, or set model.preprocessing",
        )
        return {}
    skipped = set(own) | (_GEOMETRY if _GEOMETRY & set(own) else set())
    added = {key: value for key, value in fields.items() if key not in skipped}
    _tell_differences(place, fields, own, name)
    if added:
        values = " ".join(f"{key}={_typed(value)}" for key, value in added.items())
        _say(logging.INFO, f"`{name}` prepares images as `{place}` states: {values}")
    if deviation and not _GEOMETRY & set(own):
        _say(logging.WARNING, f"`{place}` states that {deviation}")
    return added


@functools.lru_cache(maxsize=256)
def _say(level: int, message: str) -> None:
    """Log a message once per process: a model is built several times."""
    log.log(level, "%s", message)


def _count_weights(folder: Path) -> int:
    """Return the number of files of weights in a folder."""
    inputs.note_folder(folder, _WEIGHTS)
    return sum(path.suffix in _WEIGHTS for path in folder.iterdir())


def _tell_differences(
    place: Path, stated: Mapping[str, Any], own: Mapping[str, Any], name: str
) -> None:
    """Warn of fields that differ between a file and the model."""
    known = Preprocessing().replaced(values=_consistent(own))
    differing = {
        key: value
        for key, value in stated.items()
        if key in own
        and getattr(known, key) != (tuple(value) if isinstance(value, list) else value)
    }
    if differing:
        # `++` also where the option has no mapping of its own, as that of timm.
        settings = " ".join(f"++model.preprocessing.{k}={_typed(v)}" for k, v in differing.items())
        _say(
            logging.WARNING,
            f"`{name}` keeps its own preprocessing, from which that of `{place}` differs; "
            f"{settings} uses the latter",
        )


def _consistent(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields without those that are only valid together with the model's others."""
    return {key: value for key, value in own.items() if key not in _GEOMETRY} | (
        {"size": own["size"], "resize": own.get("resize")} if "size" in own else {}
    )


def _typed(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    return json.dumps(value, separators=(",", ":")).strip('"')


def _read(path: Path) -> _Stated | None:
    """Return what a file states; None if it says nothing of images."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            return None
        stated = _of_transformers(content) if path.name == TRANSFORMERS_FILE else _of_timm(content)
        if stated.fields:
            Preprocessing().replaced(values={"resize": None, **stated.fields})
        return stated if stated.fields else None
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise ValueError(
            f"`{path}` must state how images are prepared for the weights beside it, but cannot be "
            f"used ({type(error).__name__}: {error}); correct it, or remove it and set "
            "model.preprocessing."
        ) from error


def _of_timm(content: Mapping[str, Any]) -> _Stated:
    """Return what timm's ``pretrained_cfg`` states; older files have it at the top level.

    The defaults are those of ``timm/data/config.py``, the crop that of ``transforms_factory.py``.
    """
    stated = content.get("pretrained_cfg", content)
    if not isinstance(stated, Mapping) or "mean" not in stated or "std" not in stated:
        return _Stated({})
    fields: dict[str, Any] = {"mean": _three(stated["mean"]), "std": _three(stated["std"])}
    interpolation = stated.get("interpolation") or "bicubic"
    fields["interpolation"] = "bilinear" if interpolation == "random" else str(interpolation)
    if "input_size" not in stated:
        return _Stated(fields)
    _, height, width = stated["input_size"]
    fields["size"] = _side(height, width)
    scaled = math.floor(fields["size"] / (stated.get("crop_pct") or 0.875))
    mode = stated.get("crop_mode") or "center"
    if mode == "squash":
        fields |= {"resize": None, "square": True}
        cropped = f"its images are squashed to {scaled}x{scaled} px and cropped, but here they are "
        return _Stated(fields, f"{cropped}not cropped" if scaled > fields["size"] else None)
    if mode != "center":
        raise ValueError(f"there is no crop_mode {mode} here")
    return _Stated({**fields, "resize": scaled})


def _of_transformers(content: Mapping[str, Any]) -> _Stated:
    """Return what an image processor states."""
    fields = _levels(content)
    if content.get("resample") is not None:
        fields["interpolation"] = _RESAMPLE[content["resample"]]
    short, sides = _short_and_sides(content.get("size") if content.get("do_resize", True) else None)
    kind = str(content.get("image_processor_type") or content.get("feature_extractor_type") or "")
    share = content.get("crop_pct")
    if kind.startswith("ConvNext") and short:  # image_processing_convnext.py
        if short >= _WARPED_FROM:
            return _Stated({**fields, "size": short, "resize": None, "square": True})
        return _Stated({**fields, "size": short, "resize": int(short / (share or 224 / 256))})
    if kind.startswith("Levit") and short:  # image_processing_levit.py
        short = int(256 / 224 * short)
    elif share and (short or sides):  # image_processing_poolformer.py
        short, sides = int((short or _side(*sides)) / share), ()
    if content.get("do_center_crop") and content.get("crop_size") is not None:
        crop, crop_sides = _short_and_sides(content["crop_size"])
        fields["size"] = crop or _side(*crop_sides)
        if not (short or sides):
            return _Stated(fields)
        side = fields["resize"] = short or _side(*sides)
        squashed = (
            f"images are squashed to {side}x{side} px before the crop, but here they keep their "
            f"aspect ratio and their shorter side becomes {side} px"
        )
        return _Stated(fields, None if short else squashed)
    if short and not isinstance(content["size"], int):
        uncropped = (
            f"images of any aspect ratio have a shorter side of {short} px, but here they are "
            "cropped to a square of this size"
        )
        return _Stated({**fields, "size": short, "resize": None}, uncropped)
    if sides or short:  # without a crop, the whole image becomes a square
        fields |= {"size": short or _side(*sides), "resize": None, "square": True}
    return _Stated(fields)


def _levels(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return mean, deviation and order of the channels that an image processor states."""
    # The encoder gets (255 · factor · x − mean) / std for x in [0, 1].
    factor = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1
    scale = 255 * float(factor)
    flipped = bool(content.get("do_flip_channel_order"))
    if content.get("do_normalize", not flipped) and "image_mean" in content:
        if flipped:
            raise ValueError("normalised channels cannot be put in the order blue, green, red")
        return {
            "mean": [value / scale for value in _three(content["image_mean"])],
            "std": [value / scale for value in _three(content["image_std"])],
        }
    if flipped or ("do_normalize" in content and not content["do_normalize"]):
        order = {"channel_order": "bgr"} if flipped else {}
        return {"mean": [0.0] * 3, "std": [1 / scale] * 3, **order}
    return {}


def _short_and_sides(size: Any) -> tuple[int | None, tuple[int, ...]]:
    """Return the shorter side, or else height and width, of a size of transformers."""
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return int(size["shortest_edge"]), ()
        return None, (int(size["height"]), int(size["width"]))
    return (None, ()) if size is None else (int(size), ())


def _side(height: int, width: int) -> int:
    if height != width:
        raise ValueError(f"images of {height}x{width} px are not square")
    return int(height)


def _three(values: Any) -> list[float]:
    """Return three numbers."""
    numbers = [float(values)] * 3 if isinstance(values, int | float) else [float(v) for v in values]
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"there must be three numbers, but there are {values}")
    return numbers
