"""The settings of one call of ``localproxy``: those of the proxy and those of the command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...common.addresses import TCPAddress
from ...common.event_loop import LoopChoice
from ...localproxy.settings import ProxySettings
from .layers import DEFAULT_VERBOSITY

__all__ = ["CommandSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSettings:
    """What the command runs with."""

    proxy: ProxySettings
    loop: LoopChoice = LoopChoice.AUTO
    json_events: bool = False
    """Write one JSON object per line to standard output for each event."""
    ready_file: Path | None = None
    """Written atomically once the tunnel can be used."""
    state_dir: Path | None = None
    """Where the generated client token of an access token outlives the process (0600)."""
    state_needed: bool = False
    """Whether a state directory that cannot be used is an error: somebody has asked for it."""
    control: bool = True
    """Whether ``tailrace status`` may ask this process."""
    metrics_listen: TCPAddress | None = None
    """Where Prometheus finds metrics."""
    verbosity: int = DEFAULT_VERBOSITY
    """What is logged: the value of ``--verbose``."""
