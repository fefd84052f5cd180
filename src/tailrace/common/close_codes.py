"""Which status codes a close frame may carry."""

from __future__ import annotations

from typing import Final

__all__ = ["may_be_sent"]

_RESERVED: Final = frozenset({1004, 1005, 1006})


def may_be_sent(code: int) -> bool:
    """Return whether ``code`` may stand in a close frame (RFC 6455 section 7.4).

    1005, 1006 and 1015 name ends without such a frame, or without a code in it; up to 2999, codes
    need a specification, and those from 1015 on have none.
    """
    return (1000 <= code < 1015 and code not in _RESERVED) or 3000 <= code <= 4999
