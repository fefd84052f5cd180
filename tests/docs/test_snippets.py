"""Each block of code in the documents is looked at: no command or setting in it is made up.

What can run on one machine does: test_walkthroughs.py here, and the tests of what a page is about
(RUN). Everything else is given to whatever would read it: commands to the parser of the command,
shell to a shell, settings to their reader, Python to the compiler and the package.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

import tailrace
from support.documents import PAGES, Block, blocks, commands, inline_commands
from support.repository import ROOT
from tailrace.agent.map_file import parse_map
from tailrace.cli.localproxy.argv import parse_argv
from tailrace.cli.localproxy.ini import parse_config, parse_services
from tailrace.cli.localproxy.values import UsageError
from tailrace.cli.tailrace import whole_parser
from tailrace.common.secret import Secret
from tailrace.link.endpoint import ServiceEndpoint
from tailrace.link.http.upgrade import build_request
from tailrace.wire import Side

BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language == ""]

RUN = {
    "hex": "tests/meta/test_sessions_page.py",
    "squid": "tests/e2e/test_tls_inspection.py",
    "nginx": "tests/e2e/test_reverse_proxies.py",
    "haproxy": "tests/e2e/test_reverse_proxies.py",
    "caddy": "tests/e2e/test_reverse_proxies.py",
}
"""Languages whose blocks are run by the program that reads them -> by which test."""
SHOWN = {"text", "bitbake", "{toctree}", "{eval-rst}"}
"""Languages of what is shown only: output, drawings, a recipe; and what Sphinx itself reads."""
CHECKED = {"", "python", "json", "toml", "yaml", "ini", "http"}
"""Languages that are checked here."""

PROGRAMS = {
    *("apt", "aws", "cat", "cd", "certbot", "cp", "docker", "echo", "eval", "export", "git"),
    *("install", "kill", "localproxy", "make", "nc", "pip", "rsync", "ruff", "scp", "ssh", "sudo"),
    *("systemctl", "tailrace", "tar", "do", "done", "for"),
    *("man", "pipx", "source", "uv"),
}
"""Programs that the documents may name; a new one is added when a page needs it."""

_PYTHON = re.compile(r"(?:\S*/)?python3?$")


def everyone(found: Block) -> str:
    return found.name


def test_every_language_is_known() -> None:
    unknown = [block.name for block in BLOCKS if block.language not in {*RUN, *SHOWN, *CHECKED}]
    assert unknown == []
    assert {block.language for block in BLOCKS} == {*RUN, *SHOWN, *CHECKED}
    for test in RUN.values():
        assert (ROOT / test).is_file()


# -- shell ----------------------------------------------------------------------------------------


def shell_faults(scripts: list[str]) -> list[str]:
    """Return what a shell finds wrong with the syntax of scripts."""
    # One shell for all of them: each is the body of a function that nobody calls.
    tries = "".join(f"sh -n <<'SNIPPET' || echo {n}\n{s}\nSNIPPET\n" for n, s in enumerate(scripts))
    done = subprocess.run(
        ["bash"], input=tries, capture_output=True, text=True, timeout=60, check=True
    )
    return [scripts[int(number)] for number in done.stdout.split()]


def test_a_shell_reads_all_commands() -> None:
    assert shell_faults([commands(block.text) for block in SHELL]) == []
    assert shell_faults(["true", "if true"]) == ["if true"]


READERS = ("README.md", "docs/tutorials", "docs/guides", "docs/reference", "docs/about/security")
"""Beginnings of the pages whose commands are pasted into shells of all kinds."""


def comments(script: str) -> list[str]:
    """Return the lines of a script with comments."""
    return [line for line in script.splitlines() if re.search(r"(?:^|\s)#", line)]


@pytest.mark.parametrize("block", SHELL, ids=everyone)
def test_commands_have_no_comments(block: Block) -> None:
    """At the prompt of zsh, the shell of macOS, they are arguments."""
    if str(block.page.relative_to(ROOT)).startswith(READERS):
        assert comments(commands(block.text)) == []
    assert comments("a # b\n# c\na#b\n") == ["a # b", "# c"]


def simple_commands(script: str) -> Iterator[list[str]]:
    """Yield the simple commands of a script, without assignments and redirections."""
    script = re.sub(r"<<'(\w+)'\n.*?^\1$", "", script, flags=re.DOTALL | re.MULTILINE)
    for line in script.replace("\\\n", " ").splitlines():
        for substituted in re.findall(r"\$\(([^()]*)\)", line):
            yield from simple_commands(substituted)
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        passed_over = False
        for word in [*lexer, ";"]:
            if passed_over:
                passed_over = False
            elif set(word) <= set("|&;"):
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []
            elif set(word) <= set("<>"):
                passed_over = True
                if words and words[-1].isdigit():
                    words.pop()
            else:
                words.append(word)


@cache
def _parser():
    return whole_parser()


def refusal(words: list[str]) -> str:
    """Return why the parser of one of our commands refuses words, "" if it takes them."""
    name = words[0].rpartition("/")[2]
    given = [word for word in words[1:] if word not in ("…", "...")]
    try:
        if name == "localproxy":
            parse_argv(given)
        else:
            _parser().parse(given)
    except UsageError as error:
        return str(error)
    except SystemExit as error:
        return "" if error.code == 0 else f"status {error.code}"
    return ""


def ours(words: list[str]) -> Iterator[list[str]]:
    """Yield the command of this package that words run, also behind sudo or in a container."""
    for at, word in enumerate(words):
        if word.rpartition("/")[2] in ("tailrace", "localproxy") and _stands_alone(words[:at]):
            yield words[at:]
            return


def _stands_alone(before: list[str]) -> bool:
    return before in ([], ["sudo"]) or before[:2] == ["docker", "exec"]


@pytest.mark.parametrize("block", SHELL, ids=everyone)
def test_commands_are_those_of_the_parsers(
    block: Block, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in simple_commands(commands(block.text)):
        program = words[0].rpartition("/")[2]
        assert program in PROGRAMS or _PYTHON.match(program), words
        for command in ours(words):
            refused = refusal(command)
            assert not refused, f"{shlex.join(command)}: {refused} {capsys.readouterr().err}"
        assert missing_of_the_repository(words) == []


_INCOMPLETE = re.compile(
    "are required|is required|expected|Must specify|is missing|choice: '[A-Z]+'"
)
"""What the parsers say of a command that lacks something, or has a placeholder."""


def missing_of_the_repository(words: list[str]) -> list[str]:
    """Return targets of the Makefile, files and modules that a command names and nobody has."""
    program, *rest = words
    missing = []
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        named = [word for word in rest if "=" not in word]
        missing += [each for each in named if not re.search(rf"^{each}:", makefile, re.MULTILINE)]
    if _PYTHON.match(program):
        if rest[:1] == ["-m"] and rest[1].split(".")[0] in ("bench", "docs", "fuzz", "soak"):
            module = ROOT.joinpath(*rest[1].split("."))
            if not (module.with_suffix(".py").is_file() or module.is_dir()):
                missing.append(rest[1])
        inside = ("tests", "examples", "bench", "docs")
        paths = [word for word in rest if word.split("/")[0] in inside and "/" in word]
        missing += [each for each in paths if not (ROOT / each).exists()]
    return missing


INLINE = sorted(
    {
        (page, command)
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for command in inline_commands(page)
    }
)


@pytest.mark.parametrize(
    ("page", "command"), INLINE, ids=[f"{page.name}: {text}" for page, text in INLINE]
)
def test_commands_in_sentences_exist(
    page: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may lack arguments, but have no option or command that does not exist."""
    for words in simple_commands(command):
        for each in ours(words):
            refused = refusal(each)
            if refused:
                text = f"{refused} {capsys.readouterr().err}"
                assert _INCOMPLETE.search(text), text


