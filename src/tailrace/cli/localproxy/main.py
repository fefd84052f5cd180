"""The command ``localproxy``: argv, files and environment -> one running proxy.

What a call does not need is not imported: ``--version``, ``--help`` and mistakes in the
command line answer without an event loop, TLS or a WebSocket library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TextIO

from ... import __version__
from ...common.standard_streams import discard, open_standard_streams
from ...errors import TailraceError
from ..exit_codes import BROKEN_PIPE, INTERRUPTED, ExitCode, exit_code_of
from .argv import CommandKind, CommandLine, parse_argv
from .values import UsageError

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable

    from ...common.secret import Secret
    from .layers import Inputs

__all__ = ["BANNER", "main"]

BANNER: Final = f"Running AWS IoT Secure Tunneling Local Proxy version: v{__version__}+tailrace"
"""First line of standard output of every call (``--json``: of standard error)."""

_HELP_HINT: Final = "Try 'localproxy --help' for a list of options."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (the process' own arguments) and return its exit code."""
    open_standard_streams()
    words = sys.argv[1:] if argv is None else argv
    try:
        try:
            command = parse_argv(words)
        except UsageError as error:
            _write(sys.stdout, BANNER)
            return _usage(error)
        if command.kind is CommandKind.RUN:
            return _run(command, own_arguments=argv is None)
        if command.kind is CommandKind.EXPORT:
            _write(sys.stdout, BANNER)
            return _export(command)
        return _inform(command.kind)
    except KeyboardInterrupt:
        return INTERRUPTED


def _inform(kind: CommandKind) -> int:
    """Answer ``--version`` or ``--help``."""
    text = BANNER
    if kind is CommandKind.HELP:
        from .help import help_text

        text += f"\n{help_text()}".rstrip("\n")
    return ExitCode.OK if _write(sys.stdout, text) else BROKEN_PIPE


def _run(command: CommandLine, *, own_arguments: bool) -> int:
    from ...common.queued_output import write_briefly
    from ...common.redaction import register_secrets
    from .layers import DEFAULT_VERBOSITY, gather
    from .log_format import set_up_logging, set_verbosity

    verbose = command["verbose"]
    log = set_up_logging(int(verbose.value) if verbose is not None else DEFAULT_VERBOSITY)
    banner = f"{BANNER}\n"
    try:
        inputs = gather(command, os.environ)
    except TailraceError as error:
        write_briefly(sys.stdout, banner)
        return _report(error)
    json_events = inputs.get("json", bool)
    wants_json = json_events is not None and json_events.value
    if wants_json:
        log.write(banner)
    else:
        write_briefly(sys.stdout, banner)
    set_verbosity(inputs.verbosity)
    register_secrets(*inputs.secrets())
    if own_arguments:
        _hide_tokens(inputs)
    try:
        return _serve(inputs)
    except TailraceError as error:
        if wants_json:
            _tell(error, exit_code_of(error), str(error), inputs.secrets())
        return _report(error)
    except Exception as error:
        text = "Internal error; please report it"
        _logger().critical("%s", text, exc_info=True)
        if wants_json:
            _tell(error, ExitCode.USAGE, text, ())
        return ExitCode.USAGE


def _serve(inputs: Inputs) -> int:
    from ...common.redaction import register_secrets
    from .resolve import resolve, secrets_of

    settings = resolve(inputs).settings
    register_secrets(*secrets_of(settings.proxy))
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        _logger().warning("Running as root; this command needs no privileges")

    from .error_hints import explain
    from .run import run, tunnel_name

    try:
        run(settings)
    except TailraceError as error:
        text = explain(error, settings.proxy)
        _logger().critical("%s", text)
        code = exit_code_of(error)
        if settings.json_events:
            _tell(error, code, text, secrets_of(settings.proxy), tunnel_name(settings.proxy))
        return code
    return ExitCode.OK


def _tell(
    error: Exception, code: int, text: str, secrets: Iterable[Secret], tunnel: str = ""
) -> None:
    """Write the JSON event of a command that fails."""
    from ...common.queued_output import QueuedOutput
    from ...common.redaction import Redaction
    from .reporters import JSONReporter

    redaction = Redaction()
    redaction.add(*secrets)
    out = QueuedOutput(sys.stdout, str)
    JSONReporter(out, tunnel).failed(code, type(error).__name__, redaction.redact(text))
    out.close()


def _export(command: CommandLine) -> int:
    from .layers import DEFAULT_VERBOSITY
    from .log_format import set_up_logging
    from .resolve import export_default_settings

    set_up_logging(DEFAULT_VERBOSITY)
    argument = command[CommandKind.EXPORT.value]
    assert argument is not None
    try:
        export_default_settings(str(argument.value))
    except TailraceError as error:
        return _report(error)
    return ExitCode.OK


def _hide_tokens(inputs: Inputs) -> None:
    from .hide_argv import hide_argument

    for secret in inputs.secrets():
        hide_argument(secret)


def _report(error: TailraceError) -> int:
    """Say what is wrong with the call, in the form of its kind, and return the exit code."""
    from ...localproxy.validation import RejectedInput

    if isinstance(error, UsageError):
        return _usage(error)
    if isinstance(error, RejectedInput):
        _logger().warning("SECURITY: Rejected input for '%s': %s", error.input_name, error.reason)
    _logger().critical("%s", error)
    return exit_code_of(error)


def _usage(error: UsageError) -> int:
    lines = [str(error), *([error.hint] if error.hint else []), _HELP_HINT]
    _write(sys.stderr, "\n".join(lines))
    return ExitCode.USAGE


def _logger() -> logging.Logger:
    import logging

    return logging.getLogger(__name__)


def _write(stream: TextIO, text: str) -> bool:
    """Print a line; return whether there may be a reader: ``False`` for a broken pipe."""
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError) as error:
        discard(stream)
        return not isinstance(error, BrokenPipeError)
    return True


if __name__ == "__main__":
    sys.exit(main())
