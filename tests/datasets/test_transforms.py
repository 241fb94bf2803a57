import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as judge
from torchvision.transforms.v2 import functional as judge_functional

from ssl_transfer.datasets import pixels as pixel_operations
from ssl_transfer.datasets import transforms
from ssl_transfer.datasets.base import Split
from ssl_transfer.datasets.draws import FACTORS, NUM_DRAWS, ORDER, random_boxes
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.transforms import (
    CROP_FLIP,
    Augmentation,
    Pipeline,
    View,
    ViewDataset,
    augmentation,
    collate,
    views,
)
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.randomness import uniforms

EVERYTHING = Augmentation(
    crop_scale=(0.2, 1.0),
    flip_probability=0.5,
    jitter_probability=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.2,
    grayscale_probability=0.2,
    blur_probability=0.5,
    solarize_probability=0.2,
)


COLOURS_FIRST = dataclasses.replace(
    EVERYTHING, order=("jitter", "grayscale", "blur", "crop", "solarize")
)


def photographs(count: int, width: int = 47, height: int = 35) -> list[Image.Image]:
    """Smooth random pictures, every one different."""
    generator = np.random.default_rng(count)
    coarse = generator.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    return [
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        for pixels in coarse
    ]


def numbers(count: int) -> np.ndarray:
    zero = np.zeros(count, dtype=np.int64)
    return uniforms(7, "augment", zero, np.arange(count), draws=NUM_DRAWS)


def images_in_unit_range(count: int) -> torch.Tensor:
    return torch.stack(
        [
            judge_functional.to_dtype(judge_functional.to_image(i), torch.float32, scale=True)
            for i in photographs(count)
        ]
    )


def run(pipeline: Pipeline, images: list[Image.Image], seed: int = 0) -> torch.Tensor:
    count = len(images)
    return pipeline(images, seed=seed, epochs=np.zeros(count, np.int64), indices=np.arange(count))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("size", "resize", "width", "height"),
    [(24, 28, 47, 35), (24, None, 35, 47), (35, None, 47, 35), (31, 33, 500, 33), (64, 73, 20, 27)],
)
def test_evaluation_equals_torchvision(
    interpolation: str, size: int, resize: int | None, width: int, height: int
) -> None:
    preprocessing = Preprocessing(size=size, resize=resize, interpolation=interpolation)
    images = photographs(3, width, height)
    expected = judge.Compose(
        [
            judge.Resize(
                preprocessing.shorter_side, judge.InterpolationMode(interpolation), antialias=True
            ),
            judge.CenterCrop(size),
            judge.ToTensor(),
            judge.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )
    torch.testing.assert_close(
        run(Pipeline(preprocessing), images),
        torch.stack([expected(image) for image in images]),
        rtol=0,
        atol=1e-6,
    )


def test_a_squashed_image_is_torchvisions_before_the_same_crop() -> None:
    # `Scale([257, 257])`, `CenterCrop(224)` of few_shot.py, github.com/linusericsson/ssl-transfer
    preprocessing = Preprocessing(size=24, resize=27, squash=True)
    images = photographs(2, 47, 35) + photographs(1, 20, 90)
    expected = judge.Compose([judge.Resize((27, 27)), judge.CenterCrop(24), judge.ToTensor()])
    seen = np.stack([np.asarray(transforms.centre_crop(i, preprocessing)) for i in images])
    assert np.array_equal(
        seen.transpose(0, 3, 1, 2),
        torch.stack([expected(image) for image in images]).mul(255).round().numpy(),
    )


def test_squashing_is_scaled_with_the_size_and_leaves_other_identities() -> None:
    preprocessing = Preprocessing(size=224, resize=257, squash=True)
    assert preprocessing.at_size(112).resize == round(257 / 2)
    assert preprocessing.identity()["squash"] is True
    assert not {"square", "squash"} & Preprocessing().identity().keys()
    with pytest.raises(ValueError, match=r"`preprocessing.square` and `preprocessing.squash` must"):
        dataclasses.replace(preprocessing, square=True)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (pixel_operations.brightness, judge_functional.adjust_brightness),
        (pixel_operations.contrast, judge_functional.adjust_contrast),
        (pixel_operations.saturation, judge_functional.adjust_saturation),
        (pixel_operations.hue, judge_functional.adjust_hue),
    ],
)
def test_each_colour_operation_equals_torchvision(operation, expected) -> None:
    pixels = images_in_unit_range(12)
    pixels[0, :, :5] = 0.0  # black, white and grey have no hue
    pixels[0, :, 5:10] = 1.0
    pixels[0, :, 10:15] = 0.25
    if operation is pixel_operations.hue:
        factors = torch.linspace(-0.5, 0.5, 12)
    else:
        factors = torch.linspace(0.0, 2.0, 12)
    ours = operation(pixels.clone(), factors.view(-1, 1, 1, 1))
    judged = torch.stack([expected(x, float(f)) for x, f in zip(pixels, factors, strict=True)])
    torch.testing.assert_close(ours, judged, rtol=0, atol=3e-6)


