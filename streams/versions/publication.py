"""What the learn role publishes and adapt workers follow: versions and deltas.

A *version* is the meta-parameters in the store and an announcement on the models topic, which also
names a *checkpoint*: everything, as of then or of a version before. A *delta* holds the item
signals and regressions that changed and the small scoring network, as absolute values, on the
deltas topic. An *epoch* is a stretch of deltas that fit each other: a worker applies only deltas of
the epoch it loaded, and begins with a checkpoint when the epoch is a new one.
"""

import zlib
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, TypeVar

import msgpack
import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError

from headrace.model.config import ModelConfig
from headrace.model.counts.item_regression import Coefficients
from headrace.model.counts.signals import ItemSignals
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.model.recommender import Recommender
from headrace.model.vocabulary import Vocabulary
from headrace.streams import schema
from headrace.streams.errors import CheckpointError, MalformedRecordError, TopicMismatchError
from headrace.streams.versions.apart import arrays_of, complete
from headrace.streams.versions.blobs import MISFIT, Arrays, Blob, pack, under, unpack
from headrace.streams.versions.delta_check import (
    check_content,
    check_regression,
    check_signals,
    check_weights,
    checked_items,
)
from headrace.streams.versions.store import StoredFile
from headrace.streams.versions.version_check import Count, check_meta, check_model

