"""Images per second and core: our pipeline against torchvision's on PIL images, in one run.

Both start from decoded images in memory and end with normalised float batches of SimCLR's view
(Chen et al. 2020, appendix A) or of crop and flip. Both take turns, and each is judged by its
fastest round, so that other work on the machine disturbs the ratio little.

    python -m benchmarks.augmentation
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision import transforms as T

from ssl_transfer.datasets import embedded
from ssl_transfer.datasets.transforms import CROP_FLIP, Augmentation, Pipeline
from ssl_transfer.preprocessing import Preprocessing

ROUNDS = 5
SIMCLR = Augmentation(
    crop_scale=(0.08, 1.0),
    jitter_probability=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grayscale_probability=0.2,
    blur_probability=0.5,
)


def torchvision_pipeline(preprocessing: Preprocessing, simclr: bool) -> T.Compose:
    """Return what users write today."""
    size = preprocessing.size
    steps: list[Callable] = [T.RandomResizedCrop(size), T.RandomHorizontalFlip()]
    if simclr:
        kernel = 2 * max(1, size // 20) + 1
        steps += [
            T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            T.RandomGrayscale(p=0.2),
            T.RandomApply([T.GaussianBlur(kernel, (0.1, 2.0))], p=0.5),
        ]
    return T.Compose([*steps, T.ToTensor(), T.Normalize(preprocessing.mean, preprocessing.std)])


def compare(label: str, images: list[Image.Image], size: int, simclr: bool) -> None:
    """Time both on the same images and print one line."""
    preprocessing = Preprocessing(size=size, resize=None)
    ours = Pipeline(preprocessing, SIMCLR if simclr else CROP_FLIP)
    theirs = torchvision_pipeline(preprocessing, simclr)
    zero, indices = np.zeros(len(images), np.int64), np.arange(len(images))

    def run_ours(epoch: int) -> None:
        ours(images, seed=0, epochs=zero + epoch, indices=indices)

    def run_theirs(epoch: int) -> None:
        torch.manual_seed(epoch)
        torch.stack([theirs(image) for image in images])

    best = {run_ours: 0.0, run_theirs: 0.0}
    for epoch in range(ROUNDS):
        for run in best:
            start = time.process_time()
            run(epoch)
            best[run] = max(best[run], len(images) / (time.process_time() - start))
    mine, judge = best.values()
    print(f"{label:<32}{mine:>10.0f}{judge:>14.0f}{mine / judge:>9.2f}x")


def main() -> None:
    """Print images per second and core for both, and their ratio."""
    torch.set_num_threads(1)
    tiles = list(embedded.photos(name="photos")["train"].images[:512])
    large = [tile.resize((500, 375), Image.Resampling.BICUBIC) for tile in tiles[:32]]
    print(f"{'view':<32}{'ours':>10}{'torchvision':>14}{'ratio':>10}")
    compare("SimCLR, 48x48 to 32 px", tiles, 32, simclr=True)
    compare("crop and flip, 48x48 to 32 px", tiles, 32, simclr=False)
    compare("SimCLR, 500x375 to 224 px", large, 224, simclr=True)
    compare("crop and flip, 500x375 to 224 px", large, 224, simclr=False)


if __name__ == "__main__":
    main()
