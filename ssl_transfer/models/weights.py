"""Find weights, load them strictly in published layouts, and save encoders."""

import dataclasses
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ssl_transfer.models.comparison import LoadReport, compare, is_counter, is_optional, some
from ssl_transfer.models.encoder import Encoder, require_finite
from ssl_transfer.models.facts import read_preprocessing
from ssl_transfer.models.fusion import FusedEncoder
from ssl_transfer.models.heads import TOKEN_KINDS, Head, load_head, released_head
from ssl_transfer.models.layouts import LAYOUTS, STEMS, below, in_order, recognised
from ssl_transfer.models.projectors import PROJECTOR_FILE, PROJECTORS, projector_state
from ssl_transfer.models.reading import State, further_networks, read_state
from ssl_transfer.models.tokens import choice_of
from ssl_transfer.preprocessing import Preprocessing
from ssl_transfer.system import hub
from ssl_transfer.system.files import replace_atomically, write_atomically
from ssl_transfer.system.weights_files import find_weights

log = logging.getLogger(__name__)

WEIGHTS_FILE = "encoder.safetensors"
FACTS_FILE = "encoder.yaml"

_KEY_ENCODER = "module.encoder_k."  # MoCo's second encoder, with a projector of its own

# Pattern of prefixes that need no quotes in a shell and in Hydra, and the number of prefixes from a
# file that are tried.
_TYPED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_TRIED = 50

# ---- loading ------------------------------------------------------------------------------------


