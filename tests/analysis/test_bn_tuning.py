"""What BN-tuning changed is told as it was, of runs that can tell."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_runs import METHOD, run_all, tiny
from torch import nn

from ssl_transfer import models
from ssl_transfer.analysis import bn_tuning
from ssl_transfer.analysis.bn_tuning import FEATURES, Change, change, jeffreys
from ssl_transfer.models.batch_norm import batch_norm_layers
from ssl_transfer.runs import Run

BN = "protocol=bn_tune"


def layer(
    weight: list[float], bias: list[float], mean: list[float], variance: list[float]
) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(len(weight), eps=0.0)
    with torch.no_grad():
        tensors = (made.weight, made.bias, made.running_mean, made.running_var)
        for tensor, values in zip(tensors, (weight, bias, mean, variance), strict=True):
            assert tensor is not None
            tensor.copy_(torch.tensor(values))
    return made


def test_shifts_and_drifts_by_hand() -> None:
    before = layer([3, 4], [0, 2], [1, 0], [4, 1])
    after = layer([3, 1], [2, 2], [2, -3], [16, 1])
    found = change("bn", before, after, tuned=True)
    assert found.weight_shift == pytest.approx(3 / 5)
    assert found.weight_change == pytest.approx(3 / 2)
    assert found.bias_shift == pytest.approx(2 / 2)
    assert found.bias_change == pytest.approx(1)
    assert found.mean_drift == pytest.approx((1 / 2 + 3) / 2)
    assert found.std_drift == pytest.approx((2 / 2 + 0) / 2)
    # The first channel has d = 1, σ² = 4 and σ² = 16; the second d = -3 and twice σ² = 1.
    assert found.divergence == pytest.approx((5 / 32 + 17 / 8 - 1 + 9) / 2)
    assert (found.layer, found.channels, found.tuned, found.cka) == ("bn", 2, True, None)


def test_the_divergence_is_the_sum_of_both_kullback_leibler_divergences() -> None:
    mean, variance = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).double()
    variance = variance.exp()
    p = torch.distributions.Normal(mean[:25], variance[:25].sqrt())
    q = torch.distributions.Normal(mean[25:], variance[25:].sqrt())
    kl = torch.distributions.kl_divergence
    found = jeffreys(mean[:25], variance[:25], mean[25:], variance[25:])
    torch.testing.assert_close(found, kl(p, q) + kl(q, p))


def test_what_a_layer_does_not_have_has_no_change() -> None:
    bare = nn.BatchNorm2d(3, affine=False, track_running_stats=False)
    assert change("bn", bare, bare, tuned=False) == Change("bn", 3, False)
    zero = layer([1, 1], [0, 0], [0, 0], [1, 1])
    assert change("bn", zero, zero, tuned=True).bias_shift is None


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run on pre-trained weights that tuned some layers and left its encoder."""
    keys = ["protocol.bn_scope=published", "protocol.keep_encoder=true", "protocol.image_size=24"]
    run = tiny(tmp_path_factory.mktemp("kept"), BN, *METHOD, *keys, "dataset.test_per_class=6")
    assert run_all(run).failures == {}
    return run


