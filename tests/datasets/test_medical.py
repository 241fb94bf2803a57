"""Layouts of MHIST, ISIC 2018 (task 3) and NIH ChestX-ray, as their owners publish them.

MHIST: the columns of annotations.csv as https://bmirds.github.io/MHIST/ describes them. ISIC: the
header of a file of true labels in https://github.com/ImageMarkup/isic-challenge-scoring (tests).
ChestX-ray: the header that https://nihcc.app.box.com/v/ChestXray-NIHCC shows.
"""

from pathlib import Path

import numpy as np
import pytest
from miniatures import draw, labels, write

from ssl_transfer.datasets.medical import chestx, isic, mhist


@pytest.fixture
def mhist_root(tmp_path: Path) -> Path:
    votes = "Number of Annotators who Selected SSA (Out of 7)"
    rows = [f"Image Name,Majority Vote Label,{votes},Partition"]
    for number in range(14):
        selected = number % 8
        label = "SSA" if selected >= 4 else "HP"
        file, part = f"MHIST_a{'abcdefghijklmn'[number]}.png", "train" if number < 10 else "test"
        rows.append(f"{file},{label},{selected},{part}")
        draw(tmp_path / "images", file)
    write(tmp_path / "annotations.csv", *rows)
    return tmp_path


def test_mhist_is_labelled_by_majority_and_split_officially(mhist_root: Path) -> None:
    dataset = mhist(root=str(mhist_root), name="mhist", sizes="warn")
    assert dataset.classes == ("HP", "SSA")
    assert (dataset.metric, dataset.extra_metrics) == ("top1", ("auc", "f1"))
    rows = [row.split(",") for row in (mhist_root / "annotations.csv").read_text().splitlines()]
    voted = {row[0]: int(int(row[2]) >= 4) for row in rows[1:]}
    assert labels(dataset, "test") == {n: v for n, v in voted.items() if n >= "MHIST_ak"}
    assert labels(dataset, "train", "val") == {n: v for n, v in voted.items() if n < "MHIST_ak"}
    with pytest.raises(ValueError, match=r"{'train': 2175, 'test': 977, 'classes': 2}, but has"):
        mhist(root=str(mhist_root), name="mhist")


def test_tables_of_another_form_are_explained(mhist_root: Path) -> None:
    table = mhist_root / "annotations.csv"
    table.write_text(table.read_text().replace(",HP,", ",hyperplastic,"))
    with pytest.raises(ValueError, match=r"annotations\.csv` must be an image, a class out of"):
        mhist(root=str(mhist_root), name="mhist")
    write(table, "Image Name,Label,Partition", "a.png,HP,train")
    with pytest.raises(ValueError, match=r"but lacks `Majority Vote Label`; download it again"):
        mhist(root=str(mhist_root), name="mhist")


LESIONS = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


@pytest.fixture
def isic_root(tmp_path: Path) -> Path:
    rows = ["image," + ",".join(LESIONS)]
    for number in range(70):
        one_hot = ["1.0" if number % 7 == column else "0.0" for column in range(7)]
        rows.append(f"ISIC_{24306 + number:07d},{','.join(one_hot)}")
        draw(tmp_path / "ISIC2018_Task3_Training_Input", f"ISIC_{24306 + number:07d}.jpg")
    folder = tmp_path / "ISIC2018_Task3_Training_GroundTruth"
    write(folder / "ISIC2018_Task3_Training_GroundTruth.csv", *rows)
    return tmp_path


def test_isic_reads_one_column_per_lesion(isic_root: Path) -> None:
    dataset = isic(root=str(isic_root), name="isic", sizes="warn")
    assert dataset.classes == LESIONS
    assert dataset.metric == "mean_per_class"
    expected = {f"ISIC_{24306 + number:07d}.jpg": number % 7 for number in range(70)}
    assert labels(dataset, "train", "val", "test") == expected
    assert np.bincount(dataset["test"].targets).tolist() == [2] * 7
    with pytest.raises(ValueError, match=r"{'all': 10015, 'classes': 7}, but has {'all': 70"):
        isic(root=str(isic_root), name="isic")


def test_a_lesion_of_no_class_is_explained(isic_root: Path) -> None:
    table = next(isic_root.glob("*GroundTruth/*.csv"))
    table.write_text(table.read_text().replace("ISIC_0024306,1.0", "ISIC_0024306,0.0"))
    with pytest.raises(ValueError, match=r"GroundTruth\.csv` must be an image and 0\.0 for all"):
        isic(root=str(isic_root), name="isic", sizes="warn")


