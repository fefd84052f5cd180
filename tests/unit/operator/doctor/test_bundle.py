"""A bundle for a bug report: all that helps, and nothing that is secret."""

from __future__ import annotations

import base64
import binascii
import json
import platform
import random
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tailrace import __version__
from tailrace.checks.findings import CheckResult, failed, ok
from tailrace.common.secret import Secret
from tailrace.errors import ConfigurationError, ConnectFailed
from tailrace.operator.doctor.bundle import read_log, write_bundle

TOKEN = "AQGAAXhnY2xpZW50LXRva2Vu0123456789abcdef"
RESULTS = [
    CheckResult("clock", ok("right")),
    CheckResult("TCP", failed("no way", "look", cause=ConnectFailed("no way"))),
]


@pytest.fixture
def bundled(tmp_path: Path) -> Any:
    """A function that writes a bundle; returns its document and its text."""

    def write(
        environment: Mapping[str, str], log: list[str] | None = None, *secrets: Secret
    ) -> tuple[Any, str]:
        path = tmp_path / "report.json"
        write_bundle(path, RESULTS, environment, log=log or [], secrets=secrets)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        return json.loads(path.read_text()), path.read_text()

    return write


def test_what_a_bundle_has(bundled: Any) -> None:
    document, _ = bundled({})
    assert document["tailrace"] == __version__
    assert document["platform"]["python"].endswith(platform.python_version())
    assert "websockets" in document["packages"]
    assert document["checks"] == [
        {"name": "clock", "verdict": "ok", "figure": "right", "fix": "", "error": ""},
        {
            "name": "TCP",
            "verdict": "failed",
            "figure": "no way",
            "fix": "look",
            "error": "ConnectFailed",
        },
    ]
    assert "log" not in document


def test_the_environment_is_redacted(bundled: Any) -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AWS_SESSION_TOKEN": "session" * 9,
        "AWSIOT_TUNNEL_ACCESS_TOKEN": TOKEN,
        "AWSIOT_TUNNEL_CLIENT_TOKEN": "c" * 36,
        "AWS_SHARED_CREDENTIALS_FILE": "/home/alice/credentials",
        "TAILRACE_ACCESS_TOKEN_FILE": "/home/alice/source.token",
        "AWS_REGION": "eu-west-1",
        "HTTPS_PROXY": "http://alice:p%40ss@proxy.example:3128",
        "https_proxy": "bob:p@ss@proxy.example",
        "no_proxy": "localhost,127.0.0.1",
        "GITHUB_TOKEN": "never to be seen",
        "HOME": "/home/alice",
        "USER": "alice",
    }
    document, text = bundled(environment)
    assert document["environment"] == {
        "AWSIOT_TUNNEL_ACCESS_TOKEN": "<redacted, 40 characters>",
        "AWSIOT_TUNNEL_CLIENT_TOKEN": "<redacted, 36 characters>",
        "AWS_ACCESS_KEY_ID": "<redacted, 20 characters>",
        "AWS_REGION": "eu-west-1",
        "AWS_SECRET_ACCESS_KEY": "<redacted, 40 characters>",
        "AWS_SESSION_TOKEN": "<redacted, 63 characters>",
        "AWS_SHARED_CREDENTIALS_FILE": "~/credentials",
        "HTTPS_PROXY": "http://<redacted>@proxy.example:3128",
        "TAILRACE_ACCESS_TOKEN_FILE": "~/source.token",
        "https_proxy": "<redacted>@proxy.example",
        "no_proxy": "localhost,127.0.0.1",
    }
    for each in ("alice", "bob", "p%40ss", "p@ss", "never", *filter(None, SECRETS(environment))):
        assert each not in text


def SECRETS(environment: Mapping[str, str]) -> list[str]:
    return [text for name, text in environment.items() if "KEY" in name or name.endswith("_TOKEN")]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (f"sent {TOKEN} to it", "sent <redacted> to it"),
        ("known-secret-0123456789 is known", "<redacted> is known"),
        ("access-token: short", "access-token: <redacted>"),
        ('{"clientAccessToken": "short", "a": 1}', '{"clientAccessToken": "<redacted>", "a": 1}'),
        ("client-token = 0f5e", "client-token = <redacted>"),
        ("Authorization: Basic YWxpY2U6cGFzcw==", "Authorization: <redacted>"),
        ("Proxy-Authorization: Bearer abc", "Proxy-Authorization: <redacted>"),
        ("with AKIAIOSFODNN7EXAMPLE", "with <redacted>"),
        ("arn:aws:iot:eu-west-1:123456789012:tunnel/x", "arn:aws:iot:eu-west-1:ACCOUNT:tunnel/x"),
        ("at http://me:pw@proxy:3128", "at http://<redacted>@proxy:3128"),
        ("tunnel 0233ab1c-da32-426c-8aea-2612f17bf4e1", None),
        ("verified by /usr/share/ca-certificates/of-the-whole-company-and-more/ca.crt", None),
        ("something-that-is-only-words-although-it-is-long", None),
        ("/home/alice/x of alice, not malice", "~/x of USER, not malice"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a" * 64, "<redacted>"),
        ("0123456789abcdef" * 4, "<redacted>"),
        ("xK9/abcDEF123/aaa/bbb/ccc/ddd/eee/fff/ggg/hhh/iii", "<redacted>"),
        ("wJalrXUtnFEMI/KMDENG/bPxRfiCYEXAMPLEKEYS+abc", "<redacted>"),
        ("x " * 1500, "x " * 998 + "x..."),
    ],
)
def test_a_log_is_redacted(bundled: Any, line: str, shown: str | None) -> None:
    environment = {"HOME": "/home/alice", "USER": "alice"}
    document, _ = bundled(environment, [line], Secret("known-secret-0123456789"))
    assert document["log"] == [line if shown is None else shown]


def test_names_that_are_words_stay(bundled: Any) -> None:
    document, _ = bundled({"HOME": "/", "USER": "root", "LOGNAME": "pi"}, ["root is pi, at /"])
    assert document["log"] == ["root is pi, at /"]


def test_the_name_of_the_machine(bundled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "vault-7.example.com")
    document, _ = bundled({}, ["vault-7.example.com, vault-7, vault-77"])
    assert document["log"] == ["HOST, HOST, vault-77"]


def test_the_end_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{number}\n" for number in range(1000)))
    assert read_log(path) == [str(number) for number in range(500, 1000)]
    path.write_text(f"{'y' * 400_000}\nlast\n")
    assert read_log(path) == ["last"]
    path.write_bytes(b"\xff\n")
    assert read_log(path) == ["\ufffd"]


def test_a_log_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*: No such file"):
        read_log(tmp_path / "nothing")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot write"):
        write_bundle(tmp_path / "no" / "report", [], {})


def test_a_system_without_a_name(bundled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> dict[str, str]:
        raise OSError

    monkeypatch.setattr(platform, "freedesktop_os_release", none)
    assert bundled({})[0]["platform"]["distribution"] == ""


def test_tokens_of_any_make_are_cut_out(bundled: Any) -> None:
    chance = random.Random(7)
    made = [chance.randbytes(size) for size in (30, 32, 45, 150) for _ in range(300)]
    forms = (base64.b64encode, base64.urlsafe_b64encode, binascii.hexlify)
    tokens = [form(each).decode() for each in made for form in forms]
    for start in range(0, len(tokens), 500):
        part = tokens[start : start + 500]
        document, _ = bundled({}, [f"sent {each}." for each in part])
        assert set(document["log"]) == {"sent <redacted>."}
