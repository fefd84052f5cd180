from __future__ import annotations

import copy
from typing import Any

from tailrace.operator.rates import rates_between

PROCESS = (4711, "localproxy", 0.0)
TUNNEL = (*PROCESS, "0233abcd-1234", "source")


def later(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return copy.deepcopy(document) | {"clock": document["clock"] + 2.0} | changes


def test_bytes_by_the_time_between_two_readings(proxy: dict[str, Any], serve: dict[str, Any]):
    then = [later(proxy), later(serve)]
    then[0]["tunnels"][0]["bytes_in"] += 3000
    then[1]["service"]["sides"]["source"]["bytes"] += 10
    assert rates_between([proxy, serve], then) == {
        (*TUNNEL, "bytes_in"): 1500.0,
        (*TUNNEL, "bytes_out"): 0.0,
        (12, "serve", 0.0, "", "source", "bytes_in"): 5.0,
        (12, "serve", 0.0, "", "destination", "bytes_in"): 0.0,
    }


def test_what_counts_anew_has_no_rate(proxy: dict[str, Any]):
    assert rates_between([], [proxy]) == {}
    assert rates_between([proxy], [proxy]) == {}
    assert rates_between([proxy], [later(proxy, since=1.0)]) == {}
    again = later(proxy)
    again["tunnels"][0]["bytes_in"] = 5
    assert rates_between([proxy], [again]) == {(*TUNNEL, "bytes_out"): 0.0}