RUN_PAGES = {
    "README.md": "tests/docs/test_walkthroughs.py",
    "docs/guides/connect.md": "tests/docs/test_walkthroughs.py",
    "docs/guides/cut-links.md": "tests/docs/test_walkthroughs.py",
    "docs/guides/enrolment.md": "tests/docs/test_walkthroughs.py",
    "docs/guides/fleet.md": "tests/docs/test_walkthroughs.py",
    "docs/guides/from-device-client.md": "tests/docs/test_walkthroughs.py",
    "docs/guides/from-localproxy.md": "tests/docs/test_walkthroughs.py",
    "docs/guides/load-balancer.md": "tests/e2e/test_load_balancers.py",
    "docs/guides/second-machine.md": "tests/docs/test_walkthroughs.py",
    "docs/guides/ssh.md": "tests/docs/test_walkthroughs.py",
    "docs/reference/service.md": "tests/docs/test_walkthroughs.py",
    "docs/reference/status.md": "tests/e2e/test_status.py",
    "docs/reference/tunnel.md": "tests/docs/test_walkthroughs.py",
    "docs/tutorials/with-aws.md": "tests/docs/test_walkthroughs.py",
    "docs/tutorials/without-aws.md": "tests/docs/test_walkthroughs.py",
    "examples/README.md": "tests/e2e/test_examples.py",
}
"""Page -> the test that runs its commands."""
PARSED_PAGES = {
    "CONTRIBUTING.md": "the tools of development, which run the tests",
    "bench/README.md": "measures for minutes",
    "docs/about/conformance.md": "runs the tests, for minutes",
    "docs/about/faults.md": "runs the tests, for minutes",
    "docs/about/security.md": "needs AWS",
    "docs/guides/agent-install.md": "needs AWS, systemd or a Raspberry Pi",
    "docs/guides/containers.md": "needs a registry of images",
    "docs/guides/corporate-proxy.md": "needs AWS",
    "docs/guides/deployment.md": "needs /var/lib, certbot and systemd",
    "docs/guides/doctor.md": "needs AWS",
    "docs/guides/packages.md": "needs an index of packages; tests/releasing builds and installs",
    "docs/guides/systemd.md": "needs systemd",
    "docs/reference/agent-mqtt.md": "needs AWS IoT Core",
    "docs/reference/agent.md": "needs AWS IoT Core",
    "docs/reference/localproxy.md": "needs AWS",
}
"""Page whose commands are only read by their parsers -> why; what they do is tested elsewhere."""


