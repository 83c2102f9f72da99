"""The learn role's own half of a version: what it needs, beyond the model, to go on learning.

With the offsets the state belongs to: an event is in the state exactly if it is below them.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping

import msgpack
import numpy as np
import numpy.typing as npt
import torch

from headrace.model.counts.content import Content
from headrace.model.counts.item_regression import PairCounts
from headrace.model.recommender import Recommender
from headrace.model.vocabulary import Vocabulary
from headrace.streams import schema
from headrace.streams.errors import CheckpointError, SettingsError
from headrace.streams.learn.learner import Learner
from headrace.streams.model_settings import differences
from headrace.streams.state import UserState
from headrace.streams.versions.blobs import MISFIT, Blob, pack, under, unpack
from headrace.streams.versions.publication import unpack_model
from headrace.streams.versions.version_check import check_pairs, checked_fields

Positions = dict[int, int]  # partition to the offset of its first event not yet learned


def pack_learner(learner: Learner, positions: Positions) -> memoryview:
    """Write the users' histories, the optimisers, the counts of pairs and the offsets."""
    arrays = {f"loop.{k}": t.cpu().numpy() for k, t in learner.outer_loop.state().items()}
    arrays |= {f"pairs.{k}": a for k, a in learner.pairs.state().items()}
    arrays["users"] = _pack_users(learner.users)
    fields = {
        "v": schema.LEARNER.version,
        "positions": {str(partition): offset for partition, offset in positions.items()},
        "n_events": learner.n_events,
        "versions_due": learner.forgetting.versions_due,
        "categories": learner.assortment.categories.names(),
        "content": [learner.assortment.catalogue.space, learner.assortment.catalogue.n_arrived],
    }
    return pack(arrays, fields)


def _pack_users(users: Mapping[str, UserState]) -> npt.NDArray[np.uint8]:
    """Write (key, state) pairs as one msgpack array, user by user.

    One call for all of them held Python's lock for longer than a role may stand still.
    """
    packer = msgpack.Packer()
    pieces = deque([packer.pack_array_header(len(users))])
    pieces.extend(packer.pack((key, state.encode())) for key, state in users.items())
    packed, end = np.empty(sum(map(len, pieces)), np.uint8), 0
    while pieces:
        piece = np.frombuffer(pieces.popleft(), np.uint8)
        packed[end : (end := end + len(piece))] = piece
    return packed


def restore(learner: Learner, model_blob: Blob, learner_blob: Blob) -> Positions:
    """Make a new learner go on from a version; return the offsets it belongs to.

    Raises:
        SettingsError: the version is of another shape than the settings ask for.
        CheckpointError: it is damaged.
    """
    recommender, vocabulary = unpack_model(
        model_blob, max_items=learner.settings.max_items, device=str(learner.recommender.device)
    )
    _check_shape(learner, recommender, vocabulary)
    arrays, untrusted = unpack(learner_blob, schema.LEARNER)
    learner.recommender, learner.vocabulary = recommender, vocabulary
    learner.outer_loop = learner.new_outer_loop()
    try:
        fields = checked_fields(untrusted)
        learner.outer_loop.load_state(
            {k: torch.from_numpy(np.array(a)) for k, a in under(arrays, "loop.").items()}
        )
        check_pairs(under(arrays, "pairs."))
        learner.pairs = PairCounts.of(under(arrays, "pairs."))
        learner.users = OrderedDict(
            (key, UserState.decode(state)) for key, state in msgpack.unpackb(arrays["users"])
        )
        learner.n_events = fields.n_events
        learner.forgetting.versions_due = fields.versions_due
        learner.assortment.categories.restore(fields.categories)
        # Where no vector is left, or none of this space, the records that are read again decide.
        has_vectors = learner.signals.content.is_in_use
        if not (has_vectors and learner.assortment.catalogue.restore(*fields.content)):
            learner.signals.content = Content()
        return {int(partition): offset for partition, offset in fields.positions.items()}
    except torch.OutOfMemoryError:  # of a GPU, which may have room at the next start
        raise
    except MISFIT as exc:
        raise CheckpointError(f"the learner's state does not fit: {exc}") from exc


def _check_shape(learner: Learner, recommender: Recommender, vocabulary: Vocabulary) -> None:
    """Refuse settings that do not fit the stored model, saying in what.

    An older one might fit, and what was learned since would be gone by a slip of an operator's.
    """
    stored, asked = (
        r.meta.config.to_dict() | {"neighbours": r.signals.neighbours}
        for r in (recommender, learner.recommender)
    )
    unequal = differences(stored, asked)
    if len(vocabulary) > vocabulary.max_items:
        unequal.append(f"items are {len(vocabulary)}, max_items is {vocabulary.max_items}")
    if unequal:
        raise SettingsError(
            f"the stored model does not fit: {'; '.join(unequal)}: change the settings back, or"
            " `headrace learn --anew`, once, learns from the events that the topic still has"
        )
