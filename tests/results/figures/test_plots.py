from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from results.agreement.correlations import correlate
from results.agreement.scores import scores
from results.figures.scatter import _common_start, _place, scatter
from results.published.catalogue import read_published


def test_a_scatter_is_drawn_for_each_dataset_and_proxy(tmp_path: Path) -> None:
    results = read_published(["transfer_2021_table1", "transfer_2021_imagenet"])
    results = results.keep(datasets=["dtd"])
    proxies = ["logistic_regression", "imagenet"]
    path = tmp_path / "new" / "scatter.png"
    found = correlate(results, proxies, "finetune")
    scatter(path, scores(results, "finetune"), [scores(results, p) for p in proxies], found)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_labels_of_fifteen_points_hardly_cover_each_other() -> None:
    figure = Figure(figsize=(4.6, 3.9), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    points = [(60 + 2.2 * n + 3 * (n % 3), 70 + 1.5 * n + 2 * (n % 4)) for n in range(15)]
    axes.scatter(*zip(*points, strict=True))
    axes.margins(0.15)
    figure.draw_without_rendering()
    _place(axes, points, [f"barlow_twins\nepochs={n}" for n in range(15)])
    boxes = [text.get_window_extent() for text in axes.texts]
    covered = 0.0
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            width = min(one.x1, other.x1) - max(one.x0, other.x0)
            height = min(one.y1, other.y1) - max(one.y0, other.y0)
            covered += max(width, 0) * max(height, 0)
    assert covered < 0.05 * sum(box.width * box.height for box in boxes)


@pytest.mark.parametrize(
    ("labels", "start"),
    [
        ({"small_resnet-simclr a", "small_resnet-simclr b"}, "small_resnet-simclr "),
        ({"small_resnet-byol", "small_resnet-barlow"}, "small_resnet-"),
        ({"small_resnet", "small_resnet-byol"}, ""),
        ({"alone-x"}, ""),
    ],
)
def test_what_all_labels_begin_with_is_cut_at_a_separator(labels: set[str], start: str) -> None:
    assert _common_start(labels) == start
