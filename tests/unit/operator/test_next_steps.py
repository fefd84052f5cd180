"""Commands to paste are what a shell and the local proxy understand."""

import shlex
from pathlib import Path

import pytest

from tailrace.cli.localproxy.resolve import build_settings
from tailrace.common.addresses import TCPAddress
from tailrace.localproxy.settings import ProxySettings
from tailrace.operator.next_steps import NewTunnel, next_steps, place_words
from tailrace.wire import Side

ODD = 'it\'s $HOME; `ls` "x"'


def run(line: str, environment: dict[str, str]) -> ProxySettings:
    """Return the settings of a command as a shell would run it."""
    words = shlex.split(line)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment = {**environment, name: value}
    assert words[0] == "localproxy"
    return build_settings(words[1:], environment).settings.proxy


def commands(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("  ")]


@pytest.mark.parametrize(
    ("environment", "place", "host"),
    [
        ({}, ("eu-west-1", None), "data.tunneling.iot.eu-west-1.amazonaws.com"),
        ({}, (None, "tunnel.example:7444"), "tunnel.example"),
        ({"AWSIOT_TUNNEL_ENDPOINT": "other.example:1"}, ("eu-west-1", None), "other.example"),
        (
            {"AWSIOT_TUNNEL_REGION": "us-east-1"},
            (None, "tunnel.example:7444"),
            "data.tunneling.iot.us-east-1.amazonaws.com",
        ),
    ],
)
def test_the_service_is_the_one_of_the_tunnel(
    environment: dict[str, str], place: tuple[str | None, str | None], host: str
) -> None:
    tunnel = NewTunnel("s-token", "d-token", in_files=False, services=["SSH", "HTTP"])
    lines = next_steps(tunnel, place_words(environment, *place))
    source, destination = (run(line, {}) for line in commands(lines))
    # In the shell where the tunnel was opened, too.
    assert run(commands(lines)[0], environment).host == host
    assert source.host == destination.host == host
    assert (source.side, destination.side) == (Side.SOURCE, Side.DESTINATION)
    assert source.access_token.reveal() == "s-token"
    assert destination.access_token.reveal() == "d-token"
    assert source.services == {"SSH": TCPAddress("", 5555), "HTTP": TCPAddress("", 5556)}
    assert destination.services == {
        "SSH": TCPAddress("localhost", 22),
        "HTTP": TCPAddress("localhost", 80),
    }


@pytest.mark.parametrize("name", ["tokens", ODD, "-x"])
def test_files_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    directory = Path(name)
    directory.mkdir()
    for side in ("source", "destination"):
        path = directory / f"{side}.token"
        path.write_text(f"{side}-token\n")
        path.chmod(0o600)
    ca = tmp_path / "ca $1.pem"
    ca.write_text("")
    tunnel = NewTunnel(
        f"{name}/source.token", f"{name}/destination.token", in_files=True, ca=str(ca)
    )
    lines = next_steps(tunnel, ["-e", "tunnel.example"])
    for side, line in zip(("source", "destination"), commands(lines), strict=True):
        settings = run(line, {})
        assert settings.access_token.reveal() == f"{side}-token"
        assert settings.capath == ca
    assert lines[-1] == f"The device needs a copy of {ca}; -c names it there."


def test_what_nobody_knows() -> None:
    tunnel = NewTunnel("s", "d", in_files=False, services=["ssh2", "CAMERA"], thing="pump-7")
    lines = next_steps(tunnel, place_words({}, None, None))
    assert lines[2] == "and on pump-7, unless its agent has taken the token that was sent to it:"
    assert "-e HOST:PORT -d ssh2=localhost:22,CAMERA=localhost:PORT" in lines[3]
    assert lines[4:] == [
        "HOST:PORT is the data endpoint of the service.",
        "PORT is the port of the application.",
    ]


@pytest.mark.parametrize("token", ["trt_abc-_", ODD])
def test_tokens_are_one_word_and_no_argument(token: str) -> None:
    lines = next_steps(NewTunnel(token, token, in_files=False), ["-r", "eu-west-1"])
    for line in commands(lines):
        first, *others = shlex.split(line)
        assert first == f"AWSIOT_TUNNEL_ACCESS_TOKEN={token}"
        assert not any(token in other for other in others)
