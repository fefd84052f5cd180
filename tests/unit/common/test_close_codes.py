import pytest

from tailrace.common.close_codes import may_be_sent


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1008, 1011, 1014, 3000, 4000, 4999])
def test_codes_of_the_wire(code: int) -> None:
    assert may_be_sent(code)


@pytest.mark.parametrize(
    "code", [-1, 0, 5, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535, 70_000]
)
def test_codes_that_never_travel(code: int) -> None:
    assert not may_be_sent(code)
