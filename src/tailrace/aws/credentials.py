"""The access key a client signs with, and where it is found."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..common.escaping import cut, escape
from ..common.installing import how_to_install
from ..common.secret import Secret
from ..errors import ConfigurationError
from .profile import Profile

__all__ = ["BotocoreCredentials", "Credentials", "find_credentials"]

_MAX_REASON: Final = 300
"""Characters of an error that are shown: a credential process may write whole pages."""
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")

_BEFORE_FILES: Final = {"role_arn", "web_identity_token_file", "sso_role_name", "sso_account_id"}
"""Settings of a profile that lead botocore elsewhere before it looks for keys in the files."""
_BEFORE_CONFIG: Final = {"login_session", "credential_process"}
"""Those that lead it elsewhere between the credentials file and the configuration file."""
_OTHER_VARIABLES: Final = {
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
}
"""Variables that only botocore goes by."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, with the session token of temporary ones.

    Raises:
        ConfigurationError: a part holds what no credential has: a line break would end up as
            a header of its own.

    Example::

        key = tailrace.Credentials("AKIAEXAMPLE", tailrace.Secret(secret))
        client = tailrace.Client(credentials=key)
    """

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None = None

    def __post_init__(self) -> None:
        _check("access key id", self.access_key_id)
        _check("secret access key", _revealed("secret_access_key", self.secret_access_key))
        if self.session_token is not None:
            _check("session token", _revealed("session_token", self.session_token))

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
        token = environment.get("AWS_SECURITY_TOKEN") or environment.get("AWS_SESSION_TOKEN")
        return cls(
            environment["AWS_ACCESS_KEY_ID"],
            Secret(environment["AWS_SECRET_ACCESS_KEY"]),
            Secret(token) if token else None,
        )


class BotocoreCredentials:
    """Credentials that botocore finds, and renews before they expire. Every call may block.

    ``profile`` is one that a caller has named; then the environment does not count.
    """

    def __init__(self, profile: str | None) -> None:
        self._profile = profile
        self._found: Any = None

    def __call__(self) -> Credentials:
        """Return those of this moment.

        Raises:
            ConfigurationError: there are none, or what provides them fails.
        """
        frozen = self._ask()
        if not frozen:
            raise ConfigurationError(
                "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, use the output "
                "of tailrace env, or run aws configure"
            )
        key_id, secret, token = frozen
        return Credentials(key_id, Secret(secret), Secret(token) if token else None)

    def _ask(self) -> tuple[str, str, str] | None:
        """Return access key id, secret and session token (or "") that botocore finds, if any."""
        session = importlib.import_module("botocore.session")
        exceptions = importlib.import_module("botocore.exceptions")
        told = (exceptions.BotoCoreError, exceptions.ClientError, OSError)
        try:
            if self._found is None:
                self._found = session.Session(profile=self._profile).get_credentials()
            frozen = self._found and self._found.get_frozen_credentials()
            return frozen and (
                frozen.access_key + "",
                frozen.secret_key + "",
                (frozen.token or "") + "",
            )
        except Exception as error:
            # Of any kind: what a credential process prints is hardly checked.
            text = cut(escape(" ".join(str(error).split())), _MAX_REASON) or type(error).__name__
            if not isinstance(error, told):
                text = f"their source, such as a credential_process, gives what is none ({text})"
            raise ConfigurationError(f"no credentials: {text}") from None


def find_credentials(
    profile: Profile, name: str | None = None
) -> Credentials | BotocoreCredentials:
    """Return the credentials that botocore would find, in its order.

    Access keys in the environment and in the files are found without it. All else it is asked for,
    where it is installed: credential processes, single sign-on, roles, containers, instances.

    Args:
        profile: what the environment and the files say.
        name: the profile that a caller asks for; then credentials of the environment do not count.

    Raises:
        ConfigurationError: there are none, and botocore is not installed.
    """
    environment = profile.environment
    if name is None and environment.get("AWS_ACCESS_KEY_ID"):
        return Credentials.from_environment(environment)
    section = _section_with_key(profile, name)
    if section is not None:
        return _from_section(section)
    if importlib.util.find_spec("botocore") is not None:
        return BotocoreCredentials(name)
    others = (_BEFORE_FILES | _BEFORE_CONFIG) & profile.values.keys()
    if name is not None or others or _OTHER_VARIABLES & environment.keys():
        raise ConfigurationError(
            "no credentials: the profile has no access key, and other sources, such as single "
            f"sign-on or a role, need the package boto3: {how_to_install('boto3')}",
            setting="profile",
        )
    return Credentials.from_environment(environment)


def _section_with_key(profile: Profile, name: str | None) -> Mapping[str, object] | None:
    """Return the section whose access key botocore would take, ``None`` if it asks elsewhere."""
    by_web_identity = name is None and profile.environment.get("AWS_WEB_IDENTITY_TOKEN_FILE")
    if by_web_identity or _BEFORE_FILES & profile.values.keys():
        return None
    if "aws_access_key_id" in profile.credentials:
        return profile.credentials
    if _BEFORE_CONFIG & profile.values.keys() or "aws_access_key_id" not in profile.config:
        return None
    return profile.config


def _from_section(section: Mapping[str, object]) -> Credentials:
    names = ("aws_access_key_id", "aws_secret_access_key")
    for name in names:
        if not isinstance(section.get(name), str):
            raise ConfigurationError(
                f"no credentials: the profile has no {name} in the AWS configuration files"
            )
    tokens = (
        section[name] for name in ("aws_security_token", "aws_session_token") if name in section
    )
    key_id, secret, token = (*(str(section[name]) for name in names), str(next(tokens, "")))
    return Credentials(key_id, Secret(secret), Secret(token) if token else None)


def _revealed(name: str, secret: Secret) -> str:
    if not isinstance(secret, Secret):
        # Not shown: it is the secret itself.
        raise ConfigurationError(f"{name} is not a tailrace.Secret: give tailrace.Secret(text)")
    return secret.reveal()


def _check(what: str, text: str) -> None:
    if not _VISIBLE.fullmatch(text):
        raise ConfigurationError(
            f"the {what} is empty or holds a blank, a control character or a character outside"
            " ASCII; was it copied in one piece?"
        )
