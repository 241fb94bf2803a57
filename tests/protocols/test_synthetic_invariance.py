"""``synthetic_invariance`` from images to scores, with the published loop as judge."""

import dataclasses
import itertools
import re

import jaxtyping
import numpy as np
import pytest
import torch
import torchvision.transforms.functional as FT
from scipy.spatial.distance import mahalanobis
from torch import nn
from torch.nn import functional as F

from ssl_transfer import models
from ssl_transfer.config import compose, locate, plain, resolve
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.embedded import photos
from ssl_transfer.datasets.invariance_transforms import TRANSFORMS
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.protocols import synthetic_invariance
from ssl_transfer.protocols.base import require
from ssl_transfer.protocols.synthetic_invariance import SyntheticInvariance
from ssl_transfer.runs.config_parts import PROTOCOL_LABELS
from ssl_transfer.runs.signature import problems

RESIZE, CROP = 32, 28
NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STATISTICS_IMAGES = 60
PUBLISHED = {
    "sampling": "with_replacement",
    "order": "original_size",
    "include_identity": True,
    "grid": "published",
    "deformation": "affine",
    "interpolation": "nearest",
    "extra_shear_degrees": 1,
    "blur_kernel": 23,
    "shrinkage": 0,
    "factorisation": "published",
}


def split(samples, seed):
    """Tiles of photographs, of three shapes."""
    tiles = photos(name="photos")["train"].images
    order = np.random.default_rng(seed).permutation(len(tiles))[:samples]
    boxes = [(0, 0, 48, 48), (0, 0, 48, 40), (0, 0, 40, 48)]
    images = [tiles[i].crop(boxes[n % 3]) for n, i in enumerate(order.tolist())]
    return Split(images, np.zeros(samples, dtype=np.int64), [f"{seed}/{i}" for i in order])


