"""Find the folders of a root that are its splits, by configuration keys or by their names."""

import dataclasses
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ssl_transfer.config.arguments import argument
from ssl_transfer.datasets.nearest import existing_folder
from ssl_transfer.datasets.reader import some
from ssl_transfer.datasets.walk import has_images, subfolders

SPLITS = ("train", "val", "test")
_BARE = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Words that name a split, in lower case."""
_FILLER = frozenset(
    {"set", "sets", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos",
     "picture", "pictures", "pic", "pics", "folder", "split", "final", "jpg", "jpeg", "png"}
)  # fmt: skip
"""Further words in folder names that do not distinguish two sets."""
_JOINED = re.compile(rf"({'|'.join(_BARE)})({'|'.join(_FILLER)})")  # trainset
_ALIKE_AT_MOST = 10  # folders compared with each other


@dataclasses.dataclass(frozen=True)
class Layout:
    """The folders of the splits of a root.

    Args:
        folders: the folder of class folders of each split; without ``test``, a test split is made.
        unread: folders beside the splits that belong to none.
    """

    folders: Mapping[str, Path]
    unread: tuple[Path, ...] = ()


def find_splits(root: Path, named: Mapping[str, str | None], *, class_depth: int = 1) -> Layout:
    """Return the folders of the splits of ``root``.

    Folders are splits if their names contain ``train`` and ``val`` or ``test`` in one of the usual
    forms (``training_set``, ``seg_train``, ``01_Train``; see ``meaning``) and otherwise agree; else
    they are classes. A folder that only wraps another folder is skipped, also within a split.

    Args:
        root: the dataset's folder.
        named: folder of each split relative to ``root``, if the user named it; ``train: .`` means
            that the folders in ``root`` are classes, whatever their names.
        class_depth: depth of the class folders below these.

    Raises:
        ValueError: if folders look like splits, but cannot be read as splits; the message names the
            key to set.
    """
    folder_names = {key: value for key, value in named.items() if value is not None}
    if folder_names:
        return _named(root, folder_names)
    inner = unwrapped(root)
    family, unread = _family(inner)
    if family is None:
        _refuse_nested_splits(inner)
        if class_depth == 1:
            _refuse_alike(inner)
        return Layout({"train": inner})
    return Layout(_with_classes(inner, family), tuple(unread))


def _named(root: Path, folder_names: Mapping[str, str]) -> Layout:
    """Return the folders that keys name; recognise the other splits by their folders' names."""
    if not any((root / value).is_dir() for value in folder_names.values()):
        root = unwrapped(root)
    folders = {
        key: existing_folder(f"dataset.{key}_folder", root / value, "a folder of class folders")
        for key, value in folder_names.items()
    }
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise ValueError(
            "`dataset.train_folder`, `val_folder` and `test_folder` must be different folders, but "
            f"are {some([str(folder) for folder in folders.values()])}; correct one."
        )
    if "train" in folders and folders["train"].resolve() == root.resolve():
        return Layout({**folders, "train": unwrapped(root)})
    known = {(), *(meaning(folder.name)[1] for folder in folders.values())}
    for folder in subfolders(root):
        key, rest = meaning(folder.name)
        free = all(folder.resolve() != other.resolve() for other in folders.values())
        if free and key is not None and rest in known and key not in folders and subfolders(folder):
            folders[key] = folder
    if "train" not in folders:
        raise ValueError(
            f"`{root}` must have a folder to train on, but has {_list(subfolders(root))}; set "
            "dataset.train_folder."
        )
    tops = {(root / folder.relative_to(root).parts[0]) for folder in folders.values()
            if folder.is_relative_to(root) and folder != root}  # fmt: skip
    unread = tuple(folder for folder in subfolders(root) if folder not in tops)
    return Layout(_unwrapped_splits(folders), unread)


