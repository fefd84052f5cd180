"""What people write for the device agent: the file of its services."""

from __future__ import annotations

from typing import Final

from tailrace.agent.map_file import parse_map
from tailrace.agent.service_map import describe_changes
from tailrace.errors import ConfigurationError
from tailrace.library import ServiceMap

from ..checks import is_one_line
from ..mutate import mutated_text, vary_text
from ..target import Target

__all__ = ["SERVICES_TOML"]

_FILES: Final = (
    '[services]\nSSH = 22\nDB = "/run/db.sock"\n',
    '[services.WEB]\ntarget = "camera.local:80"\nallow = ["10.0.0.0/8", "fd00::1"]\n'
    'max-connections = 8\nbandwidth = "800kB/s"\n',
    '[services."PLC-*"]\ntarget = "[::1]:502"\n[services."*"]\ntarget = 1\n',
    "services = {A = {target = 1}, B = 'unix:x'}\n",
    "[services]\nSSH = 0\n",
    "x = 1\n",
)
_LONGEST_LINE: Final = 1000


def _check_map(text: str) -> None:
    try:
        rules = parse_map(text.encode("utf-8", "surrogateescape"), "services.toml")
    except ConfigurationError as error:
        assert is_one_line(str(error)), str(error)
        assert len(str(error)) < _LONGEST_LINE
        assert str(error).startswith("services.toml")
        raise
    services = ServiceMap(rules)
    assert services.rules == rules
    for service_id in rules:
        assert services.find(service_id.replace("*", "x")) is not None
    assert is_one_line(describe_changes({}, rules))
    assert describe_changes(rules, rules) == ""


SERVICES_TOML: Final = Target(
    "services-toml",
    "a file of the agent's services",
    mutated_text(
        _FILES,
        (
            *("target", "allow", "max-connections", "bandwidth", "[services.A]\n", "[[", "]]"),
            *('"', "'''", "=", "\n", ".", "{", "}", "[" * 3000, "true", "1e999", "nan", "0xff"),
            *("1979-05-27T07:32:00Z", "9" * 5000, "0x" + "f" * 5000, "\\u0000", "\u2028", "#"),
        ),
    ),
    _check_map,
    (ConfigurationError,),
    _FILES,
    vary_text,
)
