"""Damaged files of annotations are refused in one sentence; no image is needed to see it."""

import io
import json
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from ssl_transfer.datasets import Dataset, array_sets, base, caltech, class_folders, medical, mnist
from ssl_transfer.datasets import photographs as photos
from ssl_transfer.datasets import torchvision_sets as small
from ssl_transfer.datasets.annotations import whole_numbers
from ssl_transfer.datasets.images import ArrayImages
from ssl_transfer.datasets.reader import Options, assemble
from ssl_transfer.datasets.voc import HOME, VOC_CLASSES, voc2007

Files = dict[str, str | bytes | None]  # contents by path; of a folder None
LESIONS = ",".join(medical.ISIC_CLASSES)
ISIC = "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
AIRCRAFT, CUB = "fgvc-aircraft-2013b/data", "CUB_200_2011"
TINY, SIGNS = "tiny-imagenet-200", "gtsrb"


def mat(**fields: object) -> bytes:
    """Return a MATLAB file."""
    file = io.BytesIO()
    # Compressed, as the published ones are: zlib then sees damage that scipy would crash on.
    scipy.io.savemat(file, fields, do_compression=True)
    return file.getvalue()


def cars_table(label: int) -> bytes:
    names = [("class", object), ("fname", object)]
    return mat(annotations=np.array([[(label, "1.jpg"), (1, "2.jpg")]], dtype=names))


def cifar(labels: list[int]) -> bytes:
    return pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": labels})


def idx(*shape: int, value: int = 0) -> bytes:
    head = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4) for size in shape)
    return head + bytes([value]) * int(np.prod(shape))


