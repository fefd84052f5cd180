"""The service ids of a tunnel against those an end was started with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import ServiceIdMismatch
from tailrace.session.services import match_service_ids

IDS = st.lists(st.sampled_from(["A", "B", "C", "D"]), max_size=6).map(tuple)


@pytest.mark.parametrize(
    ("configured", "announced", "agreed"),
    [
        (None, (), ("",)),
        (None, ("A",), ("A",)),
        (None, ("B", "A"), ("B", "A")),
        (("",), (), ("",)),
        (("",), ("A",), ("A",)),
        (("",), ("A", "A"), ("A",)),
        (("A",), ("A",), ("A",)),
        (("A", "B"), ("B", "A"), ("B", "A")),
        (("A", "B"), ("B", "A", "B"), ("B", "A")),
        (("a:b", "c-d_e"), ("a:b", "c-d_e"), ("a:b", "c-d_e")),
    ],
)
def test_agreed(
    configured: tuple[str, ...] | None, announced: tuple[str, ...], agreed: tuple[str, ...]
) -> None:
    assert match_service_ids(configured, announced) == agreed


@pytest.mark.parametrize(
    ("configured", "announced", "text"),
    [
        (
            ("",),
            ("A", "B", "C"),
            "the tunnel has the services [A, B, C], but one address without a service id was "
            "given: name each one, as in A=PORT,B=PORT",
        ),
        (
            ("A",),
            (),
            "the tunnel has no services, you gave [A]: both lists must be equal",
        ),
        (
            ("VNC",),
            ("HTTP", "SSH"),
            "the tunnel has the services [HTTP, SSH], you gave [VNC]: both lists must be equal",
        ),
        (
            ("A", "B"),
            ("A",),
            "the tunnel has the services [A], you gave [A, B]: both lists must be equal",
        ),
        (
            ("A",),
            ("A", "B"),
            "the tunnel has the services [A, B], you gave [A]: both lists must be equal",
        ),
        (
            ("a",),
            ("A",),
            "the tunnel has the services [A], you gave [a]: both lists must be equal",
        ),
    ],
)
def test_mismatch_names_both_lists(
    configured: tuple[str, ...], announced: tuple[str, ...], text: str
) -> None:
    with pytest.raises(ServiceIdMismatch) as caught:
        match_service_ids(configured, announced)
    assert str(caught.value) == text


@given(IDS)
def test_without_configuration_any_ids_will_do(announced: tuple[str, ...]) -> None:
    agreed = match_service_ids(None, announced)
    assert set(agreed) == (set(announced) or {""})
    assert len(set(agreed)) == len(agreed)


@given(IDS, IDS)
def test_named_ids_agree_exactly_when_the_sets_are_equal(
    configured: tuple[str, ...], announced: tuple[str, ...]
) -> None:
    if set(configured) == set(announced):
        assert set(match_service_ids(configured, announced)) == set(announced)
    else:
        with pytest.raises(ServiceIdMismatch):
            match_service_ids(configured, announced)
