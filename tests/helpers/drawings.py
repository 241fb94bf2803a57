"""What the tests of several figures ask of a drawing, and synthetic scores to draw."""

import xml.etree.ElementTree as ET

import numpy as np

from results.agreement.scores import Scores
from results.figures.drawing import Drawing

SVG = "{http://www.w3.org/2000/svg}"


def overlaps(drawing: Drawing) -> list[tuple[str, str]]:
    """Return the pairs of texts whose boxes share an area."""
    boxes = np.array([text.box for text in drawing.texts])
    left, top, right, bottom = boxes.T
    across = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    down = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    first, second = np.nonzero(np.triu((across > 0) & (down > 0), 1))
    texts = [text.text for text in drawing.texts]
    return [(texts[a], texts[b]) for a, b in zip(first.tolist(), second.tolist(), strict=True)]


def outside(drawing: Drawing) -> list[str]:
    """Return the texts that leave the drawing."""
    return [
        text
        for text, box in drawing.texts
        if min(box.left, box.top) < 0 or box.right > drawing.width or box.bottom > drawing.height
    ]


def encoder_groups(drawing: Drawing) -> list[ET.Element]:
    """Return the groups of encoders, from the parsed file."""
    root = ET.fromstring(drawing.svg())
    return [group for group in root.iter(f"{SVG}g") if group.get("class") == "encoder"]


def synthetic(encoders: int, datasets: int, proxies: int) -> tuple[Scores, list[Scores]]:
    """Return random scores of encoders with long labels: a target and proxies."""
    rng = np.random.default_rng(0)
    names = [f"small_resnet-simclr epochs=100 width={n}" for n in range(encoders)]
    sets = [f"dataset_{n}" for n in range(datasets)]

    def one(name: str) -> Scores:
        raw = {
            d: dict(zip(names, rng.uniform(0.4, 0.9, encoders).tolist(), strict=True)) for d in sets
        }
        return Scores(name, raw, raw, set(sets))

    return one("finetune"), [one(f"proxy_{n}") for n in range(proxies)]
