"""The three dialects and what their messages carry."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from tailrace.session.dialect import V1, V2, V3, Dialect


@pytest.mark.parametrize(
    ("dialect", "name", "has_service_id", "has_connection_id"),
    [(V1, "V1", False, False), (V2, "V2", True, False), (V3, "V3", True, True)],
)
def test_each_dialect_adds_one_field(
    dialect: Dialect, name: str, has_service_id: bool, has_connection_id: bool
) -> None:
    assert (dialect.name, dialect.has_service_id, dialect.has_connection_id) == (
        name,
        has_service_id,
        has_connection_id,
    )


def test_dialects_are_values() -> None:
    assert Dialect("V2", has_service_id=True, has_connection_id=False) == V2
    assert len({V1, V2, V3, Dialect("V3", has_service_id=True, has_connection_id=True)}) == 3


@pytest.mark.parametrize("field", ["name", "has_service_id", "has_connection_id"])
def test_dialects_cannot_be_changed(field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(V1, field, True)
