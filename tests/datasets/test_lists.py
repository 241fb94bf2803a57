import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from ssl_transfer.datasets.lists import image_list

TRAIN = [("a photo.png", 0), ("b.png", 0), ("c.png", 1), ("sub/d 1.png", 1)]
TEST = [("e.png", 0), ("f.png", 1)]


def write(root: Path, train: str | None = None, test: str | None = None) -> None:
    for number, (name, target) in enumerate(TRAIN + TEST):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (target, number, 0)).save(root / name)
    for file, text, lines in (("train.txt", train, TRAIN), ("test.txt", test, TEST)):
        whole = "".join(f"{name} {target}\n" for name, target in lines)
        (root / file).write_text(whole if text is None else text, encoding="utf-8")


def read(root: Path, **options):
    return image_list(
        root=str(root), **{"name": "mine", "train": "train.txt", "test": "test.txt"} | options
    )


def test_lines_are_names_with_blanks_and_class_numbers(tmp_path) -> None:
    write(tmp_path, train="\ufeffa photo.png 0\r\n\n  b.png\t0  \nc.png 1\n  sub/d 1.png   1\n\n")
    dataset = read(tmp_path)
    both = dataset["train"] + dataset["val"]
    assert sorted(zip(both.names, both.targets.tolist(), strict=True)) == TRAIN
    for image, target in zip(both.images, both.targets, strict=True):
        assert image.getpixel((0, 0))[0] == target
    assert dataset.classes == ("0", "1")
    assert list(dataset["test"].names) == ["e.png", "f.png"]


def test_own_validation_class_names_and_image_folder(tmp_path) -> None:
    (tmp_path / "pictures").mkdir()
    write(tmp_path / "pictures")
    for name, text in (
        ("tr.txt", "a photo.png 0\nc.png 1\n"),
        ("va.txt", "b.png 0\nsub/d 1.png 1\n"),
        ("te.txt", "e.png 0\n"),
        ("names.txt", "ant\nbee\n"),
    ):
        (tmp_path / name).write_text(text)
    dataset = read(
        tmp_path, train="tr.txt", val="va.txt", test="te.txt", classes="names.txt",
        images="pictures",
    )  # fmt: skip
    assert dataset.classes == ("ant", "bee")
    assert list(dataset["val"].names) == ["b.png", "sub/d 1.png"]
    assert dataset.facts["validation"] == "official"


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        ("a photo.png 0\nb.png\nc.png 1\n", None, r"train\.txt:2: no class number .*'b\.png'"),
        ("a photo.png 0\nb.png one\nc.png 1\n", None, r"train\.txt:2: no class number"),
        ("# my list\na photo.png 0\nc.png 1\n", None, r"train\.txt:1: no class number"),
        ("a photo.png -1\nb.png 0\nc.png 1\n", None, r"train\.txt:1: class number -1 is out of"),
        (None, "e.png 0\nf.png 2\n", r"test\.txt:2: class number 2 is out of range \(0 to 1, by"),
        ("a photo.png 1\nb.png 1\nc.png 2\n", None, "start at 0, but those of train start at 1"),
        (
            "a photo.png 0\nb.png 0\nc.png 2\n",
            None,
            "no training line has class `1`, and",
        ),
        ("a photo.png 0\nc.png 999999999\n", None, "class `1`, and the highest is 999999999"),
        (f"a photo.png 0\nc.png {'9' * 5000}\n", None, r"train\.txt:2: no class number"),
        ("a photo.png 0\nc.png,1\n", None, r"a blank or a tab must separate"),
        ("path,label\na photo.png,0\n", None, r"table with a header must end in \.csv or \.tsv"),
        ("a photo.png 0\nsub\\d 1.png 1\n", None, r"must have / between folders"),
        ("a photo.png 0\nsub 1\n", None, r"train\.txt:2: `.*sub` is a folder"),
        ("a photo.png 0\nc.png 1\na photo.png 0\n", None, r"train\.txt:3: .* in train\.txt:1 al"),
        (None, "e.png 0\n./c.png 1\n", r"test\.txt:2: `\./c\.png` is named in train\.txt:3"),
        (None, "e.png 0\ng.png 1\n", r"test\.txt:2: there is no file `.*g\.png`"),
        (None, "\n", r"test\.txt: no lines"),
    ],
)
def test_bad_lines_are_named_with_file_and_line(tmp_path, train, test, sentence: str) -> None:
    write(tmp_path, train, test)
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path)