@pytest.fixture(scope="module")
def dataset():
    splits = {"train": split(50, 1), "val": split(2, 2), "test": split(STATISTICS_IMAGES, 3)}
    return Dataset("toy", ("a",), "class", "top1", splits, True, "f" * 64, {})


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolution = nn.Conv2d(3, 10, 5, stride=2)
    layers = nn.Sequential(convolution, nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return layers.eval()


@pytest.fixture
def encoder():
    return models.wrap(network(), Preprocessing(size=CROP, resize=RESIZE))


def context(folder, **options):
    return Context(folder, folder / "features", progress_bar=False, **options)


def run(protocol, encoder, dataset, folder, **options):
    surroundings = context(folder, **options)
    scores = {score.metric: score for score in protocol.run(encoder, dataset, surroundings)}
    with np.load(folder / "invariance.npz") as file:
        arrays = dict(file)
    return {name: score.value for name, score in scores.items()}, surroundings.facts, arrays, scores


def grid(name, k):
    """The settings of ``ManualTransform``: names and values of the parameters."""
    root = int(np.sqrt(k))
    shears = torch.linspace(-160, 160, root + 1)[:root].tolist()
    space = (1 - 224 / 256) / 2
    shifts = (torch.linspace(-space, space, root + 1)[:root] * 256).tolist()
    n = int(np.sqrt(root))
    corners, lengths = torch.linspace(0, 0.25, n) * 256, torch.linspace(0.75, 0.25, n) * 256
    boxes = itertools.product(*(axis.tolist() for axis in (corners, corners, lengths, lengths)))
    still = {"angle": 0.0, "translate": (0.0, 0.0), "scale": 1.0}
    off_and_on = [None, {}]
    grids = {
        "rotation": [{"angle": a} for a in torch.linspace(0, 360, k + 1)[:k].tolist()],
        "translation": [
            {**still, "translate": pair, "shear": 1.0} for pair in itertools.product(shifts, shifts)
        ],
        "scale": [
            {**still, "scale": s, "shear": 1.0} for s in torch.linspace(1 / 4, 2, k).tolist()
        ],
        "shear": [{**still, "shear": pair} for pair in itertools.product(shears, shears)],
        "resized_crop": [
            dict(zip(("top", "left", "height", "width"), box, strict=True), size=(CROP, CROP))
            for box in boxes
        ],
        "grayscale": [None, {"num_output_channels": 3}],
        "brightness": [{"brightness_factor": f} for f in torch.linspace(0.25, 5, k).tolist()],
        "contrast": [{"contrast_factor": f} for f in torch.linspace(0.25, 5, k).tolist()],
        "saturation": [{"saturation_factor": f} for f in torch.linspace(0.25, 5, k).tolist()],
        "hue": [{"hue_factor": f} for f in torch.linspace(-0.5, 0.5, k).tolist()],
        "blur": [{"sigma": s, "kernel_size": 23} for s in torch.linspace(1e-5, 20, k).tolist()],
        "sharpness": [{"sharpness_factor": f} for f in torch.linspace(1, 30, k).tolist()],
        "posterize": [{"bits": b} for b in range(1, 8)],
    }
    return grids.get(name, off_and_on)


FUNCTIONS = {
    "rotation": FT.rotate,
    "translation": FT.affine,
    "scale": FT.affine,
    "shear": FT.affine,
    "h_flip": FT.hflip,
    "v_flip": FT.vflip,
    "resized_crop": FT.resized_crop,
    "grayscale": FT.rgb_to_grayscale,
    "blur": FT.gaussian_blur,
    "invert": FT.invert,
    "equalize": FT.equalize,
    "posterize": FT.posterize,
}


def published_view(image, name, parameters):
    if parameters is not None:
        image = FUNCTIONS.get(name, getattr(FT, f"adjust_{name}", None))(image, **parameters)
    if name != "resized_crop" or parameters is None:
        image = FT.center_crop(FT.resize(image, RESIZE), CROP)
    return FT.normalize(FT.pil_to_tensor(image).to(torch.float32) / 255.0, *NORM)


@pytest.fixture(scope="module")
def published_statistics(dataset):
    features = torch.cat([clean_feature(image) for image in dataset["test"].images])
    return features.mean(dim=0), np.linalg.inv(np.cov(features, rowvar=False))


@torch.no_grad()
def clean_feature(image):
    return network()(published_view(image, "none", None)[None])


@torch.no_grad()
def published_scores(name, k, photographs, images, statistics):
    """eval_synthetic_invariance.py of github.com/linusericsson/ssl-invariances at 56e2b05."""
    model, (mean_feature, inv_cov_matrix) = network(), statistics
    cholesky_matrix = torch.linalg.cholesky(torch.from_numpy(inv_cov_matrix).to(torch.float32))
    sampler = np.random.RandomState(0).choice(np.arange(len(photographs)), images)
    settings = grid(name, k)
    L, S = torch.zeros((images, len(settings))), torch.zeros((images, len(settings)))
    for i in range(images):
        image = photographs[int(sampler[i])]
        data = torch.stack([published_view(image, name, one) for one in settings])
        feature, changed = clean_feature(image), model(data)
        a = (mean_feature - feature) @ cholesky_matrix
        for j in range(len(settings)):
            b = (mean_feature - changed[j]) @ cholesky_matrix
            S[i, j] = F.cosine_similarity(a, b, dim=-1).mean()
            L[i, j] = mahalanobis(feature[0], changed[j], inv_cov_matrix)
    return np.nanmean(S, axis=0), np.nanmean(L, axis=0)


# Differences that remain: torchvision's hue of a Pillow image has 8 bits, so that a shift differs
# by up to 1.4 degrees; rounding decides which pixel is nearest to a place between two.
TOLERANCE = dict.fromkeys(("rotation", "translation", "scale", "shear", "hue"), 0.1)
COUNTS = {"resized_crop": 16, "scale": 10}


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"deform"}))
def test_published_options_give_the_scores_of_the_published_loop(
    name, encoder, dataset, published_statistics, tmp_path
):
    k = min(TRANSFORMS[name].count, COUNTS.get(name, 9))
    images, tolerance = 10, TOLERANCE.get(name, 0.03)
    similarity, distance = published_scores(
        name, k, dataset["test"].images, images, published_statistics
    )
    protocol = SyntheticInvariance(transform=name, k=k, images=images, **PUBLISHED)
    values, facts, arrays, _ = run(protocol, encoder, dataset, tmp_path, batch_size_eval=7)
    np.testing.assert_allclose(arrays["similarity"], similarity, atol=tolerance)
    np.testing.assert_allclose(arrays["distance"], distance, atol=0.05, rtol=tolerance)
    assert values["similarity"] == pytest.approx(similarity.mean(), abs=tolerance / 3)
    assert values["distance"] == pytest.approx(distance.mean(), rel=tolerance / 3)
    assert facts["images"] == images > facts["distinct_images"]


