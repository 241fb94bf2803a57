"""``load_classifier``: the classifier of a finished run or of a published file, ready to use."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import HydraException
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor, nn

from ssl_transfer import models, randomness
from ssl_transfer.config import compose, plain, resolve
from ssl_transfer.config.hydra_errors import sentence
from ssl_transfer.datasets.decoding import Decoding, decoding_of, read_rgb, to_rgb
from ssl_transfer.datasets.imagenet_variants import usual_classes
from ssl_transfer.datasets.transforms import centre_crop
from ssl_transfer.models import Encoder
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.heads import HEAD_FILE, Head, load_head
from ssl_transfer.models.patch_tokens import network_below
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.runs import Run, products
from ssl_transfer.runs.finished import final_encoder, read_finished

Picture = Image.Image | str | Path | Shaped[np.ndarray, "height width _"]
"""A Pillow image, the path of a file, or an array of 8-bit RGB."""


class Classifier(nn.Module):
    """An encoder with its head, from pixels to class scores, in eval mode.

    Args:
        encoder: the encoder.
        head: the head; its layers get the encoder's number type.
        preprocessing: preprocessing of the images (``None``: the encoder's own).
        classes: names in the order of the class scores (``None``: the head's; without any, the
            numbers of the classes).
        decoding: how ``prepare`` decodes files and images of more than 8 bits (``None``: the
            defaults of ``Decoding``).

    Raises:
        ValueError: if the number of names is not the number of class scores.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        preprocessing: Preprocessing | None = None,
        *,
        classes: Sequence[str] | None = None,
        decoding: Decoding | None = None,
    ) -> None:
        super().__init__()
        names = classes or head.classes or [str(number) for number in range(head.outputs)]
        if len(names) != head.outputs:
            raise ValueError(
                f"`classes` must name the classifier's {head.outputs} outputs in their order, but "
                f"has {len(names)} names."
            )
        self.classes = tuple(names)
        self.target = head.target
        if isinstance(encoder, FusedEncoder) and not encoder.shares_preprocessing:
            raise ValueError(
                "a classifier of single images must prepare them once, but the members of "
                f"`{encoder.name}` expect different preprocessing; give `protocol.image_size` or "
                "`protocol.preprocessing` that makes them agree, and train it again."
            )
        self.preprocessing = preprocessing or encoder.preprocessing
        self.decoding = decoding or Decoding()
        below = network_below(encoder, head.kind)
        self.encoder = below.backbone if isinstance(below, Encoder) else below
        dtype = next((p.dtype for p in encoder.parameters() if p.is_floating_point()), None)
        self.head = head.layers.to(dtype or torch.float32)
        for name, values in (("mean", self.preprocessing.mean), ("std", self.preprocessing.std)):
            constant = torch.tensor(values, dtype=dtype).view(3, 1, 1)
            self.register_buffer(name, constant, persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.eval().requires_grad_(False)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"] | UInt8[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the class scores (logits) of images that have the encoder's size.

        Args:
            images: red, green and blue in ``[0, 1]``, or as 8-bit integers; ``prepare`` makes them.

        Raises:
            ValueError: if the images have another size.
        """
        size = self.preprocessing.size
        if images.shape[1:] != (3, size, size):
            raise ValueError(
                f"the images must be [batch, 3, {size}, {size}], but are {list(images.shape)}; "
                "`prepare` resizes and crops images of any size."
            )
        # The order of operations is that of `datasets.transforms.Pipeline`.
        pixels = images.to(self.mean.dtype)
        if not images.is_floating_point():
            pixels = pixels / 255
        if self.preprocessing.channel_order == "bgr":
            pixels = pixels.flip(1)
        scores: Tensor = self.head(self.encoder((pixels - self.mean) / self.std))
        return scores

    def prepare(self, images: Sequence[Picture]) -> UInt8[Tensor, "batch 3 size size"]:
        """Return the input of ``forward``: images decoded, resized and cropped as in the run.

        Args:
            images: Pillow images, paths of image files, or arrays ``[H, W, 3]`` of 8-bit RGB.

        Raises:
            ValueError: if an image cannot be decoded.
            OSError: if a file cannot be read.
        """
        size = self.preprocessing.size
        pixels = np.empty((len(images), size, size, 3), dtype=np.uint8)
        for row, image in enumerate(images):
            pixels[row] = np.asarray(centre_crop(self._decoded(image), self.preprocessing))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def _decoded(self, image: Any) -> Image.Image:
        if isinstance(image, str | Path):
            return read_rgb(image, self.decoding)
        if isinstance(image, Image.Image):
            return to_rgb(image, self.decoding.value_range)
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,):
            return Image.fromarray(image)
        kind = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else ""
        raise ValueError(
            "an image must be a Pillow image, the path of a file, or an array [H, W, 3] of uint8, "
            f"but is a {type(image).__name__} {kind}".rstrip()
            + "."
        )

    @torch.no_grad()
    def predict(
        self, images: Sequence[Picture],
        *, batch_size: int = 64,
    ) -> Float[Tensor, "images classes"]:  # fmt: skip
        """Return the probability of every class, as fractions in ``[0, 1]``, on the CPU.

        Args:
            images: as in ``prepare``; of any number, only ``batch_size`` are in memory at a time.
            batch_size: images per forward pass.
        """
        return torch.cat([*self._predictions(images, batch_size)])

    def _predictions(self, images: Sequence[Any], batch_size: int) -> Iterator[Tensor]:
        yield torch.empty(0, len(self.classes), dtype=self.mean.dtype)
        for start in range(0, len(images), batch_size):
            batch = self.prepare(images[start : start + batch_size]).to(self.mean.device)
            scores = self(batch)
            yield (scores.softmax(1) if self.target == "class" else scores.sigmoid()).cpu()


@randomness.preserved()
def load_classifier(
    path: str | Path,
    model: str | None = None,
    *,
    overrides: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    trust_targets: bool = False,
) -> Classifier:
    """Return the classifier of a finished run, or that of a published file.

    A run of ``linear_probe`` or ``logistic_regression`` leaves its head, and the encoder is built
    again from the run's record; a run that trains the encoder must have been told to keep it
    (``protocol.keep_encoder=true``).

    Args:
        path: folder of a run, or a file (or folder) of weights with a classifier, such as the
            linear probes of Mixed Barlow Twins.
        model: option of ``conf/model`` that the weights belong to; only for published files.
        overrides: further choices for the model, as on the command line; likewise.
        classes: names of the classes in the order of the class scores (``None``: those that the
            run recorded; for 1,000 published outputs ImageNet's WordNet ids).
        trust_targets: whether to call any code that the run's record names, and download files.

    Raises:
        ValueError: in one sentence, if there is no classifier, or its parts do not fit together.

    Example:
        classifier = load_classifier("outputs/linear_probe/swav_pets_0a1b2c3d")
        probabilities = classifier.predict(["cat.jpg", "dog.jpg"])
        names = [classifier.classes[row.argmax()] for row in probabilities]
    """
    place = Path(path).expanduser()
    if (place / products.RECORD).is_file():
        return _of_run(place, classes, trust_targets=trust_targets)
    if (place / "failure.json").is_file():
        raise ValueError(
            f"the run must have finished, but that of `{place}` failed; `python -m results run "
            f"{place}` has the reason."
        )
    if model is None:
        raise ValueError(
            f"`{place}` must be the folder of a finished run, with {products.RECORD}, but is not; "
            "for a published file of weights, name its architecture by `model`, an option of "
            "conf/model."
        )
    try:
        config = plain(compose([f"model={model}", f"model.weights.path='{place}'", *overrides]))
    except HydraException as error:
        raise ValueError(sentence(error)) from error
    encoder = models.build(resolve(config)["model"])
    if encoder.head is None:
        raise ValueError(
            f"`{place}` must hold a linear classifier on {encoder.feature_dim} features beside the "
            "encoder, but holds none, or several; `python -m ssl_transfer.models.inspect` lists "
            "its tensors."
        )
    names = classes or encoder.head.classes or usual_classes(encoder.head.outputs)
    return Classifier(encoder, encoder.head, classes=names)


def _of_run(folder: Path, classes: Sequence[str] | None, *, trust_targets: bool) -> Classifier:
    """Return the classifier of a finished run."""
    run, record = read_finished(folder, trust_targets=trust_targets)
    if not (folder / HEAD_FILE).is_file():
        raise ValueError(_without_head(run, folder))
    products.verify(folder, record)
    encoder = final_encoder(run, record, folder)
    head = load_head(folder, encoder.feature_dim)
    assert head is not None
    dataset = run.config.get("dataset") or {}
    return Classifier(
        encoder, head, classes=classes,
        decoding=decoding_of(dataset.get("value_range")),
    )  # fmt: skip


def _without_head(run: Run, folder: Path) -> str:
    protocol = run.names["protocol"]
    if "keep_encoder" in run.config["protocol"]:
        remedy = "repeat its command with protocol.keep_encoder=true"
    elif protocol == "logistic_regression":  # a run of older code
        remedy = "repeat its command with force=true"
    else:
        remedy = f"`{protocol}` leaves none; choose a run of linear_probe, for example"
    return f"the run must have left its classifier, but `{folder}` has no {HEAD_FILE}; {remedy}."
