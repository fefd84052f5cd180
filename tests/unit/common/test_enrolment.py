"""Codes, pins and secret keys, as people and strangers write them."""

import pytest

from tailrace.common.enrolment import (
    is_pin,
    is_secret_key,
    new_code,
    new_secret_key,
    read_code,
)


def test_codes_are_read_as_they_are_typed() -> None:
    code = new_code()
    text = code.reveal()
    assert len(text) == 26
    assert new_code() != code
    assert text not in repr(code)
    for typed in (text, text.lower(), f" {text}\n", f"{text[:13]}-{text[13:]}"):
        assert read_code(typed) == code


@pytest.mark.parametrize("text", ["", "A" * 25, "A" * 27, "A" * 25 + "1", "A" * 25 + "\u0660"])
def test_what_is_no_code(text: str) -> None:
    assert read_code(text) is None


def test_secret_keys_have_256_bits() -> None:
    made = new_secret_key()
    assert is_secret_key(made.reveal())
    assert made != new_secret_key()
    for text in ("", "a" * 42, "a" * 129, "a" * 42 + "\n", "a" * 42 + "/"):
        assert not is_secret_key(text)


def test_pins() -> None:
    assert is_pin("sha256:" + "0f" * 32)
    for text in ("0f" * 32, "sha256:" + "0F" * 32, "sha256:" + "0f" * 31, "sha1:" + "0f" * 32):
        assert not is_pin(text)
