"""The access key a client signs with."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..common.escaping import escape
from ..common.installing import how_to_install
from ..common.secret import Secret
from ..errors import ConfigurationError

__all__ = ["Credentials"]

_MAX_REASON: Final = 300
"""Characters of an error that are shown: a credential process may write whole pages."""
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

    @classmethod
    def find(cls, environment: Mapping[str, str], profile: str | None = None) -> Credentials:
        """Return those of the environment or of ``profile``, as botocore looks for them.

        What the environment does not have, boto3 finds, where it is installed: in the
        configuration files, or with a credential process, single sign-on or an instance's role.

        Raises:
            ConfigurationError: there are none, or what provides them fails.
        """
        keys = environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY")
        if profile is None and keys:
            # They take precedence in boto3's chain, too, and importing it is slow.
            return cls.from_environment(environment)
        if importlib.util.find_spec("boto3") is None:
            if profile is not None:
                raise ConfigurationError(
                    f"--profile needs the package boto3: {how_to_install('boto3')}"
                )
            return cls.from_environment(environment)
        found = _ask_boto3(profile)
        if not found:
            raise ConfigurationError(
                "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, use the output "
                "of tailrace env, or run aws configure"
            )
        key_id, secret, token = found
        return cls(key_id, Secret(secret), Secret(token) if token else None)


def _ask_boto3(profile: str | None) -> tuple[str, str, str] | None:
    """Return access key id, secret and session token (or "") that boto3 finds, if any."""
    session = importlib.import_module("boto3.session")
    exceptions = importlib.import_module("botocore.exceptions")
    told = (exceptions.BotoCoreError, exceptions.ClientError, OSError)
    try:
        found = session.Session(profile_name=profile).get_credentials()
        frozen = found and found.get_frozen_credentials()
        return frozen and (
            frozen.access_key + "",
            frozen.secret_key + "",
            (frozen.token or "") + "",
        )
    except Exception as error:  # of any kind: what a credential process prints is hardly checked
        text = escape(" ".join(str(error).split())) or type(error).__name__
        if len(text) > _MAX_REASON:
            text = f"{text[:_MAX_REASON].rstrip()}..."
        if not isinstance(error, told):
            text = f"their source, such as a credential_process, gives what is none ({text})"
        raise ConfigurationError(f"no credentials: {text}") from None


def _check(what: str, text: str) -> None:
    if not _VISIBLE.fullmatch(text):
        raise ConfigurationError(
            f"the {what} is empty or holds a blank, a control character or a character outside"
            " ASCII; was it copied in one piece?"
        )