def test_grayscale_and_solarize_equal_torchvision() -> None:
    pixels = images_in_unit_range(3)
    torch.testing.assert_close(
        pixel_operations.grayscale(pixels).expand(-1, 3, -1, -1),
        judge_functional.rgb_to_grayscale(pixels, 3),
        rtol=0,
        atol=1e-6,
    )
    torch.testing.assert_close(
        pixel_operations.solarize(pixels), judge_functional.solarize(pixels, 0.5), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("side", [32, 61, 96])
def test_blur_equals_torchvision_with_a_kernel_of_a_tenth_of_the_size(side: int) -> None:
    pixels = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    sigmas = np.array([0.1, 0.5, 1.3, 2.0])
    kernel = 2 * (side // 20) + 1
    judged = [
        judge_functional.gaussian_blur(x, [kernel, kernel], [float(s), float(s)])
        for x, s in zip(pixels, sigmas, strict=True)
    ]
    torch.testing.assert_close(
        pixel_operations.gaussian_blur(pixels, sigmas), torch.stack(judged), rtol=0, atol=2e-6
    )


def test_jitter_applies_torchvisions_operations_in_each_images_own_order() -> None:
    pixels, draws = images_in_unit_range(40), numbers(40)
    chosen = Augmentation(
        jitter_probability=1, brightness=0.8, contrast=0.6, saturation=0.4, hue=0.3
    )
    ours = transforms.color_jitter(pixels.clone(), draws, chosen)
    functions = (
        judge_functional.adjust_brightness,
        judge_functional.adjust_contrast,
        judge_functional.adjust_saturation,
        judge_functional.adjust_hue,
    )
    orders = set()
    for row in range(40):
        low, high = np.array([0.2, 0.4, 0.6, -0.3]), np.array([1.8, 1.6, 1.4, 0.3])
        factors = low + (high - low) * draws[row, FACTORS]
        order = np.argsort(draws[row, ORDER])
        orders.add(tuple(order))
        expected = pixels[row]
        for part in order:
            expected = functions[part](expected, float(factors[part]))
        # Hue is steep where there is little colour, which magnifies rounding; 8 bits are 4e-3.
        torch.testing.assert_close(ours[row], expected, rtol=0, atol=1e-4)
    assert len(orders) > 15


def test_boxes_are_distributed_as_torchvisions() -> None:
    count, image = 4000, torch.empty(3, 60, 90)
    torch.manual_seed(0)
    sampled = [
        judge.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)
    ]
    top, left, height, width = np.array(sampled, dtype=float).T
    boxes = random_boxes(
        np.tile([90, 60], (count, 1)), numbers(count), (0.08, 1.0), (3 / 4, 4 / 3)
    ).astype(float)
    ours = (boxes[:, 0], boxes[:, 1], boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    from scipy.stats import ks_2samp

    for mine, theirs in zip(ours, (left, top, width, height), strict=True):
        assert ks_2samp(mine, theirs).pvalue > 0.01


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (1, 1), (7, 500)])
def test_hopeless_shapes_get_torchvisions_central_crop(width: int, height: int) -> None:
    box = random_boxes(
        np.array([[width, height]]), np.full((1, NUM_DRAWS), 0.999), (0.9, 1.0), (3 / 4, 4 / 3)
    )[0]
    torch.manual_seed(0)
    top, left, high, wide = judge.RandomResizedCrop.get_params(
        torch.empty(3, height, width), [0.9, 1.0], [3 / 4, 4 / 3]
    )
    assert box.tolist() == [left, top, left + wide, top + high]


