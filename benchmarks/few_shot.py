"""``few_shot``: 600 episodes on stored features, against a forward pass per episode.

    python benchmarks/few_shot.py [--omniglot FOLDER] [--classifier class_mean]

The other side is the loop of few_shot.py of github.com/linusericsson/ssl-transfer: support and
queries of each episode pass the encoder in one batch, and class means judge. Its images are
prepared beforehand, which is not counted; ours are prepared and pass the encoder once, which is
counted in the first ratio. The second ratio is that of a run that finds the features in the store:
reading and checking them, drawing the episodes and saving the accuracies are counted. Both sides
meet the same episodes and must agree on the accuracies. Times are CPU seconds of one thread.

FOLDER holds ``images_background_small1.zip`` and ``images_background_small2.zip`` of
https://github.com/brendenlake/omniglot/tree/master/python; without it, drawings are synthetic (as
many characters, 20 noisy copies of each).
"""

import argparse
import io
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssl_transfer import models
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.transforms import Pipeline
from ssl_transfer.estimators.episodes import Episodes, draw_episodes
from ssl_transfer.models.small_resnet import small_resnet
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols.few_shot import FewShot

CHARACTERS, DRAWINGS, SIDE = 242, 20, 105
PREPROCESSING = Preprocessing(size=32, resize=None)


def drawings(folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the drawings and the numbers of their characters."""
    if folder is None:
        generator = np.random.default_rng(0)
        characters = generator.random((CHARACTERS, 7, 7)) < 0.3
        ink = characters.repeat(15, 1).repeat(15, 2)[:, None]
        noise = generator.random((CHARACTERS, DRAWINGS, SIDE, SIDE)) < 0.1
        pixels = np.where(ink ^ noise, 0, 255).reshape(-1, SIDE, SIDE)
        return pixels.astype(np.uint8), np.arange(CHARACTERS).repeat(DRAWINGS)
    by_name = {}
    for number in (1, 2):
        with zipfile.ZipFile(folder / f"images_background_small{number}.zip") as archive:
            for member in archive.namelist():
                if member.endswith(".png"):  # Greek and Latin are in both
                    name = member.partition("/")[2]
                    by_name[name] = np.asarray(
                        Image.open(io.BytesIO(archive.read(member))).convert("L")
                    )
    names = sorted(by_name)
    _, labels = np.unique([name.rpartition("/")[0] for name in names], return_inverse=True)
    return np.stack([by_name[name] for name in names]), labels


def dataset_of(pixels: np.ndarray, labels: np.ndarray) -> Dataset:
    """Return the drawings as the test split of a dataset."""
    images = ArrayImages(np.repeat(pixels[..., None], 3, axis=3))
    test = Split(images, labels.astype(np.int64), [f"{i:05d}" for i in range(len(labels))])
    splits = {"train": test.subset([]), "val": test.subset([]), "test": test}
    names = tuple(f"character {label}" for label in range(int(labels.max()) + 1))
    return Dataset("drawings", names, "class", "top1", splits, False, "0" * 64, {})


@torch.no_grad()
def forward_per_episode(encoder: models.Encoder, images: Tensor, episodes: Episodes) -> np.ndarray:
    """Return the accuracies of the loop over episodes, with a forward pass each."""
    encoder.eval()
    ways, shots = episodes.support.shape[1:]
    labels = torch.arange(ways).repeat_interleave(episodes.queries.shape[2])
    accuracies = []
    for samples in torch.from_numpy(episodes.samples):
        features = encoder(images[samples])
        support, queries = features.tensor_split([ways * shots])
        means = support.view(ways, shots, -1).mean(1)
        distances = (queries[:, None] - means).square().sum(2)
        accuracies.append(float((distances.argmin(1) == labels).double().mean()))
    return np.asarray(accuracies)


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the CPU seconds and the result of a call."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main() -> None:
    """Print the seconds of both sides and their ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--omniglot", type=Path)
    parser.add_argument("--classifier", default="class_mean")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = dataset_of(*drawings(options.omniglot))
    encoder = models.wrap(small_resnet(), PREPROCESSING)
    protocol = FewShot(classifier=options.classifier)
    test = dataset["test"]
    episodes = draw_episodes(test.targets, ways=5, shots=5, queries=15, episodes=600, seed=0)
    images = Pipeline(PREPROCESSING)(
        test.images,
        seed=0,
        epochs=np.zeros(len(test), dtype=np.int64),
        indices=np.arange(len(test), dtype=np.int64),
    )
    forward_per_episode(encoder, images, episodes[:5])  # the first call of each side is slow
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)

        def ours(name: str, dataset: Dataset = dataset) -> np.ndarray:
            context = Context(folder / name, folder / "features", progress_bar=False)
            list(protocol.run(encoder, dataset, context))
            with np.load(folder / name / "episodes.npz") as kept:
                accuracies: np.ndarray = kept["accuracies"]
            return accuracies

        first = np.stack(
            [np.asarray(image)[..., 0] for image in test.subset(range(5 * DRAWINGS)).images]
        )
        ours("first", dataset_of(first, test.targets[: 5 * DRAWINGS]))
        loop, expected = timed(lambda: forward_per_episode(encoder, images, episodes))
        extracting, _ = timed(lambda: ours("extracted"))
        stored, accuracies = timed(lambda: ours("stored"))
    source = options.omniglot or "synthetic"
    print(f"{len(test)} drawings ({source}), 600 episodes, 5 ways, 5 shots, 15 queries")
    print(f"forward pass per episode   {loop:8.2f} s   {100 * expected.mean():.2f} %")
    print(f"ours, extraction counted   {extracting:8.2f} s   ratio {loop / extracting:.1f}")
    print(f"ours, features stored      {stored:8.2f} s   ratio {loop / stored:.1f}")
    print(f"{options.classifier}: {100 * accuracies.mean():.2f} %")
    if options.classifier == "class_mean":
        assert np.abs(accuracies - expected).mean() < 1e-3, "the two sides must agree"


if __name__ == "__main__":
    main()