ANNOUNCEMENT_KEY = b"announced"  # one key: the compacted topic keeps the latest announcement
FRAGMENT_BYTES = 500_000  # half the broker's default limit of a record
DELTA_LIMIT_BYTES = 2**28  # every neighbour of 60,000 items; the changes of a second are some MB

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A version to serve from now on. Rolling back is announcing an older one.

    Its checkpoint is ``model``, for workers that begin, and ``learner``. ``weights`` and
    ``delta_sequence`` are None where 0.1.0 was the writer: each version was a checkpoint. Events
    below ``learned_to`` may be in it, by partition.
    """

    version: Count
    epoch: Count
    model: StoredFile
    learner: StoredFile
    delta_offset: Count  # deltas from here on come on top of the checkpoint
    published_ms: Count
    weights: StoredFile | None = None
    delta_sequence: Count | None = None  # of the last delta that the checkpoint has in it
    learned_to: tuple[Count, ...] = ()
    group: str = ""  # of the writer; earlier releases do not say

    def encode(self) -> bytes:
        """Write the announcement."""
        packed: bytes = msgpack.packb({"v": schema.ANNOUNCEMENT.version} | asdict(self))
        return packed

    @classmethod
    def decode(cls, value: bytes) -> "Announcement":
        """Read an announcement.

        Raises:
            MalformedRecordError: it is none of ours, or of a schema that is not read.
        """
        return _read(value, _ANNOUNCEMENT, schema.ANNOUNCEMENT)

    def require_group(self, group: str) -> None:
        """Refuse what another group has announced: lists and versions of both would mix.

        Raises:
            TopicMismatchError: it is another's.
        """
        if self.group not in ("", group):
            raise TopicMismatchError(
                f"version {self.version} was announced by the group {self.group}, not {group}: two"
                " groups with one topic_prefix write over each other's versions and lists. An A/B"
                " test takes a topic_prefix and a model_store of its own, with events published to"
                " both; a group that follows one for good begins with `headrace learn --anew`, once"
            )


# -------------------------------------------------------------------------------------- versions


def pack_model(
    recommender: Recommender, vocabulary: Vocabulary, *, content_space: str = ""
) -> memoryview:
    """Write what serving needs: meta-parameters, item signals, regression, vocabulary.

    And for another shop that starts from it, which vectors those of the content compare with.
    """
    n = len(vocabulary)
    arrays = {f"signals.{k}": a for k, a in recommender.signals.snapshot(n).items()}
    arrays |= {f"regression.{k}": a for k, a in recommender.coefficients.snapshot().items()}
    arrays |= {f"content.{k}": a for k, a in recommender.signals.content.snapshot().items()}
    arrays |= arrays_of(recommender.meta.state_dict())
    config = recommender.meta.config.to_dict()
    fields = {
        "v": schema.MODEL.version,
        "config": config,
        "ids": vocabulary.ids,
        "neighbours": recommender.signals.neighbours,
        "content_space": content_space,
    }
    return pack(arrays, fields)


def unpack_model(blob: Blob, *, max_items: int, device: str) -> tuple[Recommender, Vocabulary]:
    """Read what serving needs.

    Raises:
        CheckpointError: the bytes are no such checkpoint, of a schema that is not read, or do not
            fit together.
    """
    arrays, fields = unpack(blob, schema.MODEL)
    try:
        complete(arrays)
        meta = _meta_of(arrays, check_model(arrays, fields))
        signals = ItemSignals(fields["neighbours"])
        signals.apply_delta(under(arrays, "signals."))
        signals.content.apply_delta(under(arrays, "content."))
        vocabulary = Vocabulary(max_items, fields["ids"])
        signals.reserve(len(vocabulary))
        signals.refresh_popular(len(vocabulary))
        coefficients = Coefficients()
        coefficients.apply_delta(under(arrays, "regression."))
    except MISFIT as exc:
        raise CheckpointError(f"the checkpoint does not fit: {exc}") from exc
    return Recommender(meta, signals, coefficients=coefficients, device=device), vocabulary


def pack_weights(meta: MetaParameters) -> memoryview:
    """Write what no delta carries."""
    fields = {"v": schema.WEIGHTS.version, "config": meta.config.to_dict()}
    return pack(arrays_of(meta.state_dict()), fields)


def unpack_weights(blob: Blob) -> MetaParameters:
    """Read meta-parameters.

    Raises:
        CheckpointError: as ``unpack_model``.
    """
    arrays, fields = unpack(blob, schema.WEIGHTS)
    try:
        complete(arrays)
        return _meta_of(arrays, check_meta(arrays, fields))
    except MISFIT as exc:
        raise CheckpointError(f"the weights do not fit: {exc}") from exc


def _meta_of(arrays: Arrays, config: ModelConfig) -> MetaParameters:
    meta = MetaParameters(config, capacity=len(arrays["meta.encoder.bias"]))
    meta.load_state_dict(_meta_tensors(arrays))
    return meta


# ---------------------------------------------------------------------------------------- deltas


def pack_delta(recommender: Recommender, new_items: list[tuple[int, str]]) -> bytes:
    """Write what changed since the last delta, and the small scoring network."""
    arrays = {f"signals.{k}": a for k, a in recommender.signals.take_delta().items()}
    arrays |= {f"regression.{k}": a for k, a in recommender.coefficients.take_delta().items()}
    arrays |= {f"content.{k}": a for k, a in recommender.signals.content.take_delta().items()}
    arrays |= arrays_of(recommender.meta.small_state())
    return zlib.compress(pack(arrays, {"v": schema.DELTA.version, "new_items": new_items}), 1)


def apply_delta(
    blob: bytes,
    recommender: Recommender,
    vocabulary: Vocabulary,
    *,
    withdrawn: Container[str] = (),
) -> bool:
    """Take over a delta, all of it or nothing; applying it again changes nothing.

    1. Read and check everything. 2. Apply: from here on nothing can be refused. Returns whether an
    index has become another item's: until the next version, nothing is known of that one. New
    items that are ``withdrawn`` are marked so.

    Raises:
        CheckpointError: the bytes are no delta, or do not fit the model being served.
    """
    signals = recommender.signals
    try:  # 1
        arrays, fields = unpack(_decompress(blob), schema.DELTA)
        complete(arrays)
        small, changed = _meta_tensors(arrays), under(arrays, "signals.")
        content, fitted = under(arrays, "content."), under(arrays, "regression.")
        # Learn's max_items counts, which may be more than ours; no more are new than there are.
        room = max(vocabulary.max_items, len(vocabulary) + len(fields["new_items"]))
        new_items = checked_items(fields["new_items"], max_items=room)
        n_items = max([len(vocabulary), *(index + 1 for index, _ in new_items)])
        check_weights(small, recommender.meta)
        check_signals(changed, signals, n_items=n_items)
        check_content(content, signals.content, n_items=n_items)
        check_regression(fitted, n_items=n_items)
    except (zlib.error, *MISFIT) as exc:
        raise CheckpointError(f"a delta does not fit: {exc}") from exc
    signals.reserve(n_items)  # 2
    recommender.meta.load_state_dict(small, strict=False)
    replaced = [index for index, item in new_items if vocabulary.place(index, item)]
    recommender.meta.start_anew(torch.tensor(replaced, dtype=torch.int64))
    signals.apply_delta(changed)
    signals.content.apply_delta(content)
    recommender.coefficients.apply_delta(fitted)
    for index, item in new_items:
        signals.arrays.is_out[index] = item in withdrawn
    signals.refresh_popular(n_items)
    return bool(replaced)


def _decompress(blob: bytes) -> bytes:
    """Return what was compressed; a small blob may stand for more than there is memory."""
    decompressor = zlib.decompressobj()
    data = decompressor.decompress(blob, DELTA_LIMIT_BYTES + 1)
    if len(data) > DELTA_LIMIT_BYTES:
        raise ValueError(f"it is larger than {DELTA_LIMIT_BYTES} bytes")
    if not decompressor.eof:
        raise ValueError("its end is missing")
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """A piece of a delta, small enough for a record; ``learned_to`` as of an announcement."""

    epoch: Count
    sequence: Count
    part: Count
    parts: Annotated[int, Field(ge=1, le=DELTA_LIMIT_BYTES // FRAGMENT_BYTES)]
    published_ms: Count
    data: Annotated[bytes, Field(max_length=FRAGMENT_BYTES)]
    learned_to: tuple[Count, ...] = ()

    def encode(self) -> bytes:
        """Write the fragment."""
        packed: bytes = msgpack.packb({"v": schema.DELTA.version} | asdict(self))
        return packed

    @classmethod
    def decode(cls, value: bytes) -> "Fragment":
        """Read a fragment.

        Raises:
            MalformedRecordError: it is none of ours, or of a schema that is not read.
        """
        return _read(value, _FRAGMENT, schema.DELTA)


_ANNOUNCEMENT = TypeAdapter(Announcement)
_FRAGMENT = TypeAdapter(Fragment)


def _read(value: bytes, kind: TypeAdapter[T], of: schema.Schema) -> T:
    """Read a record of ours, every field of its type and within its bounds."""
    try:
        fields = msgpack.unpackb(value)
        if isinstance(fields, dict) and (why := of.refusal(fields.get("v"))):
            raise MalformedRecordError("unknown_schema", why)
        return kind.validate_python(fields)
    except ValidationError as exc:
        first = exc.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise MalformedRecordError("undecodable", f"no {of.name}: {why}") from exc
    except (ValueError, TypeError, msgpack.UnpackException) as exc:
        raise MalformedRecordError("undecodable", f"no {of.name}: {exc}") from exc


def split(
    blob: bytes, *, epoch: int, sequence: int, published_ms: int, learned_to: tuple[int, ...] = ()
) -> Iterator[Fragment]:
    """Cut a delta into fragments."""
    parts = max(1, -(-len(blob) // FRAGMENT_BYTES))
    for part in range(parts):
        piece = blob[part * FRAGMENT_BYTES : (part + 1) * FRAGMENT_BYTES]
        yield Fragment(
            epoch=epoch,
            sequence=sequence,
            part=part,
            parts=parts,
            published_ms=published_ms,
            data=piece,
            learned_to=learned_to,
        )


class Assembler:
    """Puts fragments back together; they come in order, from one writer at a time."""

    def __init__(self) -> None:
        self._pieces: list[Fragment] = []

    def add(self, fragment: Fragment) -> bytes | None:
        """Return the whole delta with its last fragment, None before."""
        if fragment.part == 0:
            self._pieces = []
        if self._pieces and not self._follows(fragment):
            self._pieces = []  # its beginning was read before we came, or its writer died
            return None
        if fragment.part != len(self._pieces):
            return None
        self._pieces.append(fragment)
        if len(self._pieces) < fragment.parts:
            return None
        blob = b"".join(piece.data for piece in self._pieces)
        self._pieces = []
        return blob

    def _follows(self, fragment: Fragment) -> bool:
        first = self._pieces[0]
        return (first.epoch, first.sequence) == (fragment.epoch, fragment.sequence)


def _meta_tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(a)) for name, a in under(arrays, "meta.").items()}