def load_weights(
    encoder: Encoder,
    path: str | Path | None,
    layout: str = "auto",
    sha256: str | None = None,
    prefix: str | None = None,
    add_prefix: str | None = None,
    drop: Sequence[str] | None = None,
    url: str | None = None,
    download: bool = False,
    obtain: str | None = None,
    md5: str | None = None,
    terms: str | None = None,
    package: str | None = None,
) -> LoadReport:
    """Load all of the encoder's tensors from a file, or none.

    Args:
        encoder: the encoder, changed in place.
        path: a safetensors file, a PyTorch checkpoint, or a folder that ``save_encoder`` wrote or
            that holds ``config.json`` beside the weights.
        layout: a name in ``LAYOUTS``; ``auto`` takes the first under which everything matches.
        sha256: expected checksum of the file.
        prefix: removed from the file's names before the layout; names without it are left out.
        add_prefix: prefix to add to the file's names, after the layout.
        drop: prefixes of names to ignore, in addition to those of heads.
        url: as in ``find_weights``.
        download: likewise.
        obtain: likewise.
        md5: expected checksum of the file, if no SHA-256 is published.
        terms: as in ``find_weights``.
        package: likewise.

    Returns:
        The report of what was matched and dropped.

    Raises:
        ValueError: if the file cannot be read, if anything but
            ``num_batches_tracked`` is missing, unexpected or of another shape, or if the weights
            expect another stem or other images than the encoder.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise ValueError(
            f"`model.weights.layout` must be auto or one of {sorted(LAYOUTS)}, but is {layout!r}."
        )
    if path is None:
        raise ValueError("`model.weights.path` must name a file or folder, but is null.")
    location = find_weights(path, url=url, download=download, obtain=obtain, sha256=sha256, md5=md5,
                         terms=terms, package=package, name=encoder.name)  # fmt: skip
    file = weights_file(location)
    whole = read_state(file, sha256, md5)
    state = _with_prefix(file, prefix, whole) if prefix else whole
    expected = encoder.backbone.state_dict()
    reports = []
    for name in [layout] if layout != "auto" else in_order(state):
        converted = {f"{add_prefix or ''}{n}": t for n, t in LAYOUTS[name](state).items()}
        fitted = _adapted(encoder.backbone, converted)
        report = compare(expected, fitted, file, name, drop or ())
        if report.complete:
            _check_stem(encoder, name)
            _check_preprocessing(encoder, file)
            if not prefix:
                _warn_of_further_networks(file)
            matched = {n: fitted[n] for n in report.matched}
            require_finite(encoder.backbone, matched, f"`{file}`")
            _fill(encoder.backbone, matched)
            # Without a layer of the file, or of other tokens, the features are not those that its
            # classifier takes.
            is_whole = fitted.keys() >= converted.keys()
            is_whole &= choice_of(encoder.backbone) == "pooled"
            encoder.head = (
                _head(file, name, whole, converted, encoder.feature_dim) if is_whole else None
            )
            # Loading a file that this package wrote is not worth an info message.
            level = logging.DEBUG if name == "ssl_transfer" else logging.INFO
            log.log(level, "%s: %d of %d tensors of `%s` matched, layout %s, %d of heads dropped",
                     file, len(report.matched), report.total, encoder.name, name,
                     len(report.dropped))  # fmt: skip
            return report
        reports.append(report)
    best = max(reports, key=lambda r: (len(r.matched), -len(r.unexpected)))
    renamed = bool(prefix or add_prefix)
    raise ValueError(
        f"All {best.total} tensors of `{encoder.name}` must be in `{file}`, but "
        f"{len(best.matched)} match (layout {best.layout}): {best.differences()}; "
        f"{_hint(encoder.backbone, expected, whole, file, drop or (), renamed)}."
    )


def _adapted(backbone: nn.Module, state: State) -> State:
    """Return a file's tensors as a network takes them; most networks take them as they are.

    A network whose published files may differ from it, such as a transformer with another number
    of positions, has a function ``adapt_weights`` from these tensors to its own.
    """
    adapt: Callable[[State], State] | None = getattr(backbone, "adapt_weights", None)
    return state if adapt is None else adapt(state)


def _head(file: Path, layout: str, state: State, converted: State, feature_dim: int) -> Head | None:
    """Return the classifier of features beside an encoder's weights, or in the same file, or None.

    Args:
        file: the file.
        layout: its layout.
        state: its tensors by their names in the file.
        converted: its tensors by the names that the layout gives them.
        feature_dim: number of features of the encoder.
    """
    if file.name == WEIGHTS_FILE:
        head = load_head(file.parent, feature_dim)
        return None if head is None or head.kind in TOKEN_KINDS else head
    if layout in PROJECTORS:  # some layouts name the projector as others name a classifier
        return released_head(state, feature_dim, excluded=[PROJECTORS[layout], _KEY_ENCODER])
    return released_head(state, feature_dim) or released_head(converted, feature_dim)


def _with_prefix(file: Path, prefix: str, whole: State) -> State:
    """Return the tensors below a prefix, which may also name one of the further networks."""
    state = below(prefix, whole)
    if state or file.name == WEIGHTS_FILE:
        return state
    prefix = f"{prefix.rstrip('.')}."
    for key in further_networks(file):
        if prefix.startswith(f"{key}."):
            inner = read_state(file, inside=key)
            return below(rest, inner) if (rest := prefix.removeprefix(f"{key}.")) else inner
    return state


def _warn_of_further_networks(file: Path) -> None:
    """Warn that a file holds further networks, which were left out."""
    further = [] if file.name == WEIGHTS_FILE else further_networks(file)
    if further:
        # Only suggest names from a file that need no quotes in a shell.
        plain = [key for key in further if _TYPED.fullmatch(key)]
        takes = f"; model.weights.prefix={plain[0]}. takes that one" if plain else ""
        log.warning("`%s` holds %d further networks of these names, such as an average or a "
                    "teacher, which are left out%s", file, len(further), takes)  # fmt: skip


def load_encoder(encoder: Encoder, folder: Path) -> LoadReport:
    """Load the encoder that ``save_encoder`` wrote to a folder."""
    return load_weights(encoder, folder, layout="ssl_transfer")


def copy_weights(encoder: Encoder, source: Encoder) -> None:
    """Copy the weights of another encoder of the same architecture, in place.

    Raises:
        ValueError: if the encoders differ in a tensor or in the normalisation of images.
    """
    state = source.backbone.state_dict()
    report = compare(encoder.backbone.state_dict(), state, Path(source.name), "")
    lacking = {source.name: report.missing, encoder.name: report.unexpected + report.dropped}
    problems = [f"`{name}` lacks {some(names)}" for name, names in lacking.items() if names]
    problems += [f"`{name}` is {list(a)} and {list(b)}" for name, a, b in report.reshaped[:1]]
    theirs, ours = source.preprocessing, encoder.preprocessing
    for key in ("mean", "std", "channel_order"):
        if getattr(theirs, key) != getattr(ours, key):
            problems.append(
                f"`preprocessing.{key}` is {getattr(theirs, key)} and {getattr(ours, key)}"
            )
    if problems:
        raise ValueError(
            "`method.start_from` must have the architecture and the normalisation of `model`, but "
            f"differs from it: {'; '.join(problems)}."
        )
    _fill(encoder.backbone, state)


def _check_stem(encoder: Encoder, layout: str) -> None:
    """Refuse weights of a network with another pooling or padding; the tensors do not show them."""
    stem, trained = getattr(encoder.backbone, "stem", None), STEMS.get(layout)
    if stem is not None and trained is not None and stem not in trained:
        raise ValueError(
            f"`{encoder.name}` must have the stem that its weights were trained with (layout "
            f"{layout}), but has model.stem={stem}; use model.stem={trained[0]}."
        )


def weights_file(path: Path) -> Path:
    """Return the file of weights at a path: the path itself, or a file in that folder.

    Raises:
        ValueError: if the path is a folder without such a file.
    """
    if not path.is_dir():
        return path
    if (path / WEIGHTS_FILE).is_file():
        return path / WEIGHTS_FILE
    if (file := hub.weights_in(path)) is not None:
        return file
    raise ValueError(
        f"Weights must be a file, or a folder with {WEIGHTS_FILE}, or with {hub.CONFIG_FILE} and "
        f"{hub.WEIGHTS_FILES[0]}, but `{path}` is a folder without them; correct the path."
    )


@torch.no_grad()
def _fill(backbone: nn.Module, state: State) -> None:
    left = backbone.load_state_dict(state, strict=False)
    assert not left.unexpected_keys
    assert all(is_optional(name) for name in left.missing_keys)


def _hint(
    backbone: nn.Module,
    expected: Mapping[str, Tensor],
    state: State,
    path: Path,
    drop: Sequence[str],
    renamed: bool,
) -> str:
    """Return a setting that makes the file fit, found by trial, or else general advice."""

    def fits(candidate: State) -> bool:
        return compare(expected, _adapted(backbone, candidate), path, "", drop).complete

    instead = " without other prefixes" if renamed else ""
    for name in in_order(state):
        if fits(LAYOUTS[name](state)):
            looks = recognised(state)
            what = f" (this looks like {looks[0]})" if looks and looks[1] == name else ""
            how = f"under another layout{what}: use model.weights.layout={name}"
            return _all_match(expected, how + instead)
    anchor = next((name for name in expected if not is_optional(name)), "")
    fitting = [prefix for prefix in prefixes(state, anchor) if fits(below(prefix, state))]
    if fitting:
        several = f" (the file holds {len(fitting)} such networks)" if len(fitting) > 1 else ""
        keys = " or ".join(f"`model.weights.prefix={prefix}`" for prefix in fitting)
        names = " or ".join(f"`{prefix}`" for prefix in fitting)
        looks = recognised(state)
        if several and looks and looks[1] == "rrl":
            keys += f", or `model=joint model.networks={len(fitting)}` for all of them as one"
        how = f"after removing the prefix {names}{several}: use {keys}"
        return _all_match(expected, how + instead)
    for prefix in {anchor.removesuffix(name): None for name in state if anchor.endswith(name)}:
        if fits({f"{prefix}{name}": tensor for name, tensor in state.items()}):
            how = f"after adding the prefix `{prefix}`: use `model.weights.add_prefix={prefix}`"
            return _all_match(expected, how + instead)
    looks = recognised(state)
    what = f"this looks like {looks[0]} (layout {looks[1]}): " if looks else ""
    return what + (
        "choose the model that the weights belong to, or describe the difference in names by "
        "model.weights.layout, .prefix, .add_prefix or .drop"
    )


def prefixes(state: State, name: str) -> list[str]:
    """Return what stands before a tensor's name in a file, as far as it may be a key's value.

    Only prefixes that need no quotes in a shell are returned.
    """
    before = dict.fromkeys(one.removesuffix(name) for one in state if one.endswith(name))
    return [prefix for prefix in [*before][:_TRIED] if _TYPED.fullmatch(prefix)]


def _all_match(expected: Mapping[str, Tensor], how: str) -> str:
    return f"all {len(expected)} tensors match {how}"


# ---- saving -------------------------------------------------------------------------------------


def save_encoder(
    encoder: Encoder, folder: Path, *, config: Mapping[str, Any], parents: Sequence[str]
) -> None:
    """Save the encoder to a folder that ``model.weights.path`` accepts.

    Args:
        encoder: its backbone's tensors go to ``encoder.safetensors`` under the backbone's names,
            and its projector's, if it has one, to ``projector.safetensors``.
        folder: the folder, created if it does not exist.
        config: the node ``model`` that the architecture was built from; several encoders as one
            know their members' nodes.
        parents: origins of the weights, e.g. ids of runs.

    Raises:
        OSError: if the disk is full or read-only; older files are unharmed.
    """
    facts: dict[str, Any] = {"name": encoder.name, "feature_dim": encoder.feature_dim}
    if isinstance(encoder, FusedEncoder):
        facts |= {"fuse": encoder.fuse, "members": [_member_facts(one) for one in encoder.encoders]}
    else:
        facts |= {"preprocessing": _as_yaml(encoder.preprocessing), "model": dict(config)}
    facts["parents"] = list(parents)
    # Write the large file first: if the disk is full, both old files stay unchanged.
    _write_tensors(folder / WEIGHTS_FILE, encoder.backbone.state_dict())
    projector = None if encoder.projector is None else projector_state(encoder.projector)
    if projector:
        _write_tensors(folder / PROJECTOR_FILE, projector)
    else:  # remove the projector of an earlier encoder
        (folder / PROJECTOR_FILE).unlink(missing_ok=True)
    text = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    write_atomically(folder / FACTS_FILE, text.encode())


def _member_facts(member: Encoder) -> dict[str, Any]:
    """Return what ``encoder.yaml`` says of one of several encoders: the weights lie beside it."""
    node = {key: value for key, value in (member.config or {}).items() if key != "weights"}
    return {"preprocessing": _as_yaml(member.preprocessing), "model": node}


def _write_tensors(path: Path, state: State) -> None:
    from safetensors.torch import save

    # Copy the tensors, since safetensors does not accept tensors that share memory.
    tensors = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in state.items()}
    replace_atomically(path, lambda file: file.write(save(tensors)))


def _as_yaml(preprocessing: Preprocessing) -> dict[str, Any]:
    values = dataclasses.asdict(preprocessing)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _check_preprocessing(encoder: Encoder, file: Path) -> None:
    """Refuse weights of this package that were trained with another preprocessing of images."""
    facts = file.with_name(FACTS_FILE)
    if file.name != WEIGHTS_FILE or not facts.is_file():
        return
    try:
        # The values are checked, since the message below suggests them as arguments.
        trained = _as_yaml(read_preprocessing(facts))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`{facts}` must hold the facts that were saved with the weights, but cannot be read; "
            "restore it, or remove it to load the weights without them."
        ) from error
    differing = {k: v for k, v in _as_yaml(encoder.preprocessing).items() if trained[k] != v}
    if differing:
        settings = " ".join(f"model.preprocessing.{key}={trained[key]}" for key in differing)
        raise ValueError(
            f"The encoder must prepare images as its weights expect ({settings}), but has "
            f"{differing}; set these values, or remove `{facts}` to keep your own."
        )


def fingerprint(encoder: nn.Module) -> str:
    """Return the sha256, in hexadecimal digits, of an encoder's weights.

    The hash covers names, shapes, types and bytes of the backbone's parameters and buffers, but not
    BatchNorm's counters of batches: many published files lack them and no output depends on them.
    It covers the choice of ``model.features``, unless the network pools its tokens itself.
    """
    backbone = encoder.backbone if isinstance(encoder, Encoder) else encoder
    digest = hashlib.sha256()
    if (choice := choice_of(backbone)) != "pooled":
        digest.update(f"features {choice}\n".encode())
    for name, tensor in _sorted_tensors(backbone):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sorted_tensors(backbone: nn.Module) -> Iterator[tuple[str, Tensor]]:
    state = backbone.state_dict()
    yield from ((name, state[name]) for name in sorted(state) if not is_counter(name))
