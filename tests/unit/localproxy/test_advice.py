"""The wording of the command is tested with the command; here is what differs by the names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.tunnel.engine import settings
from tailrace.errors import AccessRefused, CertificateFault
from tailrace.localproxy.advice import (
    SettingNames,
    certificate_advice,
    endpoint_advice,
    refusal_advice,
    stranger_advice,
)

NAMES = SettingNames("ENDPOINT", "REGION", "CA", "CLIENT TOKEN")
SETTINGS = settings()
AWS = replace(SETTINGS, host="api.tunneling.iot.eu-west-1.amazonaws.com")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, "previously used client token", "(CLIENT TOKEN)"),
        (400, "the tunnel is closed", "open a new one"),
        (400, "wrong mode", "token of the destination; give the source token"),
        (403, "no", "--client-mode SOURCE"),
        (418, "no", "(ENDPOINT, REGION)"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, body: str, words: str):
    assert words in refusal_advice(AccessRefused(status, "No", body), SETTINGS, NAMES)


def test_the_control_api_is_told_from_the_data_endpoint():
    refused = AccessRefused(404, "Not Found", "")
    told = "data.tunneling.iot.eu-west-1.amazonaws.com, or its region with REGION (ENDPOINT)"
    assert told in refusal_advice(refused, AWS, NAMES)
    assert "(ENDPOINT)" in stranger_advice("UnknownOperationException", SETTINGS, NAMES)
    assert "wants no login" in stranger_advice("<html>", SETTINGS, NAMES)
    assert "localhost:443" in endpoint_advice(SETTINGS, NAMES)


@pytest.mark.parametrize("fault", CertificateFault)
def test_a_certificate_has_a_remedy(fault: CertificateFault):
    assert ("CA" in certificate_advice(fault, NAMES)) is (fault is CertificateFault.UNTRUSTED)