def test_every_page_with_commands_is_run_or_says_why_not() -> None:
    pages = {str(block.page.relative_to(ROOT)) for block in SHELL}
    assert RUN_PAGES.keys() & PARSED_PAGES.keys() == set()
    assert pages == {*RUN_PAGES, *PARSED_PAGES}
    for page, test in RUN_PAGES.items():
        assert (ROOT / test).is_file()
        if test.startswith("tests/docs"):
            assert page in (ROOT / test).read_text()


def test_the_rules_of_commands_can_fail(capsys: pytest.CaptureFixture[str]) -> None:
    (echo, tunnel), (exported,) = (
        list(simple_commands(text)) for text in ("echo a; A=1 tailrace tunnel lst 2> x", "X=1 b")
    )
    assert (echo, exported) == (["echo", "a"], ["b"])
    assert refusal(tunnel)
    assert refusal(["localproxy", "--regoin", "x"])
    assert not refusal(["localproxy", "-r", "us-east-1", "-s", "5555"])
    assert not refusal(["tailrace", "agent", "run", "…", "--service", "SSH=22"])
    assert list(ours(["sudo", "/opt/tailrace/bin/tailrace", "status"])) == [
        ["/opt/tailrace/bin/tailrace", "status"]
    ]
    assert list(ours(["pip", "install", "tailrace"])) == []
    assert missing_of_the_repository(["make", "nothing", "X=1"]) == ["nothing"]
    assert missing_of_the_repository(["python", "-m", "bench.none", "tests/no.py"]) == [
        "bench.none",
        "tests/no.py",
    ]