def test_class_numbers_must_be_those_of_the_classes_file(tmp_path) -> None:
    write(tmp_path)
    (tmp_path / "names.txt").write_text("ant\n")
    with pytest.raises(ValueError, match=r"train\.txt:3: class number 1 .*the lines of names\.txt"):
        read(tmp_path, classes="names.txt")
    (tmp_path / "names.txt").write_text("ant\nbee\ncow\n")
    with pytest.raises(ValueError, match="no training line has class `cow`"):
        read(tmp_path, classes="names.txt")


def test_the_first_problems_come_in_one_message(tmp_path) -> None:
    write(tmp_path, train="a photo.png 0\nc.png 1\n" + "".join(f"x{i}.png 0\n" for i in range(9)))
    with pytest.raises(ValueError, match=r"x0\.png`; .*x4\.png`; and 4 more\.$"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train": "gone.txt"}, r"`dataset\.train` must be a text file, but .* does not exist"),
        ({"classes": "gone.txt"}, r"`dataset\.classes` must be a text file"),
        ({"test": "a photo.png"}, "is not UTF-8 text .* save it as UTF-8"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, options, sentence: str) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path, **options)


def test_missing_root(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"`dataset\.root` must be a folder, but .*gone` does not"):
        read(tmp_path / "gone")


def test_corrupt_images_are_named(tmp_path) -> None:
    write(tmp_path)
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(ValueError, match=r"1 of 6 do not: `.*b\.png \("):
        read(tmp_path)
    assert read(tmp_path, on_corrupt="skip").facts["corrupt_names"] == ["b.png"]


def test_names_in_the_other_unicode_form_are_found(tmp_path) -> None:
    write(tmp_path)
    (tmp_path / "b.png").rename(tmp_path / unicodedata.normalize("NFD", "mü.png"))
    (tmp_path / "train.txt").write_text(
        "a photo.png 0\nc.png 1\nsub/d 1.png 1\n" + unicodedata.normalize("NFC", "mü.png 0\n"),
        encoding="utf-8",
    )
    both = read(tmp_path)["train"] + read(tmp_path)["val"]
    assert unicodedata.normalize("NFC", "mü.png") in both.names


def test_names_that_lead_out_of_the_folder_are_told(tmp_path, caplog) -> None:
    write(
        tmp_path / "images_1", train=f"a photo.png 0\nc.png 1\n../odd.png 0\n{tmp_path}/x.png 1\n"
    )
    for number, name in enumerate(("odd.png", "x.png")):
        Image.new("RGB", (3, 3), (number, 9, 9)).save(tmp_path / name)
    read(tmp_path / "images_1")
    assert "2 names lead out of" in caplog.text
    assert "(train.txt:3: `../odd.png`)" in caplog.text


def test_class_names_must_be_one_per_line(tmp_path) -> None:
    write(tmp_path)
    for text, told in (
        ("ant\n\nbee\n", r"names\.txt:2: an empty line"),
        ("ant\nant\n", r"names\.txt:2: class `ant` is named in line 1 already"),
    ):
        (tmp_path / "names.txt").write_text(text)
        with pytest.raises(ValueError, match=told):
            read(tmp_path, classes="names.txt")


def test_copies_in_train_and_test_are_refused_unless_a_key_allows_them(tmp_path, caplog) -> None:
    write(tmp_path)
    (tmp_path / "e.png").write_bytes((tmp_path / "b.png").read_bytes())
    with pytest.raises(ValueError, match=r"1 of test has the same .* \(`e.png` and `b.png`\)"):
        read(tmp_path)
    assert len(read(tmp_path, on_duplicates="warn")["test"]) == 2
    assert "1 of test has the same bytes as train" in caplog.text
    dataset = read(tmp_path, on_duplicates="drop", val_fraction=0.5)
    assert dataset.facts["sizes"] == {"train": 2, "val": 1, "test": 2}