def test_the_published_code_draws_990_distinct_of_imagenets_50000_images():
    protocol = SyntheticInvariance(sampling="with_replacement")
    drawn = protocol.sample(50_000, 7)
    assert (len(drawn), len(np.unique(drawn))) == (1000, 990)


def test_the_sound_sample_has_distinct_images_that_depend_on_the_seed_of_the_data():
    protocol = SyntheticInvariance(images=20)
    drawn = [protocol.sample(60, seed) for seed in (0, 0, 1)]
    assert [len(np.unique(one)) for one in drawn] == [20] * 3
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert np.array_equal(protocol.sample(7, 0), np.arange(7))


def test_scores_are_the_means_of_the_definition(encoder, dataset, tmp_path):
    """Invert, whose settings are the image itself and 255 minus its pixels."""
    protocol = SyntheticInvariance(transform="invert", images=20)
    values, facts, arrays, scores = run(protocol, encoder, dataset, tmp_path)
    features = np.load(next((tmp_path / "features").glob("*.npy"))).astype(np.float64)
    mean, precision = features.mean(0), np.linalg.inv(np.cov(features, rowvar=False))
    judged = network().double()
    mean_pixel, std = (torch.tensor(values).double().view(3, 1, 1) for values in NORM)
    cosines, distances = [], []
    for index in protocol.sample(STATISTICS_IMAGES, dataset.split_seed):
        image = FT.center_crop(FT.resize(dataset["test"].images[index], RESIZE), CROP)
        pixels = FT.pil_to_tensor(image).double() / 255
        with torch.no_grad():
            pair = [judged(((x - mean_pixel) / std)[None])[0].numpy() for x in (pixels, 1 - pixels)]
        a, b = (x - mean for x in pair)
        cosines.append(a @ precision @ b / np.sqrt(a @ precision @ a * (b @ precision @ b)))
        distances.append(mahalanobis(*pair, precision))
    assert values["similarity"] == pytest.approx(np.mean(cosines), abs=1e-4)
    assert values["distance"] == pytest.approx(np.mean(distances), rel=1e-4)
    assert values["similarity_with_identity"] == pytest.approx((1 + np.mean(cosines)) / 2, abs=1e-4)
    assert values["distance_with_identity"] == pytest.approx(np.mean(distances) / 2, rel=1e-3)
    assert [name for name, score in scores.items() if score.primary] == ["similarity"]
    directions = {name: score.higher_is_better for name, score in scores.items()}
    assert all(better == name.startswith("similarity") for name, better in directions.items())
    np.testing.assert_allclose(arrays["similarity"], [1, np.mean(cosines)], atol=1e-4)
    assert arrays["settings"].tolist() == [[0], [1]]
    assert arrays["is_identity"].tolist() == [True, False]
    assert facts["whitening"]["shrinkage"] == facts["undefined_similarities"] == 0
    assert (facts["settings"], facts["identity_settings"], facts["images"]) == (2, 1, 20)