def test_a_cropped_view_equals_crop_and_resize_except_near_its_border() -> None:
    # PIL's `box` lets the filter reach over the crop's border; inside both are the same.
    preprocessing = Preprocessing(size=16, resize=None, mean=(0, 0, 0), std=(1, 1, 1))
    chosen = Augmentation(flip_probability=0.0, crop_scale=(0.5, 0.9))
    images = photographs(5, 64, 64)
    ours = run(Pipeline(preprocessing, chosen), images)
    draws = uniforms(0, "augment", np.zeros(5, np.int64), np.arange(5), draws=NUM_DRAWS)
    boxes = random_boxes(np.full((5, 2), 64), draws, (0.5, 0.9), (3 / 4, 4 / 3))
    for row, image in enumerate(images):
        expected = image.crop(boxes[row].tolist()).resize((16, 16), Image.Resampling.BILINEAR)
        torch.testing.assert_close(
            ours[row, :, 2:-2, 2:-2],
            judge.ToTensor()(expected)[:, 2:-2, 2:-2],
            rtol=0,
            atol=1.01 / 255,
        )


@pytest.mark.parametrize(
    ("size", "chosen"), [(16, EVERYTHING), (33, EVERYTHING), (224, EVERYTHING), (16, COLOURS_FIRST)]
)
def test_a_samples_pixels_do_not_depend_on_its_batch(size: int, chosen: Augmentation) -> None:
    count = 40 if size < 100 else 5
    images = photographs(count)
    pipeline = Pipeline(Preprocessing(size=size, resize=None), chosen, view=1)
    epochs, indices = np.arange(count) % 3, np.arange(count) + 100
    whole = pipeline(images, seed=5, epochs=epochs, indices=indices)
    order = np.random.default_rng(0).permutation(count)
    for rows in (order[:1], order[1:8], order[8:], order[::-1]):
        part = pipeline(
            [images[i] for i in rows], seed=5, epochs=epochs[rows], indices=indices[rows]
        )
        assert torch.equal(part, whole[torch.from_numpy(rows.copy())])


def test_views_epochs_seeds_and_samples_differ() -> None:
    image = photographs(1) * 2
    preprocessing = Preprocessing(size=16, resize=None)
    one, zero = np.ones(2, np.int64), np.zeros(2, np.int64)
    base = Pipeline(preprocessing, EVERYTHING)(image, seed=0, epochs=zero, indices=np.arange(2))
    assert not torch.equal(base[0], base[1])
    others = [
        Pipeline(preprocessing, EVERYTHING, view=1)(image, seed=0, epochs=zero, indices=zero),
        Pipeline(preprocessing, EVERYTHING)(image, seed=1, epochs=zero, indices=zero),
        Pipeline(preprocessing, EVERYTHING)(image, seed=0, epochs=one, indices=zero),
    ]
    assert not any(torch.equal(base[0], other[0]) for other in others)


def test_probabilities_are_kept() -> None:
    image = photographs(1)[0].resize((4, 4))
    pipeline = Pipeline(Preprocessing(4, None), Augmentation(crop_scale=None, flip_probability=0.3))
    samples, zero = np.arange(3000), np.zeros(3000, np.int64)
    batch = pipeline([image] * 3000, seed=0, epochs=zero, indices=samples)
    plain = Pipeline(Preprocessing(4, None))([image], seed=0, epochs=zero[:1], indices=zero[:1])
    upright, flipped = ((batch == view).flatten(1).all(1) for view in (plain, plain.flip(-1)))
    assert (upright ^ flipped).all()
    share = float(flipped.float().mean())
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 3000)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_same_batches_with_any_number_of_workers(workers: int) -> None:
    pixels = np.stack([np.asarray(image) for image in photographs(12)])
    split = Split(
        ArrayImages(pixels), np.arange(12, dtype=np.int64) % 3, [str(i) for i in range(12)]
    )
    preprocessing = Preprocessing(size=16, resize=None)
    data = ViewDataset(
        split, [Pipeline(preprocessing, EVERYTHING, view=view) for view in (0, 1)], seed=3
    )
    batches = [[(0, 3), (0, 11), (0, 5)], [(1, 3)], [(1, 0), (1, 1)]]
    loader = DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=workers)
    for items, batch in zip(batches, loader, strict=True):
        expected = data.__getitems__(items)
        assert len(batch.views) == 2
        assert all(torch.equal(a, b) for a, b in zip(batch.views, expected.views, strict=True))
        assert batch.targets.tolist() == [index % 3 for _, index in items]
        assert batch.indices.tolist() == [index for _, index in items]


