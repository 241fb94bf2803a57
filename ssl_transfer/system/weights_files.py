"""Files of weights: where they are, and how to get those that are missing; imports no torch."""

import functools
import importlib.metadata
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.system import downloads, hub

log = logging.getLogger(__name__)


def find_weights(
    path: str | Path,
    *,
    url: str | None = None,
    download: bool = False,
    obtain: str | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    terms: str | None = None,
    package: str | None = None,
    name: str | None = None,
    key: str = "model.weights.path",
) -> Path:
    """Return the path of the weights; download them first if ``download`` is set.

    Args:
        path: a file, or a folder that ``save_encoder`` wrote.
        url: where the file is published.
        download: whether to download it from there if ``path`` does not exist.
        obtain: instructions for getting the file, if there is no file to download directly.
        sha256: expected checksum of the downloaded file, or its first digits.
        md5: likewise.
        terms: the licence that must be accepted before the weights are used.
        package: name on PyPI of a package that holds a file of the same name as ``path``, which is
            used if ``path`` does not exist.
        name: name of the model, for messages.
        key: the key that the user typed, for messages.

    Raises:
        ValueError: if the weights are missing; the message tells how to get them.
        OSError: if the download fails.
    """
    file = _place(path, package)
    if terms and (download or file.exists()):
        say_terms(name or "the model", terms)
    if file.exists():
        return file
    if download and url:
        downloads.fetch(url, file, sha256=sha256, md5=md5)
        return file
    raise ValueError(
        _how_to_get(file, url=url, obtain=obtain, terms=terms, package=package, name=name, key=key)
    )


def missing_weights(model: Any) -> str | None:
    """Return how to get the weights of a model if they are missing; None if they are not.

    Nothing is downloaded, and no network is built.

    Args:
        model: a resolved node ``model``, which need not be valid.
    """
    if not isinstance(model, Mapping):
        return None
    if str(model.get("arch")).startswith(hub.REMOTE):
        return None if model.get("pretrained") else hub.how_to_fetch(str(model["arch"]))
    weights = hub.with_weights(model).get("weights")
    if not isinstance(weights, Mapping):
        return None
    path = weights.get("path")
    if not isinstance(path, str) or not path:
        return None
    url, download = weights.get("url"), weights.get("download")
    file = _place(path, weights.get("package"))
    if file.exists() or (download and url):
        return None
    further = {key: weights.get(key) for key in ("obtain", "terms", "package")}
    key = hub.key_of_weights({**model, "weights": weights})
    return _how_to_get(file, url=url, name=model.get("name"), key=key, **further)


def _place(path: str | Path, package: str | None) -> Path:
    """Return the path, or if it does not exist the file of its name in an installed package."""
    file = Path(path).expanduser()
    if not package or file.exists():
        return file
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return file
    return next((Path(str(one.locate())) for one in files if one.name == file.name), file)


def _how_to_get(
    file: Path,
    *,
    url: str | None,
    obtain: str | None,
    terms: str | None,
    package: str | None,
    name: str | None,
    key: str,
) -> str:
    if url:
        how = (
            f"add model.weights.download=true to fetch them from {url}, put the file there, or set "
            "paths.weights"
        )
    elif package:
        how = f"run `pip install {package}`, which holds them, or correct `{key}`"
    elif obtain:
        how = f"they are not published ready to use: {obtain}"
    else:
        how = f"correct `{key}`"
    where = "" if file.is_absolute() else f" (relative paths start at `{Path.cwd()}`)"
    if terms:
        how = f"accept {terms}; then {how}"
    return (
        f"The weights of `{name or 'the model'}` must exist, but `{file}` does not{where}; {how}."
    )


@functools.lru_cache(maxsize=256)
def say_terms(name: str, terms: str) -> None:
    """Warn once per process that using weights means accepting a licence."""
    log.warning("whoever uses the weights of `%s` accepts %s", name, terms)
