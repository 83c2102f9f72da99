"""What a version must be like to be served or gone on from: checked before anything is made of it.

The checksum says that a file is the announced one, not that it was written right, and the compiled
loops check no index. Claimed sizes are compared with the arrays that are there, so that a small
file cannot ask for more memory than there is.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from headrace.model.config import ModelConfig
from headrace.model.counts.content import Content
from headrace.model.counts.item_regression import MAX_PLACES
from headrace.model.counts.signals import ItemSignals
from headrace.model.networks.meta_parameters import MetaParameters
from headrace.streams.fields import MAX_TIME_MS
from headrace.streams.settings import Settings
from headrace.streams.state import MOST_EVENTS
from headrace.streams.versions.blobs import Arrays, under
from headrace.streams.versions.delta_check import (
    check_content,
    check_regression,
    check_signals,
    check_values,
)

_MAX_HIDDEN = _MAX_NEGATIVES = 65_536  # no setting; far above what pays
_INTS = TypeAdapter(dict[str, int], config=ConfigDict(strict=True))
Count = Annotated[int, Field(ge=0, le=MOST_EVENTS)]  # a larger one could be read and not written
_IDS = TypeAdapter(list[str], config=ConfigDict(strict=True))


def check_model(arrays: Arrays, fields: Mapping[str, Any]) -> ModelConfig:
    """Check the ``model`` file of a version; return the sizes it has.

    Raises:
        ValueError: a size, type, shape, value or index that does not fit.
        TypeError: there is a size that nobody knows.
        KeyError: a part is missing.
    """
    config = check_meta(arrays, fields)
    ids = _IDS.validate_python(fields["ids"])
    neighbours = fields["neighbours"]
    Settings.model_validate({"neighbours": neighbours})
    named = [item for item in ids if item]
    if len(set(named)) < len(named):
        raise ValueError("an item has two indexes")
    signals = under(arrays, "signals.")
    check_signals(signals, ItemSignals(neighbours), n_items=len(ids))
    latest_s = MAX_TIME_MS // 1000
    for name in ("now_s", "last_time_s"):
        if ((signals[name] < 0) | (signals[name] > latest_s)).any():
            raise ValueError(f"{name} are no times")
    check_content(under(arrays, "content."), Content(), n_items=len(ids))
    check_regression(under(arrays, "regression."), n_items=len(ids))
    return config


def check_meta(arrays: Arrays, fields: Mapping[str, Any]) -> ModelConfig:
    """Check the meta-parameters of a version; return the sizes they have.

    Raises:
        ValueError, TypeError, KeyError: as ``check_model``.
    """
    sizes = dict(fields["config"])
    way = sizes.pop("meta_learning")  # the settings know it
    config = ModelConfig(**_INTS.validate_python(sizes), meta_learning=way)
    # The settings' own bounds: a version that they could not ask for is none.
    shape = {f"encoder_{name}": getattr(config, name) for name in ("width", "blocks", "heads")}
    shape |= {"encoder_length": config.length, "inner_steps": config.inner_steps}
    shape |= {"meta_learning": config.meta_learning, "clusters": config.clusters}
    Settings.model_validate(shape)
    if not (0 < config.hidden <= _MAX_HIDDEN and 0 < config.negatives <= _MAX_NEGATIVES):
        raise ValueError(f"hidden is {config.hidden}, negatives are {config.negatives}")
    _check_weights(under(arrays, "meta."), config)
    return config


def _check_weights(arrays: Arrays, config: ModelConfig) -> None:
    capacity = len(arrays["encoder.bias"])
    with torch.device("meta"):  # shapes alone take no memory
        like = MetaParameters(config, capacity=capacity).state_dict()
    if arrays.keys() != like.keys():
        raise ValueError(
            f"meta-parameters that only one has: {sorted(arrays.keys() ^ like.keys())}"
        )
    for name, array in arrays.items():
        tensor = torch.from_numpy(np.array(array))
        if (tensor.shape, tensor.dtype) != (like[name].shape, like[name].dtype):
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
        check_values(name, tensor)
    negatives, n_items = arrays["negatives"], arrays["n_items"]
    if (negatives < 0).any() or (negatives >= capacity).any() or not 0 <= n_items <= capacity:
        raise ValueError(f"negatives or items are not all from 0 to {capacity - 1}")


class LearnerFields(BaseModel, strict=True):
    """What the ``learner`` file says beside its arrays."""

    positions: dict[str, Count]  # partition, as JSON names it, to the offset of the next event
    n_events: Count
    categories: list[str]
    content: tuple[str, Count]
    versions_due: Count = 0  # none in version 1


def checked_fields(fields: Mapping[str, Any]) -> LearnerFields:
    """Return the fields of a ``learner`` file.

    Raises:
        ValueError: one is missing, or not of its type.
    """
    return LearnerFields.model_validate_json(json.dumps(fields))


def check_pairs(arrays: Arrays) -> None:
    """Check the learner's counts of pairs.

    Raises:
        ValueError: a type, shape, count or index that does not fit.
        KeyError: a part is missing.
    """
    keys, counts = arrays["keys"], arrays["counts"]
    takers, new_takers = arrays["takers"], arrays["new_takers"]
    for name, array, dtype, n in (
        ("keys", keys, np.int64, len(keys)),
        ("counts", counts, np.float32, len(keys)),
        ("takers", takers, np.float32, len(takers)),
        ("new_takers", new_takers, np.float32, len(takers)),
    ):
        if array.dtype != dtype or array.shape != (n,):
            raise ValueError(f"pairs {name} is {array.dtype} {array.shape}")
    # In order, equal ones stand side by side; np.unique would hold Python's lock.
    if len(keys) > MAX_PLACES // 2 or not np.diff(np.sort(keys)).all():
        raise ValueError("there are too many pairs, or one twice")
    for name, array in (("counts", counts), ("takers", takers), ("new_takers", new_takers)):
        if not ((array >= 0) & (array < np.inf)).all():
            raise ValueError(f"pairs {name} are no counts")
    for index in (keys >> 32, keys & 0xFFFFFFFF):
        if ((index < 0) | (index >= len(takers))).any():
            raise ValueError(f"items of pairs are not all from 0 to {len(takers) - 1}")
