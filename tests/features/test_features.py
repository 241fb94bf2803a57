import re

import numpy as np
import pytest
import torch
from torch import nn

from ssl_transfer import models
from ssl_transfer.context import Context
from ssl_transfer.datasets import Dataset, Split
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.transforms import Augmentation, Pipeline, ViewDataset
from ssl_transfer.errors import NotApplicable
from ssl_transfer.features import FrozenFeatures, extract, judge, summarise
from ssl_transfer.features.inference import in_batches
from ssl_transfer.preprocessing import Preprocessing

EIGHT = Preprocessing(size=8, resize=None, mean=(0, 0, 0), std=(1, 1, 1))


class Network(nn.Module):
    """Convolution, BatchNorm and pooling; counts the images it sees."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return self.layers(images).mean((2, 3))


def encoder(preprocessing=EIGHT):
    wrapped = models.wrap(Network(), preprocessing)
    wrapped.backbone.seen = 0
    return wrapped


def split(samples, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (samples, 8, 8, 3), dtype=np.uint8)
    targets = np.arange(samples, dtype=np.int64) % 3
    return Split(ArrayImages(pixels), targets, [f"{seed}/{i}" for i in range(samples)])


def dataset(fingerprint="a" * 64):
    splits = {"train": split(9, 1), "val": split(4, 2), "test": split(7, 3)}
    return Dataset("toy", ("a", "b", "c"), "class", "top1", splits, True, fingerprint, {})


def context(folder, **options):
    return Context(folder, folder / "features", progress_bar=False, **options)


def test_row_i_is_the_encoders_output_for_sample_i_in_eval_mode(tmp_path):
    judged, samples = encoder(), split(11)
    judged.backbone.layers[1].running_mean.fill_(0.3)
    before = {k: v.clone() for k, v in judged.state_dict().items()}
    judged.train()
    rows = extract(judged, samples, EIGHT, context(tmp_path, batch_size_eval=4))
    assert judged.training
    assert all(torch.equal(before[k], v) for k, v in judged.state_dict().items())
    assert rows.dtype == np.float32
    judged.eval()
    for i, image in enumerate(samples.images):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        np.testing.assert_allclose(rows[i], judged(pixels)[0].detach().numpy(), atol=1e-6)


def test_layers_that_were_in_eval_mode_stay_in_it_behind_an_extraction(tmp_path):
    judged = encoder().train()
    judged.backbone.layers[1].eval()
    extract(judged, split(3), EIGHT, context(tmp_path))
    FrozenFeatures(judged, dataset(), context(tmp_path)).rows("test")
    assert judged.training
    assert judged.backbone.layers[0].training
    assert not judged.backbone.layers[1].training


def test_augmented_views_are_stored_apart_and_are_those_of_the_pipeline(tmp_path):
    augmentation = Augmentation(crop_scale=(0.3, 0.6), grayscale_probability=0.5)
    data = dataset()
    features = FrozenFeatures(encoder(), data, context(tmp_path, seed=5))
    views = [features.view_rows("train", augmentation, view=view) for view in (0, 1)]
    assert not np.allclose(views[0], views[1])
    batch = ViewDataset(data["train"], [Pipeline(EIGHT, augmentation, view=1)], data.split_seed)
    (pixels,) = batch.__getitems__([(0, row) for row in range(len(data["train"]))]).views
    judged = encoder().eval()
    np.testing.assert_allclose(views[1], judged(pixels).detach().numpy(), atol=1e-5)
    again = FrozenFeatures(encoder(), data, context(tmp_path, seed=6))
    assert np.array_equal(again.view_rows("train", augmentation, view=1), views[1])
    assert len(list((tmp_path / "features").glob("*.npy"))) == 2


def test_workers_and_batch_size_change_no_row(tmp_path):
    one = extract(encoder(), split(11), EIGHT, context(tmp_path, batch_size_eval=11))
    many = extract(encoder(), split(11), EIGHT, context(tmp_path, batch_size_eval=2, workers=2))
    np.testing.assert_allclose(one, many, atol=1e-6)


def _rows_of_one_process(folder, store):
    found = FrozenFeatures(encoder(), dataset(), context(folder, batch_size_eval=2))
    return np.array(found.rows(store)), found.encoder.backbone.seen


def test_two_processes_share_the_work_and_get_the_same_rows(tmp_path, gloo_pool):
    alone, _ = _rows_of_one_process(tmp_path / "one", "test")
    (first, seen), (second, also_seen) = gloo_pool.run(_rows_of_one_process, tmp_path, "test")
    np.testing.assert_allclose(first, alone, atol=1e-6)
    assert np.array_equal(first, second)
    assert seen + also_seen == 7  # each sample once
    assert [seen for _, seen in gloo_pool.run(_rows_of_one_process, tmp_path, "test")] == [0, 0]


def test_bf16_and_fp64_have_their_type_and_their_own_rows(tmp_path):
    rows = {
        p: FrozenFeatures(encoder(), dataset(), context(tmp_path, precision=p)).rows("test")
        for p in ("fp32", "bf16", "fp64")
    }
    assert [rows[p].dtype for p in rows] == [np.float32, np.float32, np.float64]
    assert len(list((tmp_path / "features").glob("*.npy"))) == 3
    np.testing.assert_allclose(rows["fp32"], rows["fp64"], atol=1e-6)
    assert 1e-6 < np.abs(rows["bf16"] - rows["fp32"]).max() < 0.05


def test_stored_features_equal_recomputed_ones_and_cost_no_pass(tmp_path):
    first = encoder()
    computed = np.array(FrozenFeatures(first, dataset(), context(tmp_path)).rows("train"))
    second = encoder()
    stored = FrozenFeatures(second, dataset(), context(tmp_path)).rows("train")
    assert (first.backbone.seen, second.backbone.seen) == (9, 0)
    assert np.array_equal(computed, stored)
    assert isinstance(stored, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        stored[0] = 0


def _other_weights():
    judged = encoder()
    judged.backbone.layers[0].bias.data[0] += 1e-3
    return judged


def _other_activation():
    judged = encoder()
    judged.backbone.layers[2] = nn.GELU()
    return judged


@pytest.mark.parametrize(
    ("judged", "data", "options"),
    [
        (_other_weights, dataset(), {}),
        (_other_activation, dataset(), {}),
        (lambda: encoder(Preprocessing(8, None, "bicubic", (0, 0, 0), (1, 1, 1))), dataset(), {}),
        (encoder, dataset("b" * 64), {}),
        (encoder, dataset(), {"image_size": 12}),
    ],
    ids=["weights", "activation", "interpolation", "data", "size"],
)
def test_whatever_changes_the_features_changes_their_key(tmp_path, judged, data, options):
    FrozenFeatures(encoder(), dataset(), context(tmp_path)).rows("test")
    other = judged()
    FrozenFeatures(other, data, context(tmp_path), **options).rows("test")
    assert other.backbone.seen == 7


def test_load_joins_splits_in_the_order_asked(tmp_path):
    features = FrozenFeatures(encoder(), dataset(), context(tmp_path))
    rows, targets = features.load("train", "val")
    assert np.array_equal(rows[9:].numpy(), features.rows("val"))
    assert targets.tolist() == [0, 1, 2] * 3 + [0, 1, 2, 0]


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        extract(encoder(), split(0), EIGHT, context(tmp_path))


def _judged(rows, tmp_path, caplog):
    caplog.clear()
    surroundings = context(tmp_path)
    judge(summarise(np.array(rows, dtype=np.float32)), "`mine` on the train split", surroundings)
    return surroundings.facts.get("constant_features"), caplog.text


def test_features_that_are_the_same_for_every_image_are_said(tmp_path, caplog):
    constant, said = _judged([[0.0, 0.0]] * 5, tmp_path, caplog)
    assert constant
    assert "the features of `mine` on the train split are all zero" in said
    constant, said = _judged([[3.0, -1e6]] * 4 + [[3.0, -1e6 + 0.1]], tmp_path, caplog)
    assert constant
    assert "are the same for every image" in said


def test_a_constant_dimension_a_single_image_or_small_features_are_nothing_unusual(
    tmp_path, caplog
):
    for rows in ([[0.0, 1.0], [0.0, 2.0]], [[5.0, 5.0]], [[1e-9, 0.0], [2e-9, 0.0]]):
        assert _judged(rows, tmp_path, caplog) == (None, "")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_with_their_share(tmp_path, caplog, bad):
    rows = np.ones((40, 3))
    rows[[3, 17], 1] = bad
    with pytest.raises(ValueError, match=r"`mine` on the train split .* 2 of 40 images \(5.00%\)"):
        _judged(rows, tmp_path, caplog)


@pytest.mark.parametrize(("factor", "what"), [(1e20, "infinite"), (1e-20, "0")])
def test_features_whose_lengths_are_lost_to_rounding_are_refused(tmp_path, caplog, factor, what):
    rows = np.array([[1.0, 0.0], [0.0, -2.0]]) * factor
    said = re.escape(f"is {2 * factor:.3g}, so that") + f".* are {what} by rounding"
    with pytest.raises(ValueError, match=said):
        _judged(rows, tmp_path, caplog)
    judge(summarise(np.eye(2) * 1e20), "`mine`", context(tmp_path, precision="fp64"))


def test_half_precision_is_named_where_it_may_be_the_cause(tmp_path):
    surroundings = context(tmp_path, precision="bf16")
    with pytest.raises(ValueError, match="or use precision=fp32"):
        judge(summarise(np.full((2, 2), np.inf, dtype=np.float32)), "`mine`", surroundings)


def test_stored_features_are_judged_as_new_ones_are(tmp_path, caplog):
    class Silent(Network):
        def forward(self, images):
            return 0 * super().forward(images)

    for _ in range(2):  # the second time from the store
        caplog.clear()
        found = FrozenFeatures(models.wrap(Silent(), EIGHT), dataset(), context(tmp_path))
        found.rows("train")
        assert "`Silent` on the train split are all zero" in caplog.text
    assert len(list((tmp_path / "features").glob("*.npy"))) == 1


def test_half_precision_in_the_store_rounds_and_has_its_own_file(tmp_path):
    whole = FrozenFeatures(encoder(), dataset(), context(tmp_path)).load("train")[0]
    judged = encoder()
    half = FrozenFeatures(judged, dataset(), context(tmp_path), precision="fp16")
    assert half.rows("train").dtype == np.float16
    features, _ = half.load("train")
    assert features.dtype == torch.float32
    assert judged.backbone.seen == 9
    torch.testing.assert_close(features, whole, rtol=1e-3, atol=1e-3)
    assert not torch.equal(features, whole)


def test_embeddings_are_the_projectors_outputs_and_need_a_projector(tmp_path):
    judged = encoder()
    with pytest.raises(NotApplicable, match="needs the projector that the encoder was trained"):
        FrozenFeatures(judged, dataset(), context(tmp_path), representation="embeddings")
    judged.projector = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU())
    found = FrozenFeatures(judged, dataset(), context(tmp_path), representation="embeddings")
    rows = found.rows("test")
    assert judged.projector.training
    features = FrozenFeatures(judged, dataset(), context(tmp_path)).load("test")[0]
    with torch.no_grad():
        expected = judged.projector.eval()(features)
    np.testing.assert_allclose(rows, expected.numpy(), atol=1e-6)


def test_what_is_read_of_one_split_stays_on_disk_and_is_not_changed_by_writing(tmp_path):
    found = FrozenFeatures(encoder(), dataset(), context(tmp_path))
    features, _ = found.load("train")
    before = np.array(found.rows("train"))
    features += 1
    assert np.array_equal(found.rows("train"), before)


def test_one_extraction_serves_every_choice_of_tokens(tmp_path, monkeypatch):
    node = {
        "_target_": "ssl_transfer.models.backbones.timm_backbone",
        "name": "vit",
        "arch": "vit_tiny_patch16_224",
        "options": {"img_size": 32, "embed_dim": 32, "num_heads": 2, "depth": 4},
        "preprocessing": {"size": 32, "resize": None},
    }
    passes = []

    def counted(*arguments, **options):
        passes.append(options["label"])
        return in_batches(*arguments, **options)

    monkeypatch.setattr("ssl_transfer.features.extraction.in_batches", counted)
    rows = {}
    for choice in ("cls", "mean", "cls_mean", "last4"):
        chosen = models.build({**node, "features": choice}).eval()
        rows[choice] = FrozenFeatures(chosen, dataset(), context(tmp_path)).rows("test")
        data = ViewDataset(dataset()["test"], [Pipeline(chosen.preprocessing)], 0)
        images = data.__getitems__([(0, index) for index in range(7)]).views[0]
        with torch.no_grad():
            np.testing.assert_allclose(rows[choice], chosen(images).numpy(), rtol=0, atol=1e-5)
    assert np.array_equal(rows["cls_mean"], np.concatenate([rows["cls"], rows["mean"]], axis=1))
    assert passes == ["test features"]
