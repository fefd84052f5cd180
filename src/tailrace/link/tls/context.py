"""What the service's certificate is checked against: the context of a TLS handshake."""

from __future__ import annotations

import errno
import logging
import os
import re
import ssl
import threading
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

from ...common.certificate_files import certificate_error_text, refuse_passphrase
from ...common.special_files import is_special
from ...errors import ConfigurationError
from ..endpoint import TLSOptions
from .aiofastnet_compat import FilelessContext
from .x509_names import presented_certificates

__all__ = ["Trust", "build_trust"]

logger = logging.getLogger(__name__)

_HASHED_NAME: Final = re.compile(r"[0-9a-f]{8}\.\d+")
_MAX_BUNDLE: Final = 1_048_576
_SHORT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_PEM_SUFFIXES: Final = {".pem", ".crt", ".cer"}

_State: TypeAlias = tuple[str, tuple[int, ...] | None]
"""A path, and what ``stat`` reports of it, ``None`` if there is nothing."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a TLS handshake is checked against."""

    context: ssl.SSLContext
    description: str
    """The trusted certificates, in words for an error text."""


class _WitnessedObject(ssl.SSLObject):
    """Adds the service's certificates to the error of a failed verification as notes.

    After the handshake they cannot be found out any more.
    """

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            for certificate in presented_certificates(self):
                error.add_note(certificate)
            raise


def build_trust(options: TLSOptions) -> Trust:
    """Return the context of a handshake: TLS 1.2 or later, host name checked (RFC 6125).

    Certificates are read again only when they have changed. A ``capath`` that does not exist
    only causes a warning, as in the reference.

    Raises:
        ConfigurationError: ``capath`` exists but holds no readable certificate file, or the
            system's certificates, ``authorities``, ``certificate`` or ``key`` cannot be read; or
            what should be a file is a pipe or a device.
    """
    for name, path in _named_places(options):
        if is_special(path):
            raise ConfigurationError(f"{name} {path} is a pipe or a device, and no file")
    if options.authorities is not None or options.certificate is not None or options.alpn:
        return _build(options)  # for a connection that is rarely made, and not to be kept
    states = _states(options)
    if states is None:
        return _build(options)
    with _building:  # twenty links at once build it once
        return _build_once(options, states)


def _named_places(options: TLSOptions) -> Iterator[tuple[str, Path]]:
    """Yield what options and variables say where certificates are."""
    if options.certificate is not None:
        yield "certificate", options.certificate
    if options.key is not None:
        yield "key", options.key
    if not options.verify:
        return
    if options.authorities is not None:
        yield "certificate path", options.authorities
        return
    if options.capath is not None:
        yield "certificate path", options.capath
    for name, path in (*_files_of_variables(), *_directories_of_variables()):
        yield name, Path(path)


def _files_of_variables() -> list[tuple[str, str]]:
    name = ssl.get_default_verify_paths().openssl_cafile_env
    path = os.environ.get(name)
    return [(name, path)] if path else []


def _directories_of_variables() -> list[tuple[str, str]]:
    """Return the variable and each directory in it: there may be several, as in PATH."""
    name = ssl.get_default_verify_paths().openssl_capath_env
    return [(name, path) for path in os.environ.get(name, "").split(os.pathsep) if path]


_building: Final = threading.Lock()


# Only the latest is kept: it takes two megabytes, and a reconnecting proxy needs no other.
@lru_cache(maxsize=1)
def _build_once(options: TLSOptions, _: tuple[_State, ...]) -> Trust:
    return _build(options)


def _states(options: TLSOptions) -> tuple[_State, ...] | None:
    """Return a value that changes when a certificate does; ``None`` if there is none."""
    try:
        places = _system_places() if options.verify and os.name == "posix" else []
        if not places:
            return None  # certificates that are not in files, or certifi's
        if options.capath is not None:
            places.append(options.capath)
        entries = (sorted(place.iterdir()) if place.is_dir() else [] for place in places)
        return tuple(
            _state(path)
            for place, inside in zip(places, entries, strict=True)
            for path in (place, *inside)
        )
    except OSError:
        return None  # reading them will raise the same error