def meaning(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the split that a folder's name denotes (``None``: none), and its other words.

    Case, digits, punctuation and words like ``images`` do not count: ``01_TrainSet`` means
    ``("train", ())``, ``seg_test`` ``("test", ("seg",))``; ``train_val`` is a training set.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    keys, rest = set(), []
    for word in re.findall(r"[^\W\d_]+", spaced.casefold()):
        joined = _JOINED.fullmatch(word)
        key = _BARE.get(joined[1] if joined else word)
        if key is not None:
            keys.add(key)
        elif word not in _FILLER:
            rest.append(word)
    if keys == {"train", "val"}:
        keys = {"train"}
    return (keys.pop() if len(keys) == 1 else None), tuple(rest)


def _unwrapped_splits(folders: Mapping[str, Path]) -> dict[str, Path]:
    """Return the splits' folders without wrapping folders; a class of train is no wrapper."""
    train = unwrapped(folders["train"])
    classes = {folder.name for folder in subfolders(train)}
    return {
        key: train if key == "train" else unwrapped(folders[key], classes)
        for key in SPLITS
        if key in folders
    }


def unwrapped(folder: Path, classes: Collection[str] = ()) -> Path:
    """Descend through folders that hold a single folder, as in unpacked archives.

    The function enters a folder named like a split only from a folder that names the same split.

    Args:
        folder: the outermost folder.
        classes: names of folders that are not entered.
    """
    while True:
        inside = subfolders(folder)
        if len(inside) != 1 or has_images(folder) or has_images(inside[0]):
            return folder
        if inside[0].name in classes:
            return folder
        key = meaning(inside[0].name)[0]
        if not subfolders(inside[0]) or (key is not None and key != meaning(folder.name)[0]):
            return folder
        folder = inside[0]


def _family(root: Path) -> tuple[dict[str, Path] | None, list[Path]]:
    """Return the folders named like splits of one set (``None``: no such set), and the others.

    Raises:
        ValueError: if several folders name the same split, or there is only one split.
    """
    everything = subfolders(root)
    families: dict[tuple[str, ...], dict[str, list[Path]]] = {}
    for folder in everything:
        key, rest = meaning(folder.name)
        if key is not None:
            families.setdefault(rest, {}).setdefault(key, []).append(folder)
    whole = {
        rest: family for rest, family in families.items() if "train" in family and len(family) > 1
    }
    if not whole:
        if len(everything) == 1 and families and subfolders(everything[0]):
            raise ValueError(
                f"`{root}` must have a train and a test folder, or class folders alone, but has "
                f"only `{everything[0].name}`; add a folder, or set "
                f"{_set('train', everything[0])} to have a test split made from it."
            )
        return None, []
    if len(whole) > 1 and () not in whole:
        raise ValueError(
            f"`{root}` must have one train and one test folder, but has {_list(everything)}; set "
            "dataset.train_folder and dataset.test_folder."
        )
    family = whole.get((), next(iter(whole.values())))
    chosen = {key: _one(root, key, family[key]) for key in SPLITS if key in family}
    return chosen, [folder for folder in everything if folder not in chosen.values()]


def _one(root: Path, key: str, folders: list[Path]) -> Path:
    """Return the folder of a split; a folder with exactly the split's name takes precedence."""
    bare = [folder for folder in folders if folder.name.casefold() in _BARE]
    if len(bare) == 1 or len(folders) == 1:
        return (bare or folders)[0]
    raise ValueError(
        f"`{root}` must have one {key} folder, but has {_list(folders)}; set dataset.{key}_folder."
    )


def _with_classes(root: Path, family: Mapping[str, Path]) -> dict[str, Path]:
    """Return the splits' folders that hold class folders, unwrapped.

    Raises:
        ValueError: if there is no such folder for training or for testing.
    """
    folders = _unwrapped_splits(family)
    flat = [family[key].name for key in folders if not subfolders(folders[key])]
    sorted_ones = [key for key in folders if family[key].name not in flat]
    if "train" in sorted_ones and "test" in sorted_ones:
        return {key: folders[key] for key in sorted_ones}
    names = some([folder.name for folder in family.values()])
    if flat:
        lies = f"{some(flat)} {'has' if len(flat) == 1 else 'have'} no class folders inside"
        remedy = (
            "sort their images into class folders, name them with dataset=image_list, or set "
            "dataset.train_folder=. if these folders are the classes"
        )
        if sorted_ones == ["train", "val"]:
            remedy = f"set {_set('test', family['val'])} to test on it"
        elif "train" in sorted_ones:
            remedy = f"set {_set('train', family['train'])} to have a test split made from it"
        raise ValueError(f"`{root}` has folders named like splits ({names}), but {lies}; {remedy}.")
    raise ValueError(
        f"`{root}` must have a train and a test folder, or class folders alone, but has only "
        f"{names}; set {_set('test', family['val'])} to test on it, or "
        f"dataset.root=…/{family['train'].name} to have a test split made from it."
    )


def _refuse_nested_splits(root: Path) -> None:
    """Refuse class folders that contain splits, of one set or of each class."""
    nested = []
    for folder in subfolders(root)[:_ALIKE_AT_MOST]:
        keys = {meaning(inside.name)[0] for inside in subfolders(folder)} - {None}
        if "train" in keys and len(keys) > 1:
            nested.append(folder)
    if nested:
        inside = some([f"{nested[0].name}/{path.name}" for path in subfolders(nested[0])])
        remedy = "name the images with dataset=image_list"
        if len(nested) == 1:
            remedy = f"set dataset.root=…/{nested[0].name} if that is the dataset, or {remedy}"
        raise ValueError(
            f"`{root}` must have split folders, or class folders alone, but has splits inside "
            f"of {_list(nested)} ({inside}); {remedy}, or set dataset.train_folder=. to mix them, "
            "each folder being a class."
        )


def _refuse_alike(root: Path) -> None:
    """Refuse folders with the same subfolders: they are probably splits under other names."""
    folders = subfolders(root)
    if not 2 <= len(folders) <= _ALIKE_AT_MOST:
        return
    inside = [{unicodedata.normalize("NFC", path.name) for path in subfolders(f)} for f in folders]
    common, union = set.intersection(*inside), set.union(*inside)
    if len(common) >= 2 and 2 * len(common) >= len(union):
        raise ValueError(
            f"`{root}` must have split folders, or class folders alone, but {_list(folders)} hold "
            f"the same folders ({some(sorted(common))}), as splits do; set dataset.train_folder "
            "and dataset.test_folder, or dataset.train_folder=. if these folders are the classes, "
            "or dataset.class_depth=2 if those inside are."
        )


def _set(key: str, folder: Path) -> str:
    """Return the argument that makes a folder of the root a split."""
    return argument(f"dataset.{key}_folder", folder.name)


def _list(folders: Iterable[Path]) -> str:
    return some([folder.name for folder in folders]) or "none"
