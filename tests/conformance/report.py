"""Merge recorded runs into one document.

    python tests/conformance/report.py RUN.json... > docs/about/conformance.md

A run is recorded with ``pytest tests/conformance --record RUN.json``. Columns come in the
order of the files; ours have to come first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from conformance.results import Results, Verdict, read
from conformance.titles import DECIDED, KINDS, TITLES

__all__ = ["document", "main"]

_OURS = "tailrace"

_HEAD = """\
# Conformance

<!-- Written by tests/conformance/report.py from recorded runs; do not edit. -->

What the local proxy and the service do is tested byte by byte, over real TLS WebSockets and
real processes. A scripted service sends the local proxy every frame, fragment, close code,
cut and silence there is; scripted clients do the same to `tailrace serve`. Each test carries
the number of the scenario it shows: `S` are the conformance scenarios of the protocol, `B`
the bugs found open in version 3.3.1 of the C++ local proxy, `R` bugs it once had, `L` what
[connections that outlive links](sessions.md) take, where the script is the peer as well, and
what everybody else must never see of it.

```
make conformance                                                  # ours, all of it
make conformance TARGET=PATH                                      # and another local proxy
.venv/bin/python -m pytest tests/conformance --link websockets    # ours, over that back end
.venv/bin/python -m pytest tests/conformance --target PATH        # another local proxy alone
.venv/bin/python -m pytest tests/conformance -k s18               # one scenario
```

`make test` runs every scenario too: those that the link back end decides over `picows` and
over `websockets`, the others, to save time, over `picows` alone; that takes about a minute on
two cores. `make conformance` runs all of them over both, and ends with a table of who passes
what. What another local proxy gets wrong is shown there and fails no test. The results are
kept in `build/conformance.json`, and

```
.venv/bin/python tests/conformance/report.py build/conformance.json > docs/about/conformance.md
```

writes this page. `--full` runs with sizes and counts that take minutes. With
`LOCALPROXY_UAT` naming the C++ project's `test_cli_usage.sh`, that script is run too,
unchanged.
"""

_LEGEND = """\
`-`: not run; `S57` to `S60`, `L13` and `L14` are about the service, and no local proxy takes part
in them; the other `L` are about what only proxies of this project do. `L15` plays
`tests/vectors/conversations.json`: what a proxy sent before it knew any of this.
A scenario with several tests passes when all of them do. The last column says what was seen
first: "waited in vain" after 15 seconds, for scenarios that need time more. Each run finds the
same, but of races it shows one outcome; assertions are part of the build of the C++ proxy that
was tried.
"""


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _section(kind: str, runs: Sequence[Results]) -> list[str]:
    others = [run for run in runs if not run.target.startswith(_OURS)]
    notes = [f"what {run.target} does" for run in others]
    header = ["", KINDS[kind], *(run.target for run in runs), *notes]
    lines = [f"## {KINDS[kind]}", "", _row(header), "|" + "---|" * len(header)]
    for number, title in TITLES.items():
        if number[0] != kind:
            continue
        verdicts = [str(run.verdicts.get(number, Verdict.NOT_RUN)) for run in runs]
        reasons = [_reasons(run, number) for run in others]
        lines.append(_row([number, title, *verdicts, *reasons]))
    passed = [run.passed(kind) for run in runs]
    lines.append(_row(["", "passed", *passed, *[""] * len(others)]))
    return [*lines, ""]


def _reasons(run: Results, number: str) -> str:
    if run.verdicts.get(number) is not Verdict.FAIL:
        return ""
    return "; ".join(dict.fromkeys(run.reasons.get(number, ())))


def document(runs: Sequence[Results]) -> str:
    """Return the whole page."""
    lines = [_HEAD, _LEGEND]
    for kind in KINDS:
        lines += _section(kind, runs)
    lines += ["## Decisions", ""]
    lines += ["Where a scenario leaves room, or the project's design decides otherwise:", ""]
    lines += [_row(["", "here"]), "|---|---|"]
    lines += [_row([number, text]) for number, text in DECIDED.items()]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    """Print the document of the runs named on the command line; return the exit status."""
    if not argv:
        print("usage: report.py RUN.json...", file=sys.stderr)
        return 2
    print(document([run for name in argv for run in read(Path(name))]), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
