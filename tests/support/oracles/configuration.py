"""Values of options and files, printed as texts that parse to the same again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal

from tailrace.cli.localproxy.ini import Entry
from tailrace.cli.localproxy.settings_json import PREFIX, FineSettings
from tailrace.common.addresses import ServiceAddresses, format_local_address

__all__ = ["format_config", "format_services", "format_settings"]


def format_config(entries: Iterable[Entry]) -> str:
    """Return the text of a ``--config`` file with these options."""
    return "".join(f"{entry.option.name} = {_plain(entry.value)}\n" for entry in entries)


def _plain(value: str | int | float | bool) -> str:
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)


def format_services(services: ServiceAddresses) -> str:
    """Return the text of a file of ``--config-dir`` with these services."""
    return "".join(f"{name} = {format_local_address(where)}\n" for name, where in services.items())


def format_settings(settings: FineSettings) -> str:
    """Return the text of a settings file that says what ``settings`` does."""
    document: dict[str, object] = {
        PREFIX + key: round(1000 * value) if isinstance(value, float) else value
        for key, value in settings.values.items()
    }
    document[PREFIX + "endpoint_format"] = settings.endpoint_format
    document |= {
        f"{PREFIX}region_endpoint_overrides.{region}": endpoint
        for region, endpoint in settings.region_endpoints.items()
    }
    return json.dumps(document)
