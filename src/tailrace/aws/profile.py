"""What the environment and the AWS configuration files say about a call, by botocore's rules.

Source: AWS SDKs and Tools reference guide, "Service-specific endpoints" and "Shared config and
credentials files". Where botocore goes on without a file or a section that it cannot make sense
of, this stops: a call meant for a service of one's own would go to AWS instead.
"""

from __future__ import annotations

import configparser
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from ..errors import ConfigurationError

__all__ = ["Profile", "aws_endpoint", "read_profile"]

_SERVICE: Final = "iotsecuretunneling"

_Section: TypeAlias = Mapping[str, "str | Mapping[str, str]"]


@dataclass(frozen=True, slots=True)
class Profile:
    """The environment, and behind it one profile of the configuration files."""

    environment: Mapping[str, str]
    values: _Section = field(default_factory=dict, repr=False)
    """The profile: what the configuration file says, then what the credentials file does."""
    services: Mapping[str, _Section] = field(default_factory=dict)
    """The ``services`` sections of the configuration file, by name."""
    credentials: _Section = field(default_factory=dict, repr=False)
    """What the credentials file alone says of the profile."""
    config: _Section = field(default_factory=dict, repr=False)
    """What the configuration file alone says of it."""

    @property
    def region(self) -> str | None:
        """The region, if one is configured; ``AWS_REGION`` is that of the other SDKs."""
        variables = ("AWS_REGION", "AWS_DEFAULT_REGION")
        return self._variable(*variables) or self._text("region")

    @property
    def ca_bundle(self) -> Path | None:
        """The file of CA certificates, if one is configured."""
        text = self._variable("AWS_CA_BUNDLE") or self._text("ca_bundle")
        return _path(text) if text else None

    @property
    def endpoint(self) -> str | None:
        """The control API, if one is configured and not to be ignored.

        Raises:
            ConfigurationError: the profile names a ``services`` section that is missing or not
                valid.
        """
        ignored = self.environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
        if ignored is None:
            ignored = self._text("ignore_configured_endpoint_urls") or ""
        if ignored.lower() == "true":
            return None
        return (
            self._variable(f"AWS_ENDPOINT_URL_{_SERVICE.upper()}", "AWS_ENDPOINT_URL")
            or self._endpoint_of_service()
            or self._text("endpoint_url")
        )

    def _endpoint_of_service(self) -> str | None:
        name = self._text("services")
        if name is None:
            return None
        if not self.services.get(name):
            raise ConfigurationError(
                f"the profile's services section {name!r} is not in the AWS configuration file"
            )
        section = self.services[name].get(_SERVICE, {})
        if isinstance(section, str):
            raise ConfigurationError(
                f"{_SERVICE} in the services section {name!r} of the AWS configuration file has "
                "no indented lines below it, such as: endpoint_url = https://HOST:PORT"
            )
        return section.get("endpoint_url")

    def _variable(self, *names: str) -> str | None:
        return next((self.environment[name] for name in names if self.environment.get(name)), None)

    def _text(self, name: str) -> str | None:
        value = self.values.get(name)
        if isinstance(value, Mapping):
            raise ConfigurationError(f"{name} in the AWS configuration files is not one value")
        return value


def aws_endpoint(region: str) -> str:
    """Return the control API of AWS in a region."""
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://api.tunneling.iot.{region}.{domain}"


def read_profile(environment: Mapping[str, str], name: str | None = None) -> Profile:
    """Return the profile ``name``, or that of the environment, or ``default`` where there is one.

    Raises:
        ConfigurationError: there is no such profile, or a file cannot be read or is not valid.
    """
    for variable in ("AWS_DEFAULT_PROFILE", "AWS_PROFILE"):
        name = name or environment.get(variable)
    config = _read(environment.get("AWS_CONFIG_FILE") or "~/.aws/config")
    credentials = _read(environment.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
    profiles = _named(config, "profile")
    if "default" in config:
        profiles.setdefault("default", config["default"])
    chosen = name or "default"
    if name and name not in profiles and name not in credentials:
        raise ConfigurationError(f"profile {name!r} is not in the AWS configuration files")
    ours, theirs = profiles.get(chosen, {}), credentials.get(chosen, {})
    return Profile(environment, {**ours, **theirs}, _named(config, "services"), theirs, ours)


def _named(config: Mapping[str, _Section], kind: str) -> dict[str, _Section]:
    """Return the sections ``[kind name]`` by name; quotes may stand around it."""
    found = {}
    for heading, section in config.items():
        if heading.startswith(kind):
            try:
                _, name = shlex.split(heading)
            except ValueError:
                continue
            found[name] = section
    return found


def _path(text: str) -> Path:
    # That of Path raises an error for a user without a home directory.
    return Path(os.path.expanduser(text))


def _read(name: str) -> dict[str, _Section]:
    path = _path(os.path.expandvars(name))
    parser = configparser.RawConfigParser()
    try:
        if not path.is_file():
            return {}
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
        return {
            heading: {option: _value(text) for option, text in parser.items(heading)}
            for heading in parser.sections()
        }
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeError:
        raise ConfigurationError(f"{path} is not UTF-8") from None
    except (configparser.Error, ValueError) as error:
        raise ConfigurationError(f"{path} is not valid: {_fault(error)}") from None


def _fault(error: configparser.Error | ValueError) -> str:
    """Return what is wrong with a file, without any line of it, which may be a secret key."""
    match error:
        case configparser.MissingSectionHeaderError():
            return f"line {error.lineno} stands before the first [section]"
        case configparser.ParsingError():
            number, _ = error.errors[0]
            return f"line {number} is neither a [section] nor NAME = VALUE"
    return " ".join(str(error).split())


def _value(text: str) -> str | dict[str, str]:
    """Return a value, or the indented lines in its place by their names."""
    if not text.startswith("\n"):
        return text
    nested = {}
    for line in text.splitlines():
        if line.strip():
            name, equals, value = line.partition("=")
            if not equals:
                raise ValueError("an indented line has no '='")
            nested[name.strip()] = value.strip()
    return nested
