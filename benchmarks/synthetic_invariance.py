"""Milliseconds per transformed image: ``synthetic_invariance`` against the published loop.

Both start from photographs in memory (500x375 px) and end with the mean similarity and distance of
2048 features at 224 px, in seconds of one processor core. The encoder is left out of both: its
features are pixels of its input. The loop is that of eval_synthetic_invariance.py of
github.com/linusericsson/ssl-invariances: Pillow transforms, resizes and crops one image after the
other, and each pair is scored by itself. Ours runs with the published options, which transform
images in original size, and with the defaults.

    python -m benchmarks.synthetic_invariance
    python -m benchmarks.synthetic_invariance --transforms rotation brightness
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torchvision.transforms.functional as FT
from PIL import Image
from scipy.spatial.distance import mahalanobis
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_transfer import models
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split, embedded
from ssl_transfer.datasets.invariance_transforms import TRANSFORMS, Name
from ssl_transfer.features import FrozenFeatures
from ssl_transfer.metrics.invariance import Whitening
from ssl_transfer.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from ssl_transfer.protocols.synthetic_invariance import SyntheticInvariance

ROUNDS = 1
IMAGES, SETTINGS, DIM = 32, 64, 2048
PUBLISHED: dict[str, Any] = {
    "order": "original_size",
    "grid": "published",
    "deformation": "affine",
    "interpolation": "nearest",
    "extra_shear_degrees": 1.0,
    "blur_kernel": 23,
}
STILL = {"angle": 0.0, "translate": (0.0, 0.0), "scale": 1.0}


class Pixels(nn.Module):
    """Features that cost nothing: pixels of the input."""

    def forward(self, images: Tensor) -> Tensor:
        """Return every eighth pixel of every eighth row."""
        return images[:, :, ::8, ::8].flatten(1)[:, :DIM]


def count(name: Name) -> int:
    """Return the number of settings; it is a fourth power for crops."""
    return min(16 if name == "resized_crop" else SETTINGS, TRANSFORMS[name].count)


def calls(name: Name) -> list[Callable[[Image.Image], Image.Image]]:
    """Return what the published code calls for each setting."""
    settings = TRANSFORMS[name].settings(
        count(name), SyntheticInvariance(**PUBLISHED).definition(0)
    )
    by_name: dict[str, Callable[..., Image.Image]] = {
        "rotation": FT.rotate,
        "translation": lambda x, *t: FT.affine(x, **{**STILL, "translate": t}, shear=1.0),
        "scale": lambda x, s: FT.affine(x, **{**STILL, "scale": s}, shear=1.0),
        "shear": lambda x, *s: FT.affine(x, **STILL, shear=s),
        "resized_crop": lambda x, *box: FT.resized_crop(x, *box, (224, 224)),
        "h_flip": lambda x, on: FT.hflip(x) if on else x,
        "v_flip": lambda x, on: FT.vflip(x) if on else x,
        "grayscale": lambda x, on: FT.rgb_to_grayscale(x, 3) if on else x,
        "blur": lambda x, sigma: FT.gaussian_blur(x, 23, sigma),
        "invert": lambda x, on: FT.invert(x) if on else x,
        "equalize": lambda x, on: FT.equalize(x) if on else x,
        "posterize": lambda x, bits: FT.posterize(x, int(bits)),
    }
    function = by_name.get(name) or getattr(FT, f"adjust_{name}")
    return [lambda x, row=row: function(x, *row) for row in settings.tolist()]


@torch.no_grad()
def published_loop(name: Name, images: Sequence[Image.Image], white: Whitening) -> float:
    """Return the mean similarity, as the published code computes it."""
    inverse = (white.factor @ white.factor.T).numpy()
    factor = torch.linalg.cholesky(torch.from_numpy(inverse)).float()
    mean, encoder = white.mean.float(), Pixels()
    start = time.process_time()

    def view(image: Image.Image, *, cut: bool) -> Tensor:
        image = FT.center_crop(FT.resize(image, 256), 224) if cut else image
        pixels = FT.pil_to_tensor(image).to(torch.float32) / 255.0
        return FT.normalize(pixels, IMAGENET_MEAN, IMAGENET_STD)

    functions, similarities, distances = calls(name), [], []
    for image in images:
        data = torch.stack([view(f(image), cut=name != "resized_crop") for f in functions])
        clean, changed = encoder(view(image, cut=True)[None]), encoder(data)
        a = (mean - clean) @ factor
        for j in range(len(changed)):
            b = (mean - changed[j]) @ factor
            similarities.append(F.cosine_similarity(a, b, dim=-1).mean())
            distances.append(mahalanobis(clean[0], changed[j], inverse))
    assert np.isfinite(np.mean(similarities) + np.mean(distances))
    return time.process_time() - start


def ours(name: Name, data: Dataset, folder: Path, options: dict[str, Any]) -> float:
    """Return the processor's seconds of the measurement, whose statistics are stored."""
    protocol = SyntheticInvariance(
        transform=name,
        k=count(name),
        shrinkage=0.5,
        **{"images": IMAGES, **options},
    )
    encoder = models.wrap(Pixels(), Preprocessing())
    own = Path(tempfile.mkdtemp(dir=folder))
    context = Context(own, folder / "features", progress_bar=False)
    start = time.process_time()
    list(protocol.run(encoder, data, context))
    return time.process_time() - start


def main() -> None:
    """Print the milliseconds of both per transformed image, and their ratio, by transform."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--transforms", nargs="*", default=get_args(Name), help="names; default: all"
    )
    names = parser.parse_args().transforms
    torch.set_num_threads(1)
    tiles = embedded.photos(name="photos")["test"].images
    photographs = [tiles[i].resize((500, 375), Image.Resampling.BICUBIC) for i in range(IMAGES)]
    numbers = [str(i) for i in range(IMAGES)]
    split = Split(photographs, np.zeros(IMAGES, dtype=np.int64), numbers)
    splits = {"train": split, "val": split, "test": split}
    data = Dataset("photographs", ("a",), "class", "top1", splits, True, "0" * 64, {})
    print(
        f"{'transform':<14}{'loop':>9}{'original size':>15}{'ratio':>7}{'defaults':>10}{'ratio':>7}"
    )
    totals = np.zeros(3)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        encoder = models.wrap(Pixels(), Preprocessing())
        context = Context(folder, folder / "features", progress_bar=False)
        white = SyntheticInvariance(shrinkage=0.5).whitening(
            FrozenFeatures(encoder, data, context), "test", context
        )
        for name in itertools.filterfalse("deform".__eq__, names):
            rounds = [
                (
                    published_loop(name, photographs[: IMAGES // 16], white) * 16,
                    ours(name, data, folder, {**PUBLISHED, "images": IMAGES // 8}) * 8,
                    ours(name, data, folder, {}),
                )
                for _ in range(ROUNDS)
            ]
            best = np.min(rounds, axis=0) / IMAGES / count(name) * 1e3
            totals += best * (256 if TRANSFORMS[name].count == 256 else TRANSFORMS[name].count)
            report(name, best)
    report("all together", totals / totals[0] * 100)


def report(label: str, values: np.ndarray) -> None:
    """Print one line: the loop, both of ours, and how many times faster they are."""
    loop, original, default = values
    print(
        f"{label:<14}{loop:>9.2f}{original:>15.2f}{loop / original:>7.1f}{default:>10.2f}"
        f"{loop / default:>7.1f}"
    )


if __name__ == "__main__":
    main()
