"""The service that this user runs on this machine, for programs that are told of no other one.

``tailrace serve`` without ``--state-dir`` writes a ready file where every program of the same user
finds it. It is the last place to look: a user who has named AWS, a service or a region anywhere
does not mean one that happens to run here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..common.enrolment import Role
from ..common.private_files import OTHERS, open_private
from ..common.process_ids import is_running
from ..common.secret import Secret
from ..common.user_directories import state_directory
from ..errors import ConfigurationError
from .credentials import Credentials
from .joined import JoinedService

__all__ = ["find_running"]

_FILE: Final = "ready.json"
_MAX_FILE: Final = 64 * 1024
_NAME: Final = "default"


def find_running(environment: Mapping[str, str]) -> JoinedService | None:
    """Return the service that this user runs here, with its own key; ``None`` if there is none.

    Nor is there one if its key is in its environment only.
    """
    try:
        path = state_directory(environment) / _FILE
        with open(open_private(path, os.O_RDONLY, OTHERS), "rb") as file:
            document: dict[str, Any] = json.loads(file.read(_MAX_FILE))
        is_useful = is_running(document["pid"]) and document["secret_access_key"]
        return _service(document) if is_useful else None
    except ConfigurationError:
        return None  # this user has no home directory, or the file names no service
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # it has ended, or is no service's


def _service(document: dict[str, Any]) -> JoinedService:
    return JoinedService(
        Role.OPERATOR,
        _NAME,
        document["api_endpoint"],
        document["data_endpoint"],
        document["region"],
        Path(document["ca_file"]),
        Credentials(document["access_key_id"] + "", Secret(document["secret_access_key"] + "")),
    )