# What each reader needs before it looks at an image.
PETS: Files = {
    "oxford-iiit-pet/images": None,
    "oxford-iiit-pet/annotations/trainval.txt": "Abyssinian_1 1 1 1\nBombay_1 2 1 2\n",
    "oxford-iiit-pet/annotations/test.txt": "Abyssinian_2 1 1 1\n",
}
LAYOUTS: dict[Callable[..., Dataset], Files] = {
    photos.pets: PETS,
    photos.aircraft: {
        f"{AIRCRAFT}/images": None,
        f"{AIRCRAFT}/variants.txt": "707-320\nCessna 172\n",
        f"{AIRCRAFT}/images_box.txt": "1 1 1 4 4\n",
        **{
            f"{AIRCRAFT}/images_variant_{k}.txt": "1 707-320\n\n2 Cessna 172\n"
            for k in ("train", "val", "test")
        },
    },
    photos.cub200: {
        f"{CUB}/images": None,
        f"{CUB}/classes.txt": "1 001.A\n2 002.B\n",
        f"{CUB}/images.txt": "1 001.A/a.jpg\n2 002.B/b.jpg\n",
        f"{CUB}/image_class_labels.txt": "1 1\n2 2\n",
        f"{CUB}/train_test_split.txt": "1 1\n2 0\n",
        f"{CUB}/bounding_boxes.txt": "1 0.0 0.0 4.0 4.0\n",
    },
    photos.cars: {
        "stanford_cars/devkit/cars_meta.mat": mat(class_names=np.array([["a", "b"]], object)),
        "stanford_cars/devkit/cars_train_annos.mat": cars_table(2),
        "stanford_cars/cars_test_annos_withlabels.mat": cars_table(2),
        "stanford_cars/cars_train": None,
        "stanford_cars/cars_test": None,
    },
    photos.flowers: {
        "flowers-102/jpg": None,
        "flowers-102/imagelabels.mat": mat(labels=[[1, 2, 1, 2]]),
        "flowers-102/setid.mat": mat(trnid=[[1, 2]], valid=[[3]], tstid=[[4]]),
    },
    photos.food101: {
        "food-101/images": None,
        "food-101/meta/train.json": json.dumps({"pie": ["pie/1"], "ham": ["ham/1"]}),
        "food-101/meta/test.json": json.dumps({"pie": ["pie/2"], "ham": ["ham/2"]}),
    },
    photos.sun397: {
        "SUN397/ClassName.txt": "/a/attic\n/i/inn\n",
        "Partitions/Training_01.txt": "/a/attic/1.jpg\n/i/inn/1.jpg\n",
        "Partitions/Testing_01.txt": "/a/attic/2.jpg\n",
    },
    class_folders.gtsrb: {
        f"{SIGNS}/GTSRB/Training/00000/1.ppm": "",
        f"{SIGNS}/GTSRB/Final_Test/Images": None,
        f"{SIGNS}/GT-final_test.csv": "Filename;Width;ClassId\n1.ppm;5;0\n2.ppm;5;0\n",
    },
    class_folders.tiny_imagenet: {
        f"{TINY}/wnids.txt": "n01\n",
        f"{TINY}/train/n01/1.JPEG": "",
        f"{TINY}/val/val_annotations.txt": "val_0.JPEG\tn01\t0\t0\t9\t9\n",
    },
    medical.mhist: {
        "images": None,
        "annotations.csv": "Image Name,Majority Vote Label,Partition\na.png,HP,train\n",
    },
    medical.isic: {
        "ISIC2018_Task3_Training_Input": None,
        ISIC: f"image,{LESIONS}\nISIC_1,1.0,0.0,0.0,0.0,0.0,0.0,0.0\n",
    },
    medical.chestx: {
        "Data_Entry_2017.csv": "Image Index,Finding Labels\n1.png,Mass\n",
        "test_list.txt": "1.png\n",
    },
    voc2007: {
        f"{HOME}/JPEGImages": None,
        **{
            f"{HOME}/ImageSets/Main/{name}_{key}.txt": "1  1\n2 -1\n"
            for name in VOC_CLASSES
            for key in ("train", "val", "test")
        },
    },
    small.dtd: {
        "dtd/dtd/images": None,
        **{f"dtd/dtd/labels/{key}1.txt": "dots/1.jpg\n" for key in ("train", "val", "test")},
    },
    small.cifar10: {
        **{f"cifar-10-batches-py/data_batch_{n}": cifar([0, 1]) for n in range(1, 6)},
        "cifar-10-batches-py/test_batch": cifar([0, 1]),
        "cifar-10-batches-py/batches.meta": pickle.dumps({"label_names": ["a", "b"]}),
    },
    mnist.mnist: {
        f"MNIST/raw/{key}-{kind}-ubyte": content
        for key in ("train", "t10k")
        for kind, content in (("images-idx3", idx(2, 28, 28)), ("labels-idx1", idx(2)))
    },
    array_sets.svhn: {
        f"{key}_32x32.mat": mat(X=np.zeros((32, 32, 3, 2), np.uint8), y=[[1], [10]])
        for key in ("train", "test")
    },
    array_sets.stl10: {
        **{f"stl10_binary/{key}_X.bin": bytes(27_648 * 2) for key in ("train", "test")},
        **{f"stl10_binary/{key}_y.bin": bytes([1, 2]) for key in ("train", "test")},
        "stl10_binary/class_names.txt": "a\nb\n",
        "stl10_binary/fold_indices.txt": "0 1\n" * 10,
    },
}  # fmt: skip