# -- files ----------------------------------------------------------------------------------------


def without_gaps(text: str) -> str:
    """Return JSON with something in the place of each ``…`` and ``...``."""
    return re.sub(r",?\s*(?:\.\.\.|…)(?=\s*[}\]])", "", text)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=everyone)
def test_json(block: Block) -> None:
    decoder, text = json.JSONDecoder(), without_gaps(block.text).strip()
    while text:
        _, end = decoder.raw_decode(text)
        text = text[end:].strip()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=everyone)
def test_maps_of_services(block: Block) -> None:
    rules = parse_map(block.text.encode(), block.name)
    assert set(rules) == set(tomllib.loads(block.text)["services"]) != set()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=everyone)
def test_yaml(block: Block) -> None:
    document = yaml.safe_load(block.text)
    lines = [
        *(manifest["Lifecycle"]["run"] for manifest in document.get("Manifests", [])),
        *(step["run"] for job in document.get("jobs", {}).values() for step in job["steps"][2:]),
    ]
    assert lines
    for line in lines:
        for words in simple_commands(line):
            for command in ours(words):
                # What Greengrass puts in their place: a name, or a number.
                filled = [re.sub(r"\{.*?[Mm]ax.*?\}", "20", word) for word in command]
                assert not refusal(filled), line


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "ini"], ids=everyone)
def test_settings(block: Block) -> None:
    if block.text.startswith("["):
        parser = configparser.ConfigParser()
        parser.read_string(block.text)
        assert parser["profile lab"]["services"] == "lab"
    elif block.text.startswith("#"):
        assert parse_config(block.text)
    else:
        assert parse_services(block.text, Side.DESTINATION)


def test_the_upgrade_request_is_ours() -> None:
    """The one on the page of the protocol has the fields that a proxy sends, in their order."""
    (block,) = (each for each in BLOCKS if each.language == "http")
    endpoint = ServiceEndpoint(
        host="data.tunneling.iot.us-east-1.amazonaws.com",
        port=443,
        side=Side.SOURCE,
        access_token=Secret("a"),
        client_token=Secret("b" * 32),
    )
    sent = build_request(endpoint, "dGhlIHNhbXBsZSBub25jZQ==", "tailrace-VERSION").decode()

    def shape(text: str) -> list[str]:
        hidden = re.sub(r"(-token): .*", r"\1:", text.replace("\r", ""))
        return sorted(hidden.strip().splitlines())

    assert shape(block.text) == shape(sent)


# -- Python ---------------------------------------------------------------------------------------

PYTHON = [block for block in BLOCKS if block.language == "python"]


def unknown_names(source: str) -> list[str]:
    """Return what a program takes from this package that the package does not have."""
    tree = compile(source, "<block>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts = ast.unparse(node).split(".")
            if parts[0] == "tailrace" and all(part.isidentifier() for part in parts):
                value: object = tailrace
                for part in parts[1:]:
                    if not hasattr(value, part):
                        found.append(".".join(parts))
                        break
                    value = getattr(value, part)
    return found


@pytest.mark.parametrize("block", PYTHON, ids=everyone)
def test_python(block: Block) -> None:
    compile(block.text, block.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert unknown_names(block.text) == []


def test_the_rules_of_files_and_programs_can_fail() -> None:
    assert unknown_names("tailrace.Tunel.source(x); tailrace.sync.Client()") == [
        "tailrace.Tunel.source",
        "tailrace.Tunel",
    ]
    assert json.loads(without_gaps('{"a": [1, …], ...}')) == {"a": [1]}