def test_vertical_flips_are_drawn_apart_from_horizontal_ones_and_change_no_other_draw() -> None:
    images = [photographs(1)[0].resize((4, 4))] * 2000
    chosen = Augmentation(crop_scale=None, flip_probability=0.3, vertical_flip_probability=0.4)
    batch = run(Pipeline(Preprocessing(4, None), chosen), images)
    plain = run(Pipeline(Preprocessing(4, None)), images[:1])[0]
    cases = [plain, plain.flip(-1), plain.flip(-2), plain.flip(-1, -2)]
    found = torch.stack([(batch == view).flatten(1).all(1) for view in cases])
    assert (found.sum(0) == 1).all()
    shares = found.float().mean(1).tolist()
    # Binomial: three standard deviations of the largest share are 0.033.
    assert shares == pytest.approx([0.7 * 0.6, 0.3 * 0.6, 0.7 * 0.4, 0.3 * 0.4], abs=0.035)
    never = dataclasses.replace(chosen, vertical_flip_probability=0.0)
    upright = found[:2].any(0)
    assert torch.equal(
        run(Pipeline(Preprocessing(4, None), never), images)[upright], batch[upright]
    )
    assert chosen.without_flip() == Augmentation(crop_scale=None, flip_probability=0.0)


def test_named_augmentations_honour_the_datasets_word_on_flips() -> None:
    assert augmentation("none", flip=True) is None
    assert augmentation("crop_flip", flip=True) == CROP_FLIP
    assert augmentation("crop_flip", flip=False) == Augmentation(flip_probability=0.0)
    mapping = {"crop_scale": [0.5, 1], "hue": 0.1}
    expected = Augmentation(crop_scale=(0.5, 1.0), hue=0.1, flip_probability=0.0)
    assert augmentation(mapping, flip=False) == expected


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("crop_flipp", r"one of \['crop_flip', 'none'\]"),
        ({"crop_scal": (0.1, 1)}, r"has \['crop_scal'\]"),
        ({"crop_scale": (0.5, 0.1)}, "`crop_scale` must be a range"),
        ({"hue": 0.7}, r"`hue` must lie in \[0, 0.5\]"),
        ({"flip_probability": 1.5}, r"`flip_probability` must lie in \[0, 1\]"),
        ({"order": ["crop", "jitter"]}, "`order` must hold each of"),
        ({"size": 0}, "`size` must be at least 1"),
    ],
)
def test_bad_augmentations_are_explained(choice, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        augmentation(choice, flip=True)


BARE = Preprocessing(size=16, resize=None, mean=(0, 0, 0), std=(1, 1, 1))


def test_colours_before_the_crop_are_torchvisions_on_the_whole_image() -> None:
    colours = Augmentation(
        jitter_probability=1, brightness=0.4, contrast=0.4, saturation=0.4, flip_probability=0.5,
        order=("jitter", "grayscale", "crop", "blur", "solarize"),
    )  # fmt: skip
    images, draws = photographs(20), numbers(20)
    changed = []
    for image, row in zip(images, draws, strict=True):
        pixels = judge_functional.to_dtype(
            judge_functional.to_image(image), torch.float32, scale=True
        )
        functions = (
            judge_functional.adjust_brightness,
            judge_functional.adjust_contrast,
            judge_functional.adjust_saturation,
        )
        for part in np.argsort(row[ORDER]):
            if part < 3:
                pixels = functions[part](pixels, 0.6 + 0.8 * float(row[FACTORS][part]))
        changed.append(judge_functional.to_pil_image(pixels))
    crop_only = Augmentation(flip_probability=0.5)
    # The same random numbers crop both; torchvision cuts off decimals, which ours rounds.
    torch.testing.assert_close(
        run(Pipeline(BARE, colours), images, seed=7),
        run(Pipeline(BARE, crop_only), changed, seed=7),
        rtol=0,
        atol=2.5 / 255,
    )


def test_the_order_of_operations_is_kept() -> None:
    # What is grey has no hue and no saturation to change.
    tint = {"jitter_probability": 1.0, "saturation": 0.9, "hue": 0.4, "grayscale_probability": 1.0}
    grey_first = ("crop", "grayscale", "jitter", "blur", "solarize")
    images = photographs(4)
    grey = run(Pipeline(BARE, Augmentation(grayscale_probability=1.0)), images)
    first = run(Pipeline(BARE, Augmentation(**tint, order=grey_first)), images)
    last = run(Pipeline(BARE, Augmentation(**tint)), images)
    torch.testing.assert_close(first, grey, rtol=0, atol=1e-3)  # the weights sum to 0.9999
    assert (last - grey).abs().amax() > 0.02
    # A blur before the image is made smaller is weaker after it.
    blur = {"crop_scale": None, "flip_probability": 0.0, "blur_probability": 1.0,
            "blur_sigma": (2.0, 2.0)}  # fmt: skip
    large = photographs(4, 160, 160)
    sharp, after, before = (
        run(Pipeline(BARE, chosen), large)
        for chosen in (None, Augmentation(**blur), Augmentation(
            **blur, order=("jitter", "grayscale", "blur", "solarize", "crop")))
    )  # fmt: skip
    assert (before - sharp).abs().mean() < 0.5 * (after - sharp).abs().mean()


def test_a_view_may_have_a_size_of_its_own_and_the_crops_share_is_kept() -> None:
    preprocessing = Preprocessing(size=32, resize=40)
    small = Pipeline(preprocessing, Augmentation(size=12, crop_scale=None, flip_probability=0.0))
    images = photographs(2)
    assert run(small, images).shape == (2, 3, 12, 12)
    judged = run(Pipeline(Preprocessing(size=12, resize=15)), images)
    assert torch.equal(run(small, images), judged)


def test_views_are_counted_out_in_order() -> None:
    found = views([{"count": 2, "crop_scale": [0.14, 1]}, {"size": 8}, {"count": 3, "hue": 0.1}])
    assert [view.crop_scale for view in found[:3]] == [(0.14, 1.0)] * 2 + [(0.08, 1.0)]
    assert [view.size for view in found] == [None, None, 8, None, None, None]
    assert [view.hue for view in found] == [0, 0, 0, 0.1, 0.1, 0.1]
    assert all(isinstance(view, View) and view.count == 1 for view in found)
    assert found[0].without_flip().flip_probability == 0
    with pytest.raises(ValueError, match="`count` must be at least 1"):
        views([{"count": 0}])
    with pytest.raises(ValueError, match=r"`views\[1\]` may have the keys .* has \['sizes'\]"):
        views([{}, {"sizes": 8}])


def test_a_batch_holds_views_of_different_sizes_each_with_its_own_random_numbers() -> None:
    images = photographs(6)
    split = Split(images, np.zeros(6, dtype=np.int64), [str(i) for i in range(6)])
    described = views([{"count": 2}, {"count": 3, "size": 8, "crop_scale": [0.05, 0.14]}])
    pipelines = [Pipeline(BARE, view, view=number) for number, view in enumerate(described)]
    data = ViewDataset(split, pipelines, seed=0)
    batch = data.__getitems__([(0, 4), (1, 2)])
    assert [view.shape[-1] for view in batch.views] == [16, 16, 8, 8, 8]
    assert len({view.sum().item() for view in batch.views}) == 5
    # Small views do not change the large ones.
    alone = ViewDataset(split, pipelines[:2], seed=0).__getitems__([(1, 2), (0, 4)])
    assert torch.equal(alone.views[1].flip(0), batch.views[1])


def test_only_what_is_seen_of_a_strip_is_resized(monkeypatch) -> None:
    ramp = np.linspace(0, 255, 3 * 90).reshape(3, 90).astype(np.uint8)
    prepared = Preprocessing(24, 32)
    for pixels in (ramp, ramp.T):
        strip = Image.fromarray(pixels).convert("RGB")
        expected = np.asarray(transforms.centre_crop(strip, prepared)).astype(int)
        with monkeypatch.context() as patched:
            patched.setattr(transforms, "_MOST_PIXELS", 100)
            found = np.asarray(transforms.centre_crop(strip, prepared)).astype(int)
        assert found.shape == expected.shape == (24, 24, 3)
        assert abs(found - expected).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1), (1, 3)])
def test_the_smallest_and_longest_images_have_views(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (255, 0, 0))
    for chosen in (None, CROP_FLIP):
        pipeline = Pipeline(Preprocessing(32, 40), chosen)
        batch = pipeline([image], seed=0, epochs=np.zeros(1, int), indices=np.zeros(1, int))
        assert batch.shape == (1, 3, 32, 32)
        assert (batch == batch[..., :1, :1]).all()
