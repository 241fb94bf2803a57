"""An embedded data set with domains: handwritten digits whose colour misleads."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from ssl_transfer.config.ranges import Range
from ssl_transfer.datasets.base import Dataset, Split, concatenate
from ssl_transfer.datasets.embedded import handwritten_digits, hash_of, in_memory
from ssl_transfer.datasets.reader import Options, assemble, reader
from ssl_transfer.randomness import permutation, uniforms

CLASSES = ("0 to 4", "5 to 9")
INKS = np.array([[230, 70, 60], [60, 190, 80]])  # red, green
SHARES = {"test": 1 / 3, "ood_val": 1 / 6}
"""Shares of the digits that other domains than those of the training show."""


class Domain(NamedTuple):
    """How a domain shows digits.

    Args:
        agreement: probability that the colour is that of the label: red for the first class.
        paper: grey value of the background.
        ink: strength of the ink, in [0, 1].
    """

    agreement: float
    paper: int
    ink: float


DOMAINS: Mapping[str, Domain] = {
    "school": Domain(1.0, 0, 1.0),
    "bank": Domain(0.75, 20, 0.9),
    "post": Domain(0.5, 40, 0.8),
    "office": Domain(0.3, 30, 0.85),
    "court": Domain(0.1, 10, 0.95),
}
PLACES = {"train": ("school", "bank", "post"), "ood_val": ("office",), "test": ("court",)}
"""The domains of each split; validation images of the first ones come from ``train``."""


@reader
def digits_domains(
    options: Options, label_noise: Annotated[float, Range(0, 0.5, open_high=True)] = 0.1
) -> Dataset:
    """Return scikit-learn's digits in five domains: is the digit below 5? Top-1.

    A stand-in for benchmarks of domain generalisation, after Colored MNIST (Arjovsky et al. 2019,
    https://arxiv.org/abs/1907.02893, section 5.2): labels are flipped with the probability
    ``label_noise``, and a digit is red or green. In the training domains the colour agrees with the
    label more often than the digit does on average, but how often differs between domains; in the
    test domain it mostly disagrees. Each domain has its own paper and ink, too. Every digit of the
    training splits is shown once in each of the three training domains, as one group; digits of
    ``ood_val`` and of ``test`` are not shown in training.

    Args:
        options: shared options.
        label_noise: probability of a wrong label.
    """
    values, digits = handwritten_digits()
    everyone = np.arange(len(digits))
    noisy = _draws("label", everyone, options.split_seed) < label_noise
    labels = (digits >= 5) ^ noisy
    order = permutation(options.split_seed, "digits of splits", 0, len(digits))
    tested, other = (round(len(digits) * SHARES[key]) for key in ("test", "ood_val"))
    of_split = {
        "test": order[:tested],
        "ood_val": order[tested : tested + other],
        "train": order[tested + other :],
    }
    splits = {
        key: concatenate(
            *(
                _shown(name, values[members], labels[members].astype(np.int64), members, options)
                for name in PLACES[key]
            )
        )
        for key, members in of_split.items()
    }
    pixels = [np.stack([np.asarray(i) for i in split.images]) for split in splits.values()]
    return assemble(
        options,
        classes=CLASSES,
        train=splits["train"],
        test=splits["test"],
        ood_val=splits["ood_val"],
        content=hash_of(np.concatenate(pixels)),
        domains=tuple(DOMAINS),
        facts={"test": "another domain", "label_noise": label_noise},
    )


def _shown(
    name: str,
    values: Int64[np.ndarray, "digits 8 8"],
    labels: Int64[np.ndarray, " digits"],
    members: Int64[np.ndarray, " digits"],
    options: Options,
) -> Split:
    """Return digits as a domain shows them."""
    domain = DOMAINS[name]
    agrees = _draws(f"colour in {name}", members, options.split_seed) < domain.agreement
    pixels = _painted(values, np.where(agrees, labels, 1 - labels), domain)
    split = in_memory(pixels, labels, [f"{name}/{number:04d}" for number in members.tolist()])
    numbers = np.full(len(members), list(DOMAINS).index(name))
    return Split(split.images, split.targets, split.names, groups=members, domains=numbers)


def _painted(
    values: Int64[np.ndarray, "digits 8 8"], colours: Int64[np.ndarray, " digits"], domain: Domain
) -> UInt8[np.ndarray, "digits 8 8 3"]:
    """Return coloured digits on the domain's paper."""
    covered = domain.ink * values[..., None] / 16
    painted = covered * INKS[colours][:, None, None, :] + (1 - covered) * domain.paper
    pixels: UInt8[np.ndarray, "digits 8 8 3"] = np.rint(painted).astype(np.uint8)
    return pixels


def _draws(
    purpose: str, members: Int64[np.ndarray, " digits"], seed: int
) -> Float64[np.ndarray, " digits"]:
    """Return a uniform number for each digit."""
    draws: Float64[np.ndarray, " digits"]
    draws = uniforms(seed, purpose, np.zeros_like(members), members)[:, 0]
    return draws