def test_groups_of_listed_images_stay_together(tmp_path) -> None:
    names = [
        f"{label}{item}_{frame}.png" for label in "ab" for item in range(4) for frame in range(3)
    ]
    for number, name in enumerate(names):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / name)
    lines = [f"{name} {'ab'.index(name[0])}\n" for name in names]
    (tmp_path / "train.txt").write_text("".join(line for line in lines if line[1] != "0"))
    (tmp_path / "test.txt").write_text("".join(line for line in lines if line[1] == "0"))
    (tmp_path / "groups.txt").write_text("".join(f"{name} {name[:2]}\n" for name in names))
    for rule in (r"^(..)_", "groups.txt"):
        dataset = read(tmp_path, groups=rule)
        sides = {key: {name[:2] for name in dataset[key].names} for key in dataset.splits}
        assert not sides["train"] & sides["val"]
        assert dataset.facts["sizes"] == {"train": 12, "val": 6, "test": 6}


def test_an_own_list_chooses_what_it_is_judged_by(tmp_path) -> None:
    write(tmp_path)
    dataset = read(tmp_path, metric="mean_per_class", extra_metrics=["auc"])
    assert (dataset.metric, dataset.extra_metrics) == ("mean_per_class", ("auc",))


# ---- tables -------------------------------------------------------------------------------------


def table(root: Path, name: str, text: str) -> str:
    (root / name).write_bytes(text.encode("utf-8"))
    return name


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na photo.png,ant\nb.png,ant\nc.png,bee\nsub/d 1.png,bee\n",
        "\ufeffid;Label;Filename\r\n1;ant;a photo.png\r\n2;ant;b.png\r\n\r\n3;bee;c.png\r\n"
        "4;bee;sub/d 1.png\r\n",
        'class\timage\nant\t"a photo.png"\nant\tb.png\nbee\tc.png\nbee\tsub/d 1.png\n',
    ],
)
def test_a_table_names_images_and_classes(tmp_path, text: str) -> None:
    write(tmp_path)
    train = table(tmp_path, "train.csv", text)
    test = table(tmp_path, "test.csv", "file,target\ne.png,ant\nf.png,bee\n")
    dataset = read(tmp_path, train=train, test=test)
    both = dataset["train"] + dataset["val"]
    assert sorted(zip(both.names, both.targets.tolist(), strict=True)) == TRAIN
    assert dataset.classes == ("ant", "bee")
    assert dataset["test"].targets.tolist() == [0, 1]


def test_labels_that_are_numbers_are_names_in_the_order_of_their_values(tmp_path) -> None:
    write(tmp_path)
    rows = "a photo.png,10\nb.png,10\nc.png,9\nsub/d 1.png,9\n"
    train = table(tmp_path, "train.csv", f"path,label\n{rows}")
    test = table(tmp_path, "test.csv", "path,label\ne.png,10\nf.png,9\n")
    dataset = read(tmp_path, train=train, test=test)
    assert dataset.classes == ("9", "10")
    assert dataset["test"].targets.tolist() == [1, 0]


def test_columns_and_the_order_of_classes_can_be_named(tmp_path) -> None:
    write(tmp_path)
    text = "path,old path,kind\na photo.png,x,ant\nb.png,x,ant\nc.png,x,bee\nsub/d 1.png,x,bee\n"
    keys = {
        "train": table(tmp_path, "train.csv", text),
        "test": table(tmp_path, "test.csv", "path,kind\ne.png,ant\nf.png,bee\n"),
        "classes": table(tmp_path, "names.txt", "bee\nant\n"),
    }
    with pytest.raises(ValueError, match=r"no column .*its columns are `path`, `old path`, `kind`"):
        read(tmp_path, **keys)
    dataset = read(tmp_path, **keys, label_column="kind")
    assert dataset.classes == ("bee", "ant")
    assert dataset["test"].targets.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,label,class\ne.png,0,0\n", "several columns `label`, `class`"),
        ("path,label\n", "test.csv: no rows below the header"),
        ("", "test.csv: no column"),
        ("path,label\ne.png,\n", "test.csv:2: no label"),
        ("path,label\n,ant\n", "test.csv:2: no image"),
        ("path,label\ne.png,ant,3\n", "test.csv:2: 3 fields instead of 2"),
        ("path,label\ne.png,wasp\n", "test.csv:2: label `wasp` is not among the labels of the tr"),
        ("path,label\nz.png,ant\n", r"test.csv:2: there is no file `.*z.png`"),
        (
            'path,label\n"e.png,ant\nf.png,bee\n',
            r"test.csv:2: no CSV .* quotation mark is left open",
        ),
        ("path,label\ne.png,Ant\n", r"test.csv:2: label `Ant` .*\(did you mean `ant`\?\)"),
        ('path,label\ne.png,"a\nb"\n', r"test.csv:2: the label 'a\\nb' has a character"),
        ("path,label,split\ne.png,ant,fold 1\n", "test.csv:2: the split `fold 1` is none of train"),
        ("path,label,split\ne.png,ant,val\n", "no rows of the split test, but 1 of val"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(tmp_path, text: str, sentence: str) -> None:
    write(tmp_path)
    train = table(tmp_path, "train.csv", "path,label\na photo.png,ant\nb.png,ant\nc.png,bee\n")
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path, train=train, test=table(tmp_path, "test.csv", text))


