"""The service that this machine has joined: where it is, and the key for it.

``tailrace join`` and ``tailrace env --out`` write ``service.json`` into a directory, with the
certificates of the service beside it, and every program finds it there. It is looked for in
``TAILRACE_SERVICE_DIR`` if that is set, and otherwise in the user's directory
(``$XDG_CONFIG_HOME/tailrace``, ``~/.config/tailrace``), then in ``/etc/tailrace``.

The certificates have a name that tells their content, and are written first: a program
that reads ``service.json``, old or new, finds those that belong to it. Their path is relative, so
that the directory can be copied to another machine.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..common.atomic_files import make_private_directory, write_file
from ..common.enrolment import Role, is_secret_key, new_secret_key
from ..common.private_files import OTHERS, open_private
from ..common.secret import Secret
from ..errors import ConfigurationError
from .credentials import Credentials

__all__ = [
    "DIRECTORY_VARIABLE",
    "JoinedService",
    "default_directory",
    "find_joined",
    "forget_pending",
    "pending_secret_key",
    "read_joined",
    "unless_named",
    "write_joined",
]

DIRECTORY_VARIABLE: Final = "TAILRACE_SERVICE_DIR"

_FILE: Final = "service.json"
_PENDING: Final = "joining.json"
"""While a code is being used up: a program that dies meanwhile is the same one when it is back."""
_SYSTEM: Final = Path("/etc/tailrace")
_MAX_FILE: Final = 64 * 1024
_NAMING: Final = (
    "AWS_ENDPOINT_URL_IOTSECURETUNNELING",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ACCESS_KEY_ID",
)
"""Variables that say which control API is meant."""
_FORMS: Final = {
    "api_endpoint": re.compile(r"https://[A-Za-z0-9.:_\[\]-]{1,260}"),
    "data_endpoint": re.compile(r"[A-Za-z0-9.:_\[\]-]{1,260}:\d{1,5}", re.ASCII),
    "region": re.compile(r"[A-Za-z0-9-]{1,64}"),
    "name": re.compile(r"[\w.@+:-]{1,128}", re.ASCII),
}


@dataclass(frozen=True, slots=True)
class JoinedService:
    """A service, and what this machine is to it.

    Raises:
        ConfigurationError: a value cannot be one.
    """

    role: Role
    name: str
    """The thing that this machine is, or what the key of its operator is called."""
    api_endpoint: str
    data_endpoint: str
    region: str
    ca_file: Path
    """Certificates to trust in addition to the system's."""
    credentials: Credentials

    def __post_init__(self) -> None:
        for name, form in _FORMS.items():
            value = getattr(self, name)
            if not isinstance(value, str) or not form.fullmatch(value):
                raise ConfigurationError(f"{name} {value!r} of the service is not valid")


def default_directory(environment: Mapping[str, str]) -> Path:
    """Return where this user joins: ``/etc/tailrace`` for root, else below the home directory.

    Raises:
        ConfigurationError: the user has no home directory.
    """
    chosen = environment.get(DIRECTORY_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return _SYSTEM
    directory = _user_directory(environment)
    if directory is None:
        raise ConfigurationError("this user has no home directory: give a directory with --dir")
    return directory


def find_joined(environment: Mapping[str, str]) -> JoinedService | None:
    """Return the service that this machine has joined, ``None`` if there is none.

    Raises:
        ConfigurationError: the files cannot be read or trusted, or are not valid; or the
            directory that the environment names has none.
    """
    chosen = environment.get(DIRECTORY_VARIABLE)
    if chosen:
        found = read_joined(Path(chosen).absolute())
        if found is None:
            raise ConfigurationError(f"{DIRECTORY_VARIABLE}: {chosen} has no {_FILE}")
        return found
    directory = _user_directory(environment)
    found = None if directory is None else read_joined(directory)
    if found is None:
        try:
            found = _read(_SYSTEM)
        except PermissionError:
            found = None  # it is the one of root
    return found


def unless_named(
    environment: Mapping[str, str], find: Callable[[Mapping[str, str]], JoinedService | None]
) -> JoinedService | None:
    """Return what ``find`` finds, unless the environment says which control API is meant."""
    return None if any(environment.get(name) for name in _NAMING) else find(environment)


def read_joined(directory: Path) -> JoinedService | None:
    """Return the service whose files are in ``directory``, ``None`` if there are none.

    Raises:
        ConfigurationError: they cannot be read, are open to other users, or are not valid.
    """
    try:
        return _read(directory)
    except PermissionError as error:
        raise ConfigurationError(f"cannot read {directory / _FILE}: {error.strerror}") from None


def _read(directory: Path) -> JoinedService | None:
    """Do what :func:`read_joined` does.

    Raises:
        ConfigurationError: as there.
        PermissionError: this user may not look into the directory.
    """
    path = directory / _FILE
    try:
        with open(open_private(path, os.O_RDONLY, OTHERS), "rb") as file:
            document = json.loads(file.read(_MAX_FILE))
        return _from_document(document, directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.EACCES:
            raise
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Without the cause: it may quote the secret.
        raise ConfigurationError(f"{path} is not valid; run tailrace join again") from None


def write_joined(directory: Path, joined: JoinedService, authorities: bytes) -> JoinedService:
    """Write the files, in place of those that are there; return what the next program reads.

    ``authorities`` are certificates in PEM.

    Raises:
        ConfigurationError: they cannot be written.
    """
    make_private_directory(directory)
    name = f"ca-{hashlib.sha256(authorities).hexdigest()[:8]}.pem"
    write_file(directory / name, authorities)
    key = joined.credentials
    document = {
        "role": joined.role.value,
        "name": joined.name,
        "api_endpoint": joined.api_endpoint,
        "data_endpoint": joined.data_endpoint,
        "region": joined.region,
        "ca_file": name,
        "access_key_id": key.access_key_id,
        "secret_access_key": key.secret_access_key.reveal(),
    }
    write_file(directory / _FILE, json.dumps(document, indent=2).encode() + b"\n")
    return replace(joined, ca_file=directory / name)


def pending_secret_key(directory: Path, code: Secret) -> Secret:
    """Return the secret key to join with: a new one, or that of an attempt with the same code.

    It is kept in ``directory``, which so proves to be of use before the code is used up.

    Raises:
        ConfigurationError: the directory cannot be used.
    """
    make_private_directory(directory)
    path = directory / _PENDING
    try:
        with open(open_private(path, os.O_RDONLY, OTHERS), "rb") as file:
            document = json.loads(file.read(_MAX_FILE))
        if document["code"] == code.digest and is_secret_key(document["secret_access_key"]):
            return Secret(document["secret_access_key"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none, or none of use
    made = new_secret_key()
    pending = {"code": code.digest, "secret_access_key": made.reveal()}
    write_file(path, json.dumps(pending).encode())
    return made


def forget_pending(directory: Path) -> None:
    """Remove what :func:`pending_secret_key` has kept."""
    (directory / _PENDING).unlink(missing_ok=True)


def _from_document(document: dict[str, Any], directory: Path) -> JoinedService:
    key_id, secret = document["access_key_id"], document["secret_access_key"]
    return JoinedService(
        Role(document["role"]),
        document["name"],
        document["api_endpoint"],
        document["data_endpoint"],
        document["region"],
        directory / document["ca_file"],
        Credentials(key_id + "", Secret(secret + "")),
    )


def _user_directory(environment: Mapping[str, str]) -> Path | None:
    base = environment.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "tailrace"
    try:
        return Path.home() / ".config" / "tailrace"
    except RuntimeError:
        return None
