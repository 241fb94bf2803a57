"""Fast reading of records in the form in which runs write them.

Such a record is JSON with an indentation of one space per level, so that the text between its keys
of the first two levels follows from line ends alone. Most of these pieces, such as the model's
configuration, are equal in many records. Each different piece is parsed once; of the rest, the
checksum is verified without parsing. Whatever does not have this form is left to ``load_document``.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from results.records.descriptions import Description, Metric, Run, describe, metric_of
from results.records.templates import Template, make_template, mark, possible
from results.records.validity import LARGEST, is_tabular, oddities

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_VALUE = re.compile(rb'"value": (-?[0-9][0-9.eE+-]*)')
_NUMBER = re.compile(rb'": (-?[0-9][0-9.eE+-]*)(?=,\n|\n|$)')
_SCALAR = re.compile(rb'": (-?[0-9][0-9.eE+-]*|"[^"\\,\n]*")(?=,\n|\n|$)')
_NESTED_SEED = re.compile(rb'\n  "seed": (-?[0-9]+)(?=,\n|\n)')
_NESTED = (b"identity", b"config")
_OWN = frozenset({b"run_id", b"started", b"duration_s", b"files"})
"""Keys whose values are different in every record."""
_DESCRIBED = frozenset({
    b"model", b"method", b"protocol", b"dataset", b"encoder", b"requires", b"data",
    b"weights_sha256", b"status", b"device", b"schema", b"reason",
})  # fmt: skip
"""Keys on which the description or the validity of a record depends."""
_TEMPLATES = 6
"""Number of templates that are tried; folders are in an order in which similar runs are near."""
_TEMPLATES_AT_FIRST = 200
"""Number of templates that are made before their use is known."""
_SOON_FORGOTTEN = 3000
"""Number of different pieces of one key after which further ones are parsed without being kept."""


class _Other(Exception):
    """The record does not have the expected form, or is not valid."""


class _Piece(NamedTuple):
    """A key with its value.

    Args:
        key: the key.
        canonical: key and value as in the text whose hash is the checksum.
        node: the value.
        matters: whether the description or the validity of a record depends on it.
    """

    key: str
    canonical: bytes
    node: Any
    matters: bool


class _Scores(NamedTuple):
    """The scores of a record except their values.

    Args:
        chunks: the canonical text around the values.
        nodes: the scores, each with the value 0.
        metrics: what they measure.
    """

    chunks: tuple[bytes, ...]
    nodes: list[dict[str, Any]]
    metrics: tuple[Metric, ...]


class _Parsed(NamedTuple):
    """A record taken to pieces.

    Args:
        canonical: the text of which the checksum is the hash.
        checksum: the stated checksum in quotation marks.
        pieces: the pieces by key.
        own: the values that are different in every record, as text.
        scores: the scores without their values, and the values as text.
        state: numbers of the pieces that matter.
    """

    canonical: bytes
    checksum: bytes
    pieces: dict[str, _Piece]
    own: dict[bytes, bytes]
    scores: tuple[_Scores, list[bytes]]
    state: tuple[int, ...]


class PieceReader:
    """Reads records and remembers their pieces."""

    def __init__(self) -> None:
        # A text may lie in several places, of which only some matter.
        self._pieces: dict[bytes, _Piece] = {}
        self._nested_pieces: dict[bytes, dict[bytes, _Piece]] = {key: {} for key in _NESTED}
        self._different: Counter[str] = Counter()
        self._scores: dict[tuple[bytes, ...], _Scores] = {}
        self._descriptions: dict[tuple[int, ...], Description | None] = {}
        self._interned: dict[Description, Description] = {}
        self._templates: list[Template] = []
        self._made = self._used = 0

    def read(self, content: bytes, folder: str) -> Run | None:
        """Return a run from its record; None if ``load_document`` must read or refuse it.

        Args:
            content: the record's text.
            folder: the folder of the run.
        """
        try:
            return self._read(content, folder)
        except (_Other, ValueError, KeyError, IndexError, TypeError, RecursionError):
            return None

    def share(self, description: Description) -> Description:
        """Return the object of an equal description that was read before, else this one."""
        return self._interned.setdefault(description, description)

    def _read(self, content: bytes, folder: str) -> Run:
        for place, template in enumerate(self._templates):
            if (run := template.read(content, folder)) is not None:
                self._used += 1
                self._templates.insert(0, self._templates.pop(place))
                return run
        parsed = self._parse(content, remember=True)
        # The checksum proves that this is what the run wrote.
        if b'"%b"' % hashlib.sha256(parsed.canonical).hexdigest().encode() != parsed.checksum:
            raise _Other
        run = self._run(parsed, folder)
        # A template costs as much as reading, so it must be used at least once on average.
        if self._made <= self._used + _TEMPLATES_AT_FIRST:
            self._made += 1
            self._templates[:0] = self._template_of(content, run, parsed)
            del self._templates[_TEMPLATES:]
        return run

    def _template_of(self, content: bytes, run: Run, parsed: _Parsed) -> list[Template]:
        """Return the template of a record; nothing if its canonical text is not regular."""
        spans = list(_spans(content))
        marked = mark(content, [span[1:] for span in spans])
        canonical = self._parse(marked, remember=False).canonical
        encoder = parsed.pieces["encoder"].node.get("id")
        placeholder = encoder if run.description.protocol != "pretrain" else None
        return [make_template(content, canonical, spans, run, placeholder)]

    def _parse(self, content: bytes, *, remember: bool) -> _Parsed:
        """Return the pieces of a record.

        Args:
            content: the record's text.
            remember: whether new pieces are kept.
        """
        if content[:4] != b'{\n "' or content[-2:] != b"\n}":
            raise _Other
        pieces: dict[str, _Piece] = {}
        own: dict[bytes, bytes] = {}
        canonical: list[bytes] = []
        state: list[int] = []
        scores: tuple[_Scores, list[bytes]] | None = None
        checksum = b""
        for text in content[4:-2].split(b',\n "'):
            piece = self._pieces.get(text)
            if piece is None:
                key, _, value = text.partition(b'": ')
                if key == b"checksum":
                    checksum = value
                    continue
                if key == b"scores":
                    scores = self._of_scores(value)
                    canonical.append(_filled(scores[0].chunks, scores[1]))
                    continue
                if key in _OWN:
                    own[key] = value
                    canonical.append(_compact(key, value))
                    continue
                if key in _NESTED:
                    piece = self._nested(key, value, state, remember=remember)
                else:
                    matters = key in _DESCRIBED
                    piece = self._learn(text, self._pieces, matters=matters, remember=remember)
            if piece.matters:
                state.append(id(piece))
            canonical.append(piece.canonical)
            pieces[piece.key] = piece
        if scores is None or "identity" not in pieces:
            raise _Other
        canonical.sort()
        whole = b"{%b}" % b",".join(canonical)
        return _Parsed(whole, checksum, pieces, own, scores, tuple(state))

    def _learn(
        self, text: bytes, known: dict[bytes, _Piece], *, matters: bool, remember: bool
    ) -> _Piece:
        """Return a piece that was not seen before; remember it unless its key has too many."""
        ((name, node),) = json.loads(b'{"%b}' % text).items()
        if type(node) is int:
            canonical = b'"' + text.replace(b'": ', b'":', 1)
        elif any(oddities({"": {"": {name: node}}})):
            raise _Other
        else:
            canonical = _CANONICAL({name: node})[1:-1].encode()
        piece = _Piece(name, canonical, node, matters)
        # Pieces that matter are known by their identity, so they have to stay.
        if remember and (matters or self._different[name] <= _SOON_FORGOTTEN):
            self._different[name] += 1
            known[text] = piece
        return piece

    def _nested(self, key: bytes, value: bytes, state: list[int], *, remember: bool) -> _Piece:
        """Return ``identity`` or ``config``, whose own pieces are shared with other records."""
        if value[:5] != b'{\n  "' or value[-3:] != b"\n }":
            raise _Other
        known = self._nested_pieces[key]
        pieces = []
        for text in value[5:-3].split(b',\n  "'):
            piece = known.get(text)
            if piece is None:
                name = text.partition(b'": ')[0]
                matters = name != b"seed" if key == b"identity" else name == b"debug"
                piece = self._learn(text, known, matters=matters, remember=remember)
            if piece.matters:
                state.append(id(piece))
            pieces.append(piece)
        canonical = b",".join(sorted([piece.canonical for piece in pieces]))
        node = {piece.key: piece.node for piece in pieces}
        return _Piece(key.decode(), b'"%b":{%b}' % (key, canonical), node, matters=False)

    def _of_scores(self, value: bytes) -> tuple[_Scores, list[bytes]]:
        """Return the scores without their values, and the values as text."""
        parts = _VALUE.split(value)
        values = parts[1::2]
        around = tuple(parts[::2])
        if around not in self._scores:
            nodes = json.loads(b'"value": 0'.join(around))
            blank = _CANONICAL({"scores": [{**node, "value": None} for node in nodes]})[1:-1]
            chunks = tuple(blank.replace('"value":null', '"value":\0').encode().split(b"\0"))
            if len(chunks) != len(values) + 1 or len(nodes) != len(values):
                raise _Other
            self._scores[around] = _Scores(
                chunks,
                nodes,
                tuple(metric_of(node) for node in nodes),
            )
        return self._scores[around], values

    def _run(self, parsed: _Parsed, folder: str) -> Run:
        """Return the run that a valid record describes."""
        pieces, own = parsed.pieces, parsed.own
        scores, texts = parsed.scores
        run_id, started = json.loads(own[b"run_id"]), json.loads(own.get(b"started", b'""'))
        duration = json.loads(own.get(b"duration_s", b"NaN"))
        key = (*parsed.state, id(scores))
        if key not in self._descriptions:
            self._descriptions[key] = self._describe(pieces, run_id, scores)
        description = self._descriptions[key]
        values = tuple(map(float, texts))
        if description is None or not possible(values, scores.metrics):
            raise _Other
        if description.status != "finished":
            raise _Other
        if pieces["encoder"].node.get("id") == run_id and description.protocol != "pretrain":
            raise _Other
        seed = pieces["seed"].node
        if not (isinstance(run_id, str) and run_id.strip() and isinstance(started, str)):
            raise _Other
        if not (seed is None or (type(seed) is int and abs(seed) < 2**64)):
            raise _Other
        if type(duration) not in (int, float) or duration > LARGEST:
            raise _Other
        return Run(
            run_id, description, seed, scores.metrics, values, (), started, float(duration), "",
            "", folder,
        )  # fmt: skip

    def _describe(
        self, pieces: dict[str, _Piece], run_id: str, scores: _Scores
    ) -> Description | None:
        """Return the description of a record; None if it is not valid."""
        document = {key: piece.node for key, piece in pieces.items()}
        document |= {"run_id": run_id, "scores": scores.nodes}
        if "stage" in document or not is_tabular(document):
            return None
        return self.share(describe(document))


def _compact(key: bytes, value: bytes) -> bytes:
    """Return the canonical text of a number, a text, or an object of them.

    Of anything else the returned text is wrong, and the checksum shows it.
    """
    if value[:5] == b'{\n  "' and value[-3:] == b"\n }":
        lines = sorted(line.replace(b'": ', b'":', 1) for line in value[5:-3].split(b',\n  "'))
        value = b'{"%b}' % b',"'.join(lines)
    return b'"%b":%b' % (key, value)


def _filled(chunks: tuple[bytes, ...], values: list[bytes]) -> bytes:
    """Return chunks with values between them."""
    if len(chunks) != len(values) + 1:
        raise _Other
    mixed = [chunks[0]]
    for value, chunk in zip(values, chunks[1:], strict=True):
        mixed += (value, chunk)
    return b"".join(mixed)


def _spans(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield the key, start and end of each value that a similar record may have otherwise."""
    place = 4
    for text in content[4:-2].split(b',\n "'):
        key = text.partition(b'": ')[0]
        pattern = None
        if key in _OWN or key == b"checksum":
            pattern = _SCALAR
        elif key in _NESTED:
            pattern = _NESTED_SEED
        elif key not in _DESCRIBED:
            pattern = _NUMBER
        if pattern is not None:
            for value in pattern.finditer(text):
                yield key.decode(), place + value.start(1), place + value.end(1)
        place += len(text) + 4