def test_tables_and_lists_are_not_mixed(tmp_path) -> None:
    write(tmp_path)
    train = table(tmp_path, "train.csv", "path,label\na photo.png,ant\nc.png,bee\n")
    with pytest.raises(ValueError, match=r"all be tables .* but `test\.txt` is no table"):
        read(tmp_path, train=train)
    with pytest.raises(ValueError, match=r"`dataset\.label_column` must be null for lists in text"):
        read(tmp_path, label_column="label")


ALL = """
path;label;Split;group
a photo.png;bee;Training;x
b.png;bee;train;y
c.png;ant;train;z
sub/d 1.png;ant;valid;z
e.png;ant;test;x
f.png;bee;test;w
"""


def test_one_table_holds_all_splits(tmp_path, caplog) -> None:
    write(tmp_path)
    whole = table(tmp_path, "all.csv", ALL)
    dataset = read(tmp_path, train=whole, val=whole, test=whole)
    names = {key: list(dataset[key].names) for key in dataset.splits}
    assert names["train"] == ["a photo.png", "b.png", "c.png"]
    assert (names["val"], names["test"]) == (["sub/d 1.png"], ["e.png", "f.png"])
    assert dataset["test"].targets.tolist() == [0, 1]
    assert "not read" not in caplog.text
    read(tmp_path, train=whole, test=whole, val_fraction=0.5)
    assert "1 rows of all.csv, of the split val, are not read; dataset.val=all.csv" in caplog.text
    with pytest.raises(
        ValueError, match=r"all\.csv:3: `a photo\.png` is named in all\.csv:3 already"
    ):
        read(tmp_path, train=whole, test=whole, split_column="none")


def test_a_column_of_groups_keeps_rows_together(tmp_path) -> None:
    write(tmp_path)
    rows = [(name, "ab"[i % 2], f"g{i // 4}") for i, (name, _) in enumerate(TRAIN * 2)]
    for number in range(8):
        Image.new("RGB", (2, 2), (9, number, 9)).save(tmp_path / f"{number}.png")
    text = "".join(f"{i}.png,{label},{of}\n" for i, (_, label, of) in enumerate(rows))
    train = table(tmp_path, "train.csv", f"path,label,group\n{text}")
    test = table(tmp_path, "test.csv", "path,label\ne.png,a\nf.png,b\n")
    dataset = read(tmp_path, train=train, test=test)
    sides = {int(name[0]) // 4: key for key in ("train", "val") for name in dataset[key].names}
    assert sorted(sides.values()) == ["train", "val"]
    assert len(dataset["train"]) == len(dataset["val"]) == 4
    alone = read(tmp_path, train=train, test=test, group_column="none")
    assert alone["train"].groups is None


def test_numbers_that_are_no_names_are_those_of_the_lines_of_classes(tmp_path, caplog) -> None:
    write(tmp_path)
    rows = "a photo.png,1\nb.png,01\nc.png,0\nsub/d 1.png,0\n"
    keys = {
        "train": table(tmp_path, "train.csv", f"path,label\n{rows}"),
        "test": table(tmp_path, "test.csv", 'path,label\ne.png,"0"\nf.png,1\n'),
    }
    dataset = read(tmp_path, **keys, classes=table(tmp_path, "names.txt", "wasp\nant\n"))
    assert (dataset.classes, dataset["test"].targets.tolist()) == (("wasp", "ant"), [0, 1])
    assert read(tmp_path, **keys).classes == ("0", "01", "1")
    assert "the classes `01` and `1` differ only in case, blanks or zeros" in caplog.text