def analysed(run: Run, out: Path, *, images: int = 60) -> list[dict[str, str]]:
    arguments = [str(run.folder), "--images", str(images), "--out", str(out)]
    assert bn_tuning.main(arguments) == 0
    with (out / "layers.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_tuned_run_end_to_end(
    kept: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = analysed(kept, tmp_path / "out")
    before = models.build(kept.resolved["model"], seed=kept.resolved["method"]["seed"])
    (pretraining,) = kept.requirements
    models.load_encoder(before, pretraining.folder)
    names = [*batch_norm_layers(before), FEATURES]
    assert [row["layer"] for row in rows] == names
    tuned = {row["layer"] for row in rows if row["tuned"] == "True"}
    assert tuned == set(batch_norm_layers(before, "published"))
    for row in rows[:-1]:
        moved = [float(row[key]) for key in ("weight_change", "mean_drift", "std_drift")]
        if row["layer"] in tuned:
            assert min(moved) > 0
            # What a tuned layer gives to the next is still much the same after a step or two.
            assert 0.5 < float(row["cka"]) < 1
        else:
            assert max(moved) == 0
    assert 0 < float(rows[-1]["cka"]) < 1
    table = (tmp_path / "out" / "layers.md").read_text()
    assert table in capsys.readouterr().out
    assert table.count("\n") == len(rows) + 2
    with Image.open(tmp_path / "out" / "layers.png") as picture:
        assert picture.width > 600
        assert picture.convert("L").getextrema() != (255, 255)


def test_the_similarity_is_that_of_the_activations_on_the_runs_images(
    kept: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # where there is a GPU
    rows = analysed(kept, tmp_path, images=60)
    run = bn_tuning.read_run(kept.folder)
    assert run.preprocessing.size == 24
    images, picked = bn_tuning.images_to_see(run, 60)
    assert len(set(picked)) == 60 == len(images)
    with torch.no_grad():
        x, y = (e(images.__getitems__([(0, i) for i in picked]).views[0]).double()
                for e in (run.before, run.after))  # fmt: skip
    # Szekely and Rizzo 2014: an unbiased HSIC is the product of U-centred matrices.
    K, L = u_centred(x @ x.T), u_centred(y @ y.T)
    expected = (K * L).sum() / math.sqrt((K * K).sum() * (L * L).sum())
    assert float(rows[-1]["cka"]) == pytest.approx(float(expected), abs=1e-5)


def u_centred(matrix: torch.Tensor) -> torch.Tensor:
    n = len(matrix)
    matrix = matrix - torch.diag(matrix.diagonal())
    rows = matrix.sum(0) / (n - 2)
    centred = matrix - rows[:, None] - rows[None] + matrix.sum() / ((n - 1) * (n - 2))
    return centred - torch.diag(centred.diagonal())


def test_an_encoder_compared_with_itself_has_not_changed(kept: Run) -> None:
    run = bn_tuning.read_run(kept.folder)
    same = bn_tuning.TunedRun(run.record, run.before, run.before, run.preprocessing)
    changes = bn_tuning.compare(same, *bn_tuning.images_to_see(run, 8))
    assert {one.mean_drift for one in changes} == {0.0, None}
    for one in changes:
        assert one.cka == pytest.approx(1)


def test_a_run_that_was_moved_is_read_where_it_lies(kept: Run, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    outputs = kept.folder.parents[1]
    outputs.rename(moved)
    try:
        found = bn_tuning.read_run(moved / kept.place)
        assert found.record["run_id"] == kept.id
    finally:
        moved.rename(outputs)


def test_the_same_images_are_looked_at_each_time(kept: Run) -> None:
    run = bn_tuning.read_run(kept.folder)
    first, second = (bn_tuning.images_to_see(run, 10)[1] for _ in range(2))
    assert first == second != list(range(10))
    assert set(first) < set(bn_tuning.images_to_see(run, 20)[1])


# ---- refusals ------------------------------------------------------------------------------------


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert bn_tuning.main([str(folder), *more]) == 1
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    return sentence


def test_a_run_that_did_not_keep_its_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny(tmp_path, BN)
    assert run_all(run).failures == {}
    assert "protocol.keep_encoder=true" in refused(run.folder, capsys)


def test_a_run_of_another_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny(tmp_path, "protocol=linear_probe")
    assert run_all(run).failures == {}
    assert "is of `linear_probe`" in refused(run.folder, capsys)


def test_a_folder_without_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "must be that of a finished run" in refused(tmp_path, capsys)
    (tmp_path / "record.json").write_text('{"status": "not_applicable", "reason": "no BatchNorm"}')
    assert "is `not_applicable` (no BatchNorm)" in refused(tmp_path, capsys)
    (tmp_path / "record.json").write_text("{")
    assert "must be a run's record" in refused(tmp_path, capsys)


def test_a_pattern_that_fits_several_runs(kept: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert "one run must be named, but 2 are" in refused(kept.folder, capsys, str(kept.folder))


@pytest.mark.parametrize("images", ["3", "-5"])
def test_too_few_images_are_refused_before_the_run_is_read(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(tmp_path / "missing", capsys, "--images", images)
    assert f"there are {images}; raise --images" in said


def test_weights_that_are_not_those_the_run_began_with(
    kept: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = kept.folder / "record.json"
    text = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(text), "weights_sha256": "0" * 64}))
        assert "must have the weights that the run began with" in refused(kept.folder, capsys)
    finally:
        path.write_text(text)


def test_a_damaged_encoder(kept: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = kept.folder / "encoder.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[: len(content) // 2])
        assert "must hold the encoder of the run" in refused(kept.folder, capsys)
    finally:
        path.write_bytes(content)


def test_code_that_only_a_record_names_needs_the_users_word(
    kept: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bn_tune" / "theirs"
    folder.mkdir(parents=True)
    for name in ("encoder.safetensors", "encoder.yaml"):
        (folder / name).write_bytes((kept.folder / name).read_bytes())
    record = kept.record()
    fault = tmp_path / "executed"
    record["config"]["model"] = {"name": "x", "_target_": "os.mkdir", "path": str(fault)}
    (folder / "record.json").write_text(json.dumps(record))
    assert bn_tuning.main([str(folder)]) == 1
    said = capsys.readouterr().err
    assert "is 'os.mkdir'; add --trust-targets if you trust the author of that file." in said
    assert not fault.exists()
    bn_tuning.main([str(folder), "--trust-targets"])
    assert fault.exists()