def lay_out(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def refusal(read: Callable[..., Dataset], folder: Path, **keys: object) -> str:
    with pytest.raises(ValueError) as caught:
        read(root=str(folder), name="it", sizes="warn", **keys)
    return str(caught.value)


BOXES = {"bounding_box": True}


@pytest.mark.parametrize(
    ("read", "path", "content", "sentence", "keys"),
    [
        (photos.pets, "oxford-iiit-pet/annotations/trainval.txt", "\nBombay_1 2 1 2\nAbys_1\n",
         r"line 3 of `.*trainval\.txt` must be `image class species breed`, with a class from 1 to "
         r"37, but is 'Abys_1'; unpack the archive again\.", {}),
        (photos.pets, "oxford-iiit-pet/annotations/test.txt", "Bombay_1 38 1 2\n",
         r"line 1 of `.*test\.txt` must .* from 1 to 37, but is 'Bombay_1 38 1 2'; .*", {}),
        (photos.pets, "oxford-iiit-pet/annotations/test.txt", b"\xff\xfe", r"`.*test\.txt` must be "
         r"UTF-8 text, but cannot be read \(.*\); unpack the archive again\.", {}),
        (photos.aircraft, f"{AIRCRAFT}/images_variant_val.txt", "1 707-320\n2\n",
         r"line 2 of `.*variant_val\.txt` must be `image variant`, .*, but is '2'; .*", {}),
        (photos.aircraft, f"{AIRCRAFT}/images_box.txt", "1 1 1 4\n",
         r"line 1 of `.*images_box\.txt` must be `image left .*, but is '1 1 1 4'; .*", BOXES),
        (photos.cub200, f"{CUB}/image_class_labels.txt", "1 1\n2 3\n",
         r"line 2 of `.*class_labels\.txt` must be `number value`, .*, but is '2 3'; .*", {}),
        (photos.cub200, f"{CUB}/train_test_split.txt", "1 1\n7 0\n",
         r"line 2 of `.*test_split\.txt` must be .* and 0 or 1, but is '7 0'; .*", {}),
        (photos.cub200, f"{CUB}/bounding_boxes.txt", "1 0 0 x 4\n",
         r"line 1 of `.*bounding_boxes\.txt` must be .*, but is '1 0 0 x 4'; .*", BOXES),
        (photos.cars, "stanford_cars/devkit/cars_train_annos.mat", cars_table(3),
         r"`.*train_annos\.mat` must be a file of whole numbers from 1 to 2, but entry 1 is 3; .*",
         {}),
        (photos.cars, "stanford_cars/cars_test_annos_withlabels.mat", mat(annotations=[[1, 2]]),
         r"`.*withlabels\.mat` must be a MATLAB file with `annotations`, and `fname`, `class` in "
         r"it, but cannot be read \(.*\); unpack the archive again\.", {}),
        (photos.flowers, "flowers-102/imagelabels.mat", mat(labels=[[1, 0, 1, 2]]),
         r"`.*imagelabels\.mat` must be .* from 1 to 102, but entry 2 is 0; .*", {}),
        (photos.flowers, "flowers-102/setid.mat", mat(trnid=[[1, 5]], valid=[[3]], tstid=[[4]]),
         r"`.*setid\.mat` must be .* from 1 to 4, but entry 2 is 5; .*", {}),
        (photos.food101, "food-101/meta/train.json", '{"pie": ["pie/1"',
         r"`.*train\.json` must be JSON that maps classes to lists of names, but cannot be read "
         r"\(.*line 1.*\); unpack the archive again\.", {}),
        (photos.food101, "food-101/meta/test.json", '{"pie": "pie/2"}',
         r"`.*test\.json` must be JSON .* \(`pie` has no list of names\); .*", {}),
        (photos.sun397, "Partitions/Testing_01.txt", "/a/attic/1.jpg\n/b/barn/1.jpg\n",
         r"line 2 of `.*Testing_01\.txt` must be `/folder/image`, .* is '/b/barn/1\.jpg'; .*", {}),
        (class_folders.gtsrb, f"{SIGNS}/GT-final_test.csv", "Filename,Width,ClassId\n1.ppm,5,0\n",
         r"`.*GT-final_test\.csv` must have the columns \['Filename', 'ClassId'\], separated by "
         r"';', but lacks `Filename`, `ClassId`; download it again\.", {}),
        (class_folders.gtsrb, f"{SIGNS}/GT-final_test.csv", "Filename;Width;ClassId\n1.ppm;5\n",
         r"line 2 of `.*\.csv` must be an image and a class out of the folders `00000`, but is "
         r"\{'Filename': '1\.ppm', 'ClassId': ''\}; .*", {}),
        (class_folders.tiny_imagenet, f"{TINY}/val/val_annotations.txt", "val_0.JPEG\n",
         r"line 1 of `.*val_annotations\.txt` must be `image class …` between tabs, the class being"
         r" a line of wnids\.txt, but is 'val_0\.JPEG'; .*", {}),
        (medical.isic, ISIC, f"image,{LESIONS}\nISIC_1,1.0,,0.0,0.0,0.0,0.0,0.0\n",
         r"line 2 of `.*GroundTruth\.csv` must be an image and 0\.0 .* 'NV': '', .*", {}),
        (medical.mhist, "annotations.csv",
         "Image Name,Majority Vote Label,Partition\na.png,HP,dev\n",
         r"line 2 of `.*annotations\.csv` must be an image, a class out of `HP`, `SSA`, and `train`"
         r" or `test`, but is .*'dev'\}; .*", {}),
        (medical.chestx, "Data_Entry_2017.csv", "Image Index,Finding Labels\n1.png\n",
         r"line 2 of `.*2017\.csv` must be an image and its findings, but is .*", {}),
        (voc2007, f"{HOME}/ImageSets/Main/cow_val.txt", "1  1\n2\n",
         r"line 2 of `.*cow_val\.txt` must be `image mark` .*, but is '2'; .*", {}),
        (small.dtd, "dtd/dtd/labels/val1.txt", "dots/1.jpg\ndots\n",
         r"line 2 of `.*val1\.txt` must be `class/image`, but is 'dots'; .*", {}),
        (small.cifar10, "cifar-10-batches-py/data_batch_2", pickle.dumps({"data": 1}),
         r"`.*data_batch_2` must be a file of CIFAR's .* \(there is no 'labels'\); delete it .*",
         {}),
        (small.cifar10, "cifar-10-batches-py/data_batch_3", cifar([1]),
         r"`.*data_batch_3` must be .* \(uint8 pixels \(2, 3072\) for 1 labels\); .*", {}),
        (small.cifar10, "cifar-10-batches-py/test_batch", cifar([0, 10]),
         r"`.*test_batch` must be .* from 0 to 9, but entry 2 is 10; .*", {}),
        (small.cifar10, "cifar-10-batches-py/batches.meta", pickle.dumps([1]),
         r"`.*batches\.meta` must be a file of CIFAR's .*; delete it and .*", {}),
        (mnist.mnist, "MNIST/raw/train-labels-idx1-ubyte", idx(2, value=10),
         r"`.*labels-idx1-ubyte` must be .* from 0 to 9, but entry 1 is 10; .*", {}),
        (mnist.mnist, "MNIST/raw/train-images-idx3-ubyte", b"\0\0\x08\x03\0\0",
         r"`.*images-idx3-ubyte` must be a whole IDX file .*", {}),
        (array_sets.svhn, "train_32x32.mat",
         mat(X=np.zeros((32, 32, 3, 3), np.uint8), y=[[1], [2]]),
         r"`.*train_32x32\.mat` must hold 8-bit pixels of shape \(32, 32, 3, 2\), .* has uint8 of "
         r"shape \(32, 32, 3, 3\); .*", {}),
        (array_sets.svhn, "test_32x32.mat", mat(X=[1], y=[[0]]),
         r"`.*test_32x32\.mat` must be .* from 1 to 10, but entry 1 is 0; .*", {}),
        (array_sets.stl10, "stl10_binary/test_y.bin", bytes([1, 11]),
         r"`.*test_y\.bin` must be .* from 1 to 10, but entry 2 is 11; .*", {}),
        (array_sets.stl10, "stl10_binary/fold_indices.txt", "0 1\n0 2\n",
         r"line 2 of `.*fold_indices\.txt` must be positions .* from 0 to 1, but is '0 2'; .*",
         {"fold": 0}),
        (array_sets.stl10, "stl10_binary/fold_indices.txt", "0 1\n",
         r"`.*fold_indices\.txt` must have a line for each of ten folds, but has 1; .*",
         {"fold": 0}),
    ],
)  # fmt: skip
def test_the_damage_is_told_with_its_place(
    tmp_path: Path, read, path: str, content, sentence: str, keys: dict[str, object]
) -> None:
    lay_out(tmp_path, {**LAYOUTS[read], path: content})
    assert re.fullmatch(sentence, refusal(read, tmp_path, **keys))


@pytest.mark.parametrize("read", LAYOUTS, ids=lambda read: read.__name__)
def test_no_damage_ends_in_anything_but_a_sentence(tmp_path: Path, read) -> None:
    keys: dict[str, object] = dict(BOXES) if read in (photos.aircraft, photos.cub200) else {}
    keys |= {"fold": 1} if read is array_sets.stl10 else {}
    chance = random.Random(0)
    lay_out(tmp_path, LAYOUTS[read])
    files = [(name, content) for name, content in LAYOUTS[read].items() if content]
    for name, content in files[:4]:
        whole = content.encode() if isinstance(content, str) else content
        spots = [chance.randrange(len(whole)) for _ in range(3)]
        flipped = [whole[:i] + bytes([chance.randrange(256)]) + whole[i + 1 :] for i in spots]
        for damaged in (b"", whole[: len(whole) // 2], b"\0" * 50, b"x\n" + whole, *flipped):
            (tmp_path / name).write_bytes(damaged)
            said = ""
            try:
                read(root=str(tmp_path), name="it", sizes="warn", **keys)
            except ValueError as error:
                said = str(error)
            # Another pixel is no damage that could be seen.
            assert re.fullmatch(r".+ must .+, but .+; .+\.", said) or (
                damaged in flipped and not said
            )
        (tmp_path / name).write_bytes(whole)


def test_damaged_hdf5_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "pcam").mkdir()
    for part in array_sets.PCAM_PARTS.values():
        for kind, value in (("x", np.zeros((2, 96, 96, 3), np.uint8)), ("y", [0, 1])):
            with h5py.File(tmp_path / "pcam" / array_sets.PCAM_FILE.format(part, kind), "w") as f:
                f[kind] = value
    path = tmp_path / "pcam" / array_sets.PCAM_FILE.format("valid", "x")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    said = refusal(array_sets.pcam, tmp_path)
    assert f"`{path}` must be an HDF5 file of 8-bit RGB patches `x`, but cannot be read (" in said
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros((2, 9, 9, 3), np.uint8)
    assert "(they are uint8 of shape [9, 9, 3]); unpack" in refusal(array_sets.pcam, tmp_path)
    path.write_bytes(whole)
    labels = tmp_path / "pcam" / array_sets.PCAM_FILE.format("test", "y")
    with h5py.File(labels, "w") as file:
        file["y"] = [0, 2]
    assert f"`{labels}` must be a file of whole numbers from 0 to 1" in refusal(
        array_sets.pcam, tmp_path
    )


def test_an_image_without_a_box_is_named(tmp_path: Path) -> None:
    from miniatures import draw

    files = LAYOUTS[photos.cub200]
    lay_out(tmp_path, {**files, f"{CUB}/bounding_boxes.txt": "1 0 0 4 4\n"})
    draw(tmp_path / CUB / "images", "001.A/a.jpg", "002.B/b.jpg")
    assert refusal(photos.cub200, tmp_path, **BOXES) == (
        "every image must have a bounding box, but `002.B/b.jpg` has none; unpack the archive "
        "again, or read images without boxes."
    )


def test_a_class_folder_of_caltech_without_images_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path, {"caltech101/101_ObjectCategories/BACKGROUND_Google": None})
    assert "BACKGROUND_Google` has none; unpack" in refusal(caltech.caltech101, tmp_path)


def test_labels_of_no_class_are_refused_whatever_reads_them() -> None:
    images = ArrayImages(np.zeros((3, 4, 4, 3), np.uint8))
    good = base.Split(images, np.array([0, 1, 1]), ["a", "b", "c"])
    for label in (2, -1):
        wrong = base.Split(images, np.array([0, label, 1]), ["a", "b", "c"])
        with pytest.raises(ValueError, match=rf"from 0 to 1, but that of `b` in test is {label};"):
            assemble(Options(name="it"), classes=["x", "y"], train=good, test=wrong, content="")


@pytest.mark.parametrize("value", [1.5, float("nan"), 4, -1, "three"])
def test_whole_numbers_are_whole_and_inside(value: object) -> None:
    path = Path("labels.mat")
    assert whole_numbers(path, [[0], [3.0]], 0, 3).tolist() == [0, 3]
    with pytest.raises(ValueError, match=r"`labels\.mat` must be a file of whole numbers from 0 "):
        whole_numbers(path, np.array([1, value], dtype=object), 0, 3)
