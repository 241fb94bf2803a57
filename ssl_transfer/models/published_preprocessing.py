"""Preprocessing that published weights state in a JSON file beside them.

Two layouts: ``config.json`` of timm's models on the Hugging Face hub (``timm/models/_hub.py``), and
``preprocessor_config.json`` of the image processors of transformers.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.system import inputs

log = logging.getLogger(__name__)

TIMM, TRANSFORMERS = "config.json", "preprocessor_config.json"
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".tar", ".ckpt", ".npz", ".pkl")
_LARGEST = 1 << 20  # bytes
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_GEOMETRY = frozenset({"size", "resize", "square"})


def stated_preprocessing(weights: Path, own: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the fields of ``Preprocessing`` that a file beside the weights adds to one's own.

    The fields of ``own`` win; one line is logged about the fields that differ. Size, resize and
    square belong together. If several weights lie in the folder, the file is not used, as it may
    belong to another one.

    Args:
        weights: the file of the weights.
        own: fields that the model's option or the command line sets.
        name: name of the model, for messages.

    Raises:
        ValueError: if the file states a preprocessing that cannot be carried out.
    """
    place = next(
        (p for key in (TRANSFORMERS, TIMM) if (p := weights.with_name(key)).is_file()), None
    )
    if place is None or (stated := _read(place)) is None:
        return {}
    others = [path for path in weights.parent.iterdir() if path.suffix in _WEIGHTS]
    if len(others) > 1:
        log.warning(
            "`%s` is not used for `%s`, because %d files of weights lie beside it", place, name,
            len(others),
        )  # fmt: skip
        return {}
    inputs.note_file(place)
    skipped = set(own) | (_GEOMETRY if _GEOMETRY & set(own) else set())
    known = Preprocessing().replaced(values=_consistent(own))
    differing = {
        key: value
        for key, value in stated.items()
        if key in own
        and getattr(known, key) != (tuple(value) if isinstance(value, list) else value)
    }
    if differing:
        settings = " ".join(
            f"model.preprocessing.{key}={_typed(differing[key])}" for key in differing
        )
        log.warning(
            "`%s` keeps its own preprocessing, from which that of `%s` differs; %s uses the latter",
            name, place, settings,
        )  # fmt: skip
    return {key: value for key, value in stated.items() if key not in skipped}


def _consistent(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields without those that are only valid together with the model's others."""
    return {key: value for key, value in own.items() if key not in _GEOMETRY} | (
        {"size": own["size"], "resize": own.get("resize")} if "size" in own else {}
    )


def _typed(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    return json.dumps(value, separators=(",", ":")).strip('"')


def _read(path: Path) -> dict[str, Any] | None:
    """Return the fields that a file states; None if it says nothing of images."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            return None
        fields = _of_transformers(content) if path.name == TRANSFORMERS else _of_timm(content)
        if fields:
            Preprocessing().replaced(values={"resize": None, **fields})
        return fields or None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise ValueError(
            f"`{path}` must state how images are prepared for the weights beside it, but cannot be "
            f"used ({type(error).__name__}: {error}); correct it, or remove it and set "
            "model.preprocessing."
        ) from error


def _of_timm(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of timm's ``pretrained_cfg``; older files have it at the top level."""
    stated = content.get("pretrained_cfg", content)
    if not isinstance(stated, Mapping) or "mean" not in stated or "std" not in stated:
        return {}
    fields: dict[str, Any] = {"mean": _three(stated["mean"]), "std": _three(stated["std"])}
    if stated.get("interpolation") not in (None, "random"):
        fields["interpolation"] = str(stated["interpolation"])
    if "input_size" in stated:
        _, height, width = stated["input_size"]
        fields |= {"size": _side(height, width), "resize": None}
        mode, share = stated.get("crop_mode", "center"), stated.get("crop_pct")
        if mode == "squash":
            fields["square"] = True
        elif share:
            fields["resize"] = math.floor(fields["size"] / share)
    return fields


def _of_transformers(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an image processor."""
    fields: dict[str, Any] = {}
    # The encoder gets (255 · factor · x − mean) / std for x in [0, 1].
    scale = 255 * float(content.get("rescale_factor", 1 / 255))
    if content.get("do_normalize", True) and "image_mean" in content:
        fields["mean"] = [value / scale for value in _three(content["image_mean"])]
        fields["std"] = [value / scale for value in _three(content["image_std"])]
    elif content.get("do_normalize") is False:
        fields |= {"mean": [0.0] * 3, "std": [1 / scale] * 3}
    if content.get("resample") is not None:
        fields["interpolation"] = _RESAMPLE[content["resample"]]
    size = content.get("size") if content.get("do_resize", True) else None
    short, sides = _short_and_sides(size)
    if content.get("do_center_crop") and content.get("crop_size") is not None:
        crop, crop_sides = _short_and_sides(content["crop_size"])
        fields["size"] = crop or _side(*crop_sides)
        if short or sides:
            fields["resize"] = short or _side(*sides)
    elif sides or short:  # without a crop, the whole image becomes a square
        fields |= {"size": short or _side(*sides), "resize": None, "square": True}
    return fields


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