def test_lists_say_what_of_isic_is_tested(isic_root: Path) -> None:
    lists = isic_root / "splits"
    for key, numbers in (("train", range(42)), ("val", range(42, 56))):
        # In the lists of https://github.com/vpulab/bn_finetuning names may have a folder.
        lines = [f"some/folder/ISIC_{24306 + number:07d}.jpg {number % 7}" for number in numbers]
        write(lists / "split_2" / f"{key}_labeled.txt", *lines)
    dataset = isic(root=str(isic_root), name="isic", lists=str(lists), split=2)
    assert len(labels(dataset, "train", "val")) == 42
    expected = {f"ISIC_{24306 + number:07d}.jpg": number % 7 for number in range(42, 56)}
    assert labels(dataset, "test") == expected
    assert dataset.facts["lists"] == 2


FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax",
)  # fmt: skip
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


@pytest.fixture
def chest_root(tmp_path: Path) -> Path:
    """56 radiographs with one finding of seven, patients 7 and 8 in the official test."""
    others = ["No Finding", "Pneumonia", "Hernia", "Mass|Nodule", "Effusion|Cardiomegaly"]
    rows, tested = [HEADER], []
    for patient in range(1, 9):
        for number, finding in enumerate([*FINDINGS, *others]):
            file = f"{patient:08d}_{number:03d}.png"
            rows.append(f"{file},{finding},{number},{patient},58,M,PA,2682,2749,0.143,0.143,")
            draw(tmp_path / f"images_{1 + patient % 2:03d}" / "images", file)
            tested += [file] * (patient >= 7)
    write(tmp_path / "Data_Entry_2017.csv", *rows)
    write(tmp_path / "test_list.txt", *tested)
    return tmp_path


def single(*patients: int) -> dict[str, int]:
    return {f"{patient:08d}_{label:03d}.png": label for patient in patients for label in range(7)}


def test_chestx_keeps_radiographs_with_one_of_seven_findings(chest_root: Path) -> None:
    dataset = chestx(root=str(chest_root), name="chestx")
    assert dataset.classes == FINDINGS
    assert dataset.metric == "mean_per_class"
    assert labels(dataset, "train", "val") == single(1, 2, 3, 4, 5, 6)
    assert labels(dataset, "test") == single(7, 8)
    assert dataset.facts["test"] == "official"


def test_chestx_can_be_split_by_seed_or_by_lists(chest_root: Path) -> None:
    (chest_root / "test_list.txt").unlink()
    seeded = chestx(root=str(chest_root), name="chestx", test="seeded")
    assert labels(seeded, "train", "val", "test") == single(*range(1, 9))
    assert np.bincount(seeded["test"].targets).tolist() == [2] * 7
    lists = chest_root / "lists"
    for key, patients in (("train", (1, 2, 3)), ("val", (4,))):
        lines = [f"{name} {label}" for name, label in single(*patients).items()]
        write(lists / "split_0" / f"{key}.txt", *lines)
    listed = chestx(root=str(chest_root), name="chestx", lists=str(lists))
    assert labels(listed, "train", "val") == single(1, 2, 3)
    assert labels(listed, "test") == single(4)
    with pytest.raises(ValueError, match=r"test_list\.txt` does not exist; .*nihcc\.app\.box"):
        chestx(root=str(chest_root), name="chestx")


def test_the_newer_table_and_one_folder_of_chestx_do_as_well(chest_root: Path) -> None:
    before = chestx(root=str(chest_root), name="chestx")
    (chest_root / "Data_Entry_2017.csv").rename(chest_root / "Data_Entry_2017_v2020.csv")
    (chest_root / "images").mkdir()
    for path in list(chest_root.glob("images_*/images/*.png")):
        path.rename(chest_root / "images" / path.name)
    assert chestx(root=str(chest_root), name="chestx").fingerprint == before.fingerprint


def test_missing_radiographs_are_named(chest_root: Path) -> None:
    (chest_root / "images_002" / "images" / "00000001_002.png").unlink()
    with pytest.raises(ValueError, match=r"but `00000001_002\.png` does not; unpack all archives"):
        chestx(root=str(chest_root), name="chestx")
