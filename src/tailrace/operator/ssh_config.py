"""The block of ssh's configuration that makes things hosts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..errors import ConfigurationError
from .host_names import HOST_SUFFIX

__all__ = ["ssh_config_block"]

_PATTERN_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_-*?,")


def ssh_config_block(
    things: str, command: Sequence[str], options: Sequence[str], user: str | None
) -> str:
    """Return the block.

    Args:
        things: patterns of names of things, with ``*`` and ``?``, separated by commas.
        command: what runs tailrace, as absolute as it has to be for other programs.
        options: for ``tailrace proxy``.

    Raises:
        ConfigurationError: that is no such pattern, or a word that ssh cannot be given.
    """
    patterns = [each for each in things.split(",") if each]
    if not patterns or not set(things) <= _PATTERN_LETTERS:
        raise ConfigurationError(f"--things {things!r} is not a pattern of names, as pump-*")
    words = [*command, "proxy", *options]
    if not all(word.isprintable() for word in words):
        raise ConfigurationError("a path or an option has characters that ssh cannot be given")
    proxy = shlex.join(words).replace("%", "%%")
    hosts = " ".join(f"{each}{HOST_SUFFIX}" for each in patterns)
    example = patterns[0].replace("*", "pump-7" if patterns[0] == "*" else "7").replace("?", "7")
    lines = [
        f"# ssh, scp, sftp, rsync, git and all that use ssh: ssh {example}{HOST_SUFFIX}",
        f"Host {hosts}",
        # %n is the name as it was written; %h is in small letters.
        f"    ProxyCommand {proxy} -- '%n'",
        "    ProxyJump none",
        "    CheckHostIP no",
    ]
    if user:
        lines.append(f"    User {user}")
    return "\n".join(lines) + "\n"