def _state(path: Path) -> _State:
    try:
        found = path.stat()
    except OSError:
        return str(path), None
    return str(path), (
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def _build(options: TLSOptions) -> Trust:
    context = FilelessContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslobject_class = _WitnessedObject
    if options.alpn:
        context.set_alpn_protocols(list(options.alpn))
    if options.certificate is not None:
        _load_own_certificate(context, options.certificate, options.key)
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return Trust(context, "nothing is verified")
    if options.authorities is not None:
        return Trust(context, _load_authorities(context, options.authorities))
    try:
        trusted = [_load_system_certificates(context)]
    except OSError as error:
        raise ConfigurationError(
            f"the system's certificates cannot be read: {error.filename}: {error.strerror}"
        ) from None
    if options.capath is not None:
        trusted.append(_load_capath(context, options.capath))
    return Trust(context, " and ".join(trusted))


def _load_own_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        context.load_cert_chain(certificate, key, password=refuse_passphrase)
    except OSError as error:
        reason = certificate_error_text(error, missing="no certificate or no key in PEM")
        of_key = "" if key is None else f", key {key}"
        raise ConfigurationError(f"certificate {certificate}{of_key}: {reason}") from None


def _load_authorities(context: ssl.SSLContext, path: Path) -> str:
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:
        reason = certificate_error_text(error)
        raise ConfigurationError(f"certificate file {path}: {reason}") from None
    return str(path)


def _load_system_certificates(context: ssl.SSLContext) -> str:
    unusable = _unusable_variables()
    for text in unusable.values():
        logger.warning("%s; going on without it", text)
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return "; ".join([_describe_system(context, _system_places(unusable)), *unusable.values()])


def _describe_system(context: ssl.SSLContext, places: list[Path]) -> str:
    """Return the system's certificates in words; where it has none, add certifi's."""
    if places:
        return f"the system's certificates ({', '.join(map(str, places))})"
    if context.cert_store_stats()["x509_ca"]:
        return "the system's certificates"
    try:
        import certifi
    except ImportError:
        logger.warning(
            "this system has no CA certificates: only those of a certificate path are trusted"
        )
        return "no system certificates"
    context.load_verify_locations(cafile=certifi.where())
    return f"certifi's certificates ({certifi.where()}), as the system has none"


def _system_places(unusable: Container[str] = ()) -> list[Path]:
    paths = ssl.get_default_verify_paths()
    several = [path for _, path in _directories_of_variables() if os.path.isdir(path)]
    places = (paths.cafile, *(several or [paths.capath]))
    used = [Path(path) for path in places if path and path not in unusable]
    return [place for place in used if not _is_empty(place)]


def _unusable_variables() -> dict[str, str]:
    """Return path -> what is wrong with it, for variables that name the system's certificates.

    OpenSSL passes over what it cannot use without a word.
    """
    unusable = {}
    for look, variables in (
        (_look_at_file, _files_of_variables()),
        (_look_at_directory, _directories_of_variables()),
    ):
        for name, path in variables:
            try:
                fault = look(path)
            except OSError as error:
                if error.errno in _SHORT_OF_RESOURCES:
                    raise
                fault = f"cannot be read: {error.strerror}"
            if fault:
                unusable[path] = f"{name} {path} {fault}"
    return unusable


def _look_at_file(path: str) -> str:
    """Return what is wrong with a file of certificates, "" if nothing is."""
    with open(path, "rb") as file:
        return "" if b"CERTIFICATE-----" in file.read(_MAX_BUNDLE) else "holds no PEM certificate"


def _look_at_directory(path: str) -> str:
    """Return "" if a directory can be read."""
    os.listdir(path)
    return ""


def _is_empty(place: Path) -> bool:
    """Return whether a certificate directory is empty, as on slim images."""
    return place.is_dir() and not any(place.iterdir())


def _load_capath(context: ssl.SSLContext, path: Path) -> str:
    try:
        if not path.exists():
            logger.warning("certificate path %s does not exist; going on without it", path)
            return f"certificate path {path} (does not exist)"
        if path.is_dir():
            return _load_directory(context, path)
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise ConfigurationError(f"certificate file {path} holds no PEM certificate") from None
    except OSError as error:
        raise ConfigurationError(
            f"certificate path {path} cannot be read: {error.strerror}"
        ) from None
    return f"certificate path {path}"


def _load_directory(context: ssl.SSLContext, path: Path) -> str:
    names = sorted(each for each in path.iterdir() if each.is_file())
    if any(_HASHED_NAME.fullmatch(each.name) for each in names):
        # OpenSSL reads the one it needs when it needs it.
        context.load_verify_locations(capath=path)
        return f"certificate path {path}"
    loaded = 0
    for each in names:
        if each.suffix.lower() in _PEM_SUFFIXES:
            try:
                context.load_verify_locations(cafile=each)
                loaded += 1
            except ssl.SSLError:
                logger.warning("certificate file %s holds no PEM certificate; skipped", each)
    if not loaded:
        logger.warning("certificate directory %s holds no certificates", path)
    return f"certificate path {path} ({loaded} files)"