@pytest.mark.parametrize("options", [{}, PUBLISHED], ids=["sound", "published"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_identity_settings_have_similarity_one_and_distance_zero(
    name, options, encoder, dataset, tmp_path
):
    k = {"resized_crop": 1, "translation": 4, "shear": 4}.get(name, 3)
    k = None if TRANSFORMS[name].count < 9 else k
    protocol = SyntheticInvariance(transform=name, k=k, images=3, **options)
    _, _, arrays, _ = run(protocol, encoder, dataset, tmp_path)
    same = np.isclose(arrays["similarity"], 1, atol=1e-7) & (arrays["distance"] < 1e-3)
    assert same[arrays["is_identity"]].all()
    if not options:  # one degree of shear moves no pixel of an image that is small enough
        assert np.array_equal(same, arrays["is_identity"])


@pytest.mark.parametrize("options", [{}, PUBLISHED], ids=["sound", "published"])
def test_batches_and_workers_change_no_score(options, encoder, dataset, tmp_path):
    protocol = SyntheticInvariance(transform="deform", k=3, images=7, **options)
    one, *_ = run(protocol, encoder, dataset, tmp_path / "one")
    other, *_ = run(protocol, encoder, dataset, tmp_path / "other", batch_size_eval=2)
    assert other == pytest.approx(one, rel=1e-4)


def _scores_of_one_process(folder, order, dataset):
    encoder = models.wrap(network(), Preprocessing(size=CROP, resize=RESIZE))
    protocol = SyntheticInvariance(transform="hue", k=3, images=5, order=order)
    surroundings = context(folder)
    return [score.value for score in protocol.run(encoder, dataset, surroundings)]


@pytest.mark.parametrize("order", ["resize_first", "original_size"])
def test_two_processes_have_the_scores_of_one(order, dataset, tmp_path, gloo_pool):
    small = dataclasses.replace(dataset, splits={"train": split(20, 1), "test": split(20, 3)})
    alone = _scores_of_one_process(tmp_path / "one", order, small)
    first, second = gloo_pool.run(_scores_of_one_process, tmp_path / "two", order, small)
    assert first == second == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("order", ["resize_first", "original_size"])
def test_an_interrupted_run_goes_on_where_it_was(order, encoder, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_invariance, "BLOCK", 2)
    protocol = SyntheticInvariance(transform="brightness", k=6, images=4, order=order)
    whole, *_ = run(protocol, encoder, dataset, tmp_path / "whole")
    calls = []
    compute = synthetic_invariance._sum

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(synthetic_invariance, "_sum", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(protocol, encoder, dataset, tmp_path / "cut")
    again, *_ = run(protocol, encoder, dataset, tmp_path / "cut")
    assert len(calls) == 1 + (3 if order == "resize_first" else 2)
    assert again == whole


def test_the_encoder_is_judged_in_eval_mode_and_keeps_its_own(encoder, dataset, tmp_path):
    encoder.train()
    run(SyntheticInvariance(images=2), encoder, dataset, tmp_path)
    assert encoder.training


def test_fused_encoders_and_embeddings_are_measured_as_they_are(encoder, dataset, tmp_path):
    fused = FusedEncoder([encoder, models.wrap(network(), encoder.preprocessing)], "concatenate")
    _, facts, _, _ = run(SyntheticInvariance(images=4), fused, dataset, tmp_path / "fused")
    # Both members are the same network, so that the rank is that of one.
    assert (facts["whitening"]["dimensions"], facts["whitening"]["rank"]) == (20, 10)
    features, *_ = run(SyntheticInvariance(images=4), encoder, dataset, tmp_path / "features")
    torch.manual_seed(0)
    encoder.projector = nn.Linear(10, 10)  # an affine map that can be inverted changes no score
    nn.init.orthogonal_(encoder.projector.weight)
    protocol = SyntheticInvariance(images=4, representation="embeddings")
    embeddings, *_ = run(protocol, encoder, dataset, tmp_path / "embeddings")
    assert embeddings == pytest.approx(features, rel=1e-2, abs=1e-2)
    encoder.projector = nn.Sequential(nn.Linear(10, 10), nn.Tanh())
    other, *_ = run(protocol, encoder, dataset, tmp_path / "other")
    assert other != pytest.approx(features, rel=1e-2, abs=1e-2)


def test_squashed_images_are_squashed_in_either_order(dataset, tmp_path):
    preprocessing = Preprocessing(size=CROP, resize=RESIZE, squash=True)
    encoder = models.wrap(network(), preprocessing)
    scores = {}
    for order in ("resize_first", "original_size"):
        protocol = SyntheticInvariance(transform="invert", images=9, order=order)
        scores[order], *_ = run(protocol, encoder, dataset, tmp_path / order)
    assert scores["original_size"] == pytest.approx(scores["resize_first"], rel=0.05, abs=0.02)


def test_a_singular_covariance_is_shrunk_with_a_warning_or_refused(
    encoder, dataset, tmp_path, caplog
):
    few = dataclasses.replace(dataset, splits={"train": split(20, 1), "test": split(5, 3)})
    _, facts, _, _ = run(SyntheticInvariance(images=5), encoder, few, tmp_path)
    assert facts["whitening"]["rank"] == 4
    assert 0 < facts["whitening"]["shrinkage"] <= 1
    assert "rank 4 of 10 dimensions (5 test images)" in caplog.text
    with pytest.raises(ValueError, match="use more than 10 images, or set `shrinkage`"):
        run(SyntheticInvariance(shrinkage=0), encoder, few, tmp_path)


def test_the_training_split_can_whiten(encoder, dataset, tmp_path):
    protocol = SyntheticInvariance(statistics="train")
    values, facts, _, _ = run(protocol, encoder, dataset, tmp_path / "train")
    assert (facts["whitening"]["split"], facts["whitening"]["images"]) == ("train", 50)
    plain, _, _, _ = run(SyntheticInvariance(), encoder, dataset, tmp_path / "test")
    assert values["distance"] != plain["distance"]


def test_the_split_of_the_statistics_needs_two_images(dataset):
    empty = dataclasses.replace(dataset, splits={**dataset.splits, "train": split(0, 1)})
    require(SyntheticInvariance(), empty)
    with pytest.raises(ValueError, match=re.escape("set `protocol.statistics=test`")):
        require(SyntheticInvariance(statistics="train"), empty)


def test_lanczos_is_refused_in_original_size_only(dataset, tmp_path):
    preprocessing = Preprocessing(size=CROP, resize=RESIZE, interpolation="lanczos")
    encoder = models.wrap(network(), preprocessing)
    run(SyntheticInvariance(images=2), encoder, dataset, tmp_path)
    with pytest.raises(ValueError, match="but the preprocessing has lanczos"):
        run(SyntheticInvariance(order="original_size"), encoder, dataset, tmp_path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"transform": "rotate"}, r"one of \['rotation', 'translation'.*but is 'rotate'"),
        ({"transform": "shear", "k": 10}, "power of 2"),
        ({"transform": "invert", "k": 1}, "large enough for a setting that changes images"),
        ({"blur_kernel": 22}, "must be odd"),
        ({"images": 0}, "`images` must be at least 1"),
    ],
)
def test_wrong_values_are_refused_before_any_work(keys, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no checked types
    with pytest.raises(ValueError, match=message):
        SyntheticInvariance(**keys)


def test_the_option_composes_and_binds_with_the_defaults_of_the_class():
    config = plain(compose(["protocol=synthetic_invariance"]))
    assert problems(config) == []
    node = resolve(config)["protocol"]
    keys = {key: value for key, value in node.items() if key not in PROTOCOL_LABELS}
    assert locate(node["_target_"])(**keys) == SyntheticInvariance()
