"""Flags of the command line, made from the settings: one name, one help text, one check."""

import functools
import json
import math
from collections.abc import Callable
from typing import Any, get_origin

import click

from headrace.streams.errors import SettingsError
from headrace.streams.kafka.security import SECRETS
from headrace.streams.settings import FILE_VARIABLE, PREFIX, Settings, load

Command = Callable[..., Any]
PORT = click.IntRange(0, 65_535)
MODEL_FLAGS = ("device", "seed")
FLAG_NAMES = {"start_from": "from"}  # where the setting's own name reads badly as a flag


class FiniteRange(click.FloatRange):
    """A number of a range: to click, NaN is in every one."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def number(
    flag: str, default: float, told: str, *, least: float, most: int | None = None
) -> Callable[[Command], Command]:
    """Return a flag for a number of a range, which is whole if its default is."""
    is_whole = isinstance(default, int)
    kind = click.IntRange(int(least), most) if is_whole else FiniteRange(least, most)
    return click.option(flag, default=default, show_default=True, type=kind, help=told)


context_columns = click.option(
    "--context",
    metavar="COLUMN",
    multiple=True,
    callback=lambda _context, _option, names: tuple(dict.fromkeys(names)),
    help="A column that goes with each event as context; may be given repeatedly.",
)


def with_settings(*names: str, bootstrap_help: str | None = "") -> Callable[[Command], Command]:
    """Call the command with the settings first, and give it the flags that set them.

    Every command has ``--settings``, ``--bootstrap`` and ``-s``; ``names`` are the settings that
    deserve a flag of their own there. ``bootstrap_help`` says what ``--bootstrap`` is there, where
    it is something else than elsewhere; ``None`` leaves it out.
    """
    flags = names if bootstrap_help is None else ("bootstrap", *names)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_loaded(settings_file: str | None, assigned: tuple[str, ...], **given: Any) -> Any:
            chosen = {name: given.pop(name) for name in flags} | dict(map(_assignment, assigned))
            texts = {name: text for name, text in chosen.items() if text is not None}
            values = {name: _value(name, text) for name, text in texts.items()}
            return command(load(values, file=settings_file), **given)

        wrapped: Command = with_loaded
        wrapped = click.option(
            "-s", "assigned", multiple=True, metavar="NAME=VALUE", help="Any other setting."
        )(wrapped)
        wrapped = click.option(
            "--settings",
            "settings_file",
            metavar="FILE",
            help=f"TOML file of settings; or {FILE_VARIABLE}=FILE.",
        )(wrapped)
        for name in reversed(flags):
            wrapped = _flag(name, bootstrap_help if name == "bootstrap" else "")(wrapped)
        return wrapped

    return decorate


def is_given(name: str) -> bool:
    """Return whether the command line of the command that runs sets a setting, in either way."""
    given = click.get_current_context().params
    return given.get(name) is not None or name in dict(map(_assignment, given["assigned"]))


def _flag(name: str, told: str | None) -> Callable[[Command], Command]:
    field = Settings.model_fields[name]
    default = field.get_default(call_default_factory=True)
    shown = "empty" if default in ("", {}, None) else default
    return click.option(
        f"--{FLAG_NAMES.get(name, name).replace('_', '-')}",
        name,
        metavar="VALUE",
        help=told or f"{field.description}  ({PREFIX}{name.upper()}; {shown} if not set)",
    )


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"-s {text}: a setting is given as NAME=VALUE")
    name = name.strip().replace("-", "_")
    if name in SECRETS:
        raise SettingsError(
            f"-s {name}=...: everyone on this machine can see a command line:"
            f" set {PREFIX}{name.upper()}, or {name}_file"
        )
    return name, value


def _value(name: str, text: str) -> Any:
    """Return what the settings take: text, but for maps, which are written as JSON."""
    field = Settings.model_fields.get(name)
    if field is None or get_origin(field.annotation) is not dict:
        return text
    try:
        return json.loads(text)
    except ValueError as exc:
        raise SettingsError(f"{name}={text} is not JSON: {exc}. {field.description}") from exc
