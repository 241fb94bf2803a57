"""Images per second and core: our pipeline against torchvision's on PIL images, in one run.

Both start from decoded images in memory and end with normalised float batches of SimCLR's view
(Chen et al. 2020, appendix A), of the view that published code for CIFAR-10 draws (MoCo's demo,
Mixed Barlow Twins: no blur), or of crop and flip; published code draws all of them on PIL images.
Both take turns, and each is judged by its fastest round, so that other work on the machine disturbs
the ratio little.

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
CIFAR = Augmentation(
    crop_scale=(0.08, 1.0),
    jitter_probability=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale_probability=0.2,
)


def torchvision_pipeline(preprocessing: Preprocessing, view: Augmentation) -> T.Compose:
    """Return what users write today."""
    size = preprocessing.size
    steps: list[Callable] = [T.RandomResizedCrop(size, view.crop_scale), T.RandomHorizontalFlip()]
    if view.jitter_probability > 0:
        jitter = T.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
        steps.append(T.RandomApply([jitter], p=view.jitter_probability))
    if view.grayscale_probability > 0:
        steps.append(T.RandomGrayscale(p=view.grayscale_probability))
    if view.blur_probability > 0:
        blur = T.GaussianBlur(2 * max(1, size // 20) + 1, view.blur_sigma)
        steps.append(T.RandomApply([blur], p=view.blur_probability))
    return T.Compose([*steps, T.ToTensor(), T.Normalize(preprocessing.mean, preprocessing.std)])


def compare(label: str, images: list[Image.Image], size: int, view: Augmentation) -> None:
    """Time both on the same images and print one line."""
    preprocessing = Preprocessing(size=size, resize=None)
    ours = Pipeline(preprocessing, view)
    theirs = torchvision_pipeline(preprocessing, view)
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
    small = [tile.resize((32, 32), Image.Resampling.BICUBIC) for tile in tiles]
    compare("CIFAR-10's, 32x32 to 32 px", small, 32, CIFAR)
    compare("SimCLR, 48x48 to 32 px", tiles, 32, SIMCLR)
    compare("crop and flip, 48x48 to 32 px", tiles, 32, CROP_FLIP)
    compare("SimCLR, 500x375 to 224 px", large, 224, SIMCLR)
    compare("crop and flip, 500x375 to 224 px", large, 224, CROP_FLIP)


if __name__ == "__main__":
    main()
