"""What the settings say of the model: its shape, and where it is computed."""

from collections.abc import Mapping
from typing import Any

import torch

from headrace.model.config import ModelConfig
from headrace.streams.errors import SettingsError
from headrace.streams.settings import Settings


def model_config(settings: Settings) -> ModelConfig:
    """Return the shape of the model that the settings ask for."""
    return ModelConfig(
        width=settings.encoder_width,
        blocks=settings.encoder_blocks,
        heads=settings.encoder_heads,
        length=settings.encoder_length,
        inner_steps=settings.inner_steps,
        meta_learning=settings.meta_learning,
        clusters=settings.clusters,
    )


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return in words where a stored model is of another shape than the settings ask for."""
    return [
        f"{name} is {stored[name]}, the settings ask for {asked[name]}"
        for name in asked
        if stored[name] != asked[name]
    ]


def pick_device(settings: Settings) -> str:
    """Return the device to compute on.

    Raises:
        SettingsError: there is no such device here.
    """
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    n_gpus = torch.cuda.device_count()  # not tried: one that is full now is worth another start
    try:
        named = torch.device(settings.device)
        is_here = named.type == "cpu" or (named.type == "cuda" and (named.index or 0) < n_gpus)
    except RuntimeError:  # no device of that name
        is_here = False
    if not is_here:
        raise SettingsError(
            f"device={settings.device}: there is none here, of {n_gpus} GPUs:"
            " set it to auto, cpu, cuda or cuda:N"
        )
    return settings.device
