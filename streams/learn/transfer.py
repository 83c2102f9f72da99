"""Transfer: start a new shop from what another one learned of how to rank.

What is tied to item ids stays behind: embeddings, item signals, residuals. What is not is kept: how
the scorer weighs its inputs and adapts, and how the encoder reads a history. Where both shops have
a catalogue, items here start from the embeddings of items there with like content.
"""

from pathlib import Path

import fsspec
import torch

from headrace.model.config import ModelConfig
from headrace.streams import schema
from headrace.streams.errors import CheckpointError, UnreadableError
from headrace.streams.learn.inheritance import Inheritance
from headrace.streams.learn.learner import Learner
from headrace.streams.model_settings import differences
from headrace.streams.versions.apart import complete
from headrace.streams.versions.blobs import MISFIT, Arrays, under, unpack
from headrace.streams.versions.publication import pack_model
from headrace.streams.versions.store import kind_of
from headrace.streams.versions.version_check import check_model

TIED_TO_ITEMS = ("encoder.items", "encoder.bias", "negatives", "n_items", "residual")


def write_model(learner: Learner, path: str | Path) -> None:
    """Write what ``start_from`` reads: the ``model`` file of a version, of what is learned now."""
    Path(path).write_bytes(
        pack_model(
            learner.recommender,
            learner.vocabulary,
            content_space=learner.assortment.catalogue.space,
        )
    )


def start_from(learner: Learner, url: str) -> dict[str, torch.Tensor]:
    """Make a new learner start from a version's ``model`` file; return the tensors it took over.

    Raises:
        CheckpointError: there is no such file, it is no ``model`` file, or is of another shape.
        UnreadableError: its store does not give it.
    """
    arrays, inheritance = _read(learner, url)
    taken = {
        name: torch.from_numpy(array.copy())
        for name, array in under(arrays, "meta.").items()
        if name not in TIED_TO_ITEMS
    }
    learner.outer_loop.start_from(taken)
    learner.assortment.inheritance = inheritance
    return taken


def inherit(learner: Learner, url: str) -> None:
    """Let items that come from now on start from like ones there, as ``start_from`` does.

    Raises:
        CheckpointError: as ``start_from``.
    """
    _, learner.assortment.inheritance = _read(learner, url)


def _read(learner: Learner, url: str) -> tuple[Arrays, Inheritance]:
    """Read a version's ``model`` file, check it as if it were to be served, and see what it leaves.

    Raises:
        CheckpointError: there is no such file, it is no ``model`` file, or is of another shape.
        UnreadableError: its store does not give it.
    """
    if (kind := kind_of(url)) not in ("model", None):
        raise CheckpointError(
            f"{url} holds a version's {kind}: name a model file of that store, *.model.safetensors"
        )
    try:
        with fsspec.open(url, "rb") as file:
            blob = file.read()
    except (FileNotFoundError, IsADirectoryError, ImportError, ValueError) as exc:
        raise CheckpointError(f"{url} cannot be read: {exc}") from exc
    except Exception as exc:  # each kind of store has errors of its own
        raise UnreadableError(f"{url} cannot be read: {exc}") from exc
    try:
        arrays, fields = unpack(blob, schema.MODEL)
    except CheckpointError as exc:
        raise CheckpointError(f"{url}: {exc}") from exc
    asked = learner.recommender.meta.config.to_dict()
    # What is configurable since the file was written is at its default there.
    stored = ModelConfig().to_dict() | fields.get("config", {})
    if unequal := differences(stored, asked):
        raise CheckpointError(f"{url} does not fit: {'; '.join(unequal)}")
    try:
        complete(arrays)
        check_model(arrays, fields)
        return arrays, Inheritance.of(arrays, fields)
    except KeyError as exc:
        raise CheckpointError(f"{url} is not a version's model file: it lacks {exc}") from exc
    except MISFIT as exc:
        raise CheckpointError(f"{url} does not fit: {exc}") from exc
