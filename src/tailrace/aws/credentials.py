"""The access key a client signs with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..common.secret import Secret
from ..errors import ConfigurationError

__all__ = ["Credentials"]

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, with the session token of temporary ones.

    Raises:
        ConfigurationError: a part holds what no credential has: a line break would end up as
            a header of its own.
    """

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None = None

    def __post_init__(self) -> None:
        _check("access key id", self.access_key_id)
        _check("secret access key", self.secret_access_key.reveal())
        if self.session_token is not None:
            _check("session token", self.session_token.reveal())

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Credentials:
        """Read the variables every AWS tool reads.

        Raises:
            ConfigurationError: a variable is missing; the text names it.
        """
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            if not environment.get(name):
                raise ConfigurationError(
                    f"no credentials: set {name}, or use the output of tailrace env"
                )
        token = environment.get("AWS_SESSION_TOKEN")
        return cls(
            environment["AWS_ACCESS_KEY_ID"],
            Secret(environment["AWS_SECRET_ACCESS_KEY"]),
            Secret(token) if token else None,
        )


def _check(what: str, text: str) -> None:
    if not _VISIBLE.fullmatch(text):
        raise ConfigurationError(
            f"the {what} is empty or holds a blank, a control character or a character outside"
            " ASCII; was it copied in one piece?"
        )
