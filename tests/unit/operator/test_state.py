from __future__ import annotations

import json

import pytest

from tailrace.operator.state import HolderState, Origin, Phase


@pytest.mark.parametrize(
    "state",
    [
        HolderState(),
        HolderState(
            Phase.READY, Origin.TAKEN, "id", 1.5, 2.5, "cause", "hint", ("a", "b"), 3, "refusal"
        ),
    ],
)
def test_it_crosses_processes(state: HolderState) -> None:
    text = json.dumps(state.to_document())
    assert HolderState.from_document(json.loads(text)) == state
