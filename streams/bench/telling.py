"""What a bench command prints: tables for people, and JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from headrace.streams.bench.measuring import Row, as_json, machine, show
from headrace.streams.model_settings import pick_device
from headrace.streams.settings import Settings

# Where things are and what they are called: figures do not depend on it, or ``asked`` has it.
_PLACES = frozenset(
    name
    for name in Settings.model_fields
    if name.startswith(("group", "http_", "sasl_", "ssl_"))
    or name.endswith("_port")
    or name in {"bootstrap", "topic_prefix", "data_dir", "model_store", "start_from"}
)


def tell(
    settings: Settings,
    name: str,
    title: str,
    rows: Sequence[Row],
    **asked: Any,
) -> dict[str, Any]:
    """Print the table for people and the JSON for programs; return what the JSON says."""
    show(f"{name}: {title}", rows)
    return tell_programs(settings, name, asked, rows=as_json(rows))


def tell_tables(
    settings: Settings, name: str, tables: Mapping[str, Sequence[Row]], **asked: Any
) -> dict[str, Any]:
    """Do the same with several tables by name."""
    for title, rows in tables.items():
        show(f"{name}: {title}", rows)
    as_told = {title: as_json(rows) for title, rows in tables.items()}
    return tell_programs(settings, name, asked, tables=as_told)


def tell_programs(
    settings: Settings, name: str, asked: dict[str, Any], **found: Any
) -> dict[str, Any]:
    """Print what was found as JSON, with what was asked and the machine; return it.

    What was asked includes the settings that are not as they come, but for where things are.
    """
    on = machine(device=pick_device(settings), threads=settings.threads)
    set_otherwise = settings.model_dump(mode="json", exclude_defaults=True, exclude=set(_PLACES))
    told = {"bench": name, "asked": set_otherwise | asked, "machine": on} | found
    click.echo(json.dumps(told))
    return told
