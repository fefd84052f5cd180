"""The clock of a machine, and the certificate that it shows to servers."""

from __future__ import annotations

import asyncio
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from support.network.certificates import Certificates
from tailrace.checks import machine
from tailrace.checks.findings import Verdict, ok
from tailrace.checks.machine import check_certificate, check_clock, check_data_path


async def test_a_clock_that_was_set() -> None:
    finding = await check_clock()
    assert finding.verdict is Verdict.OK
    assert finding.figure.startswith(f"{datetime.now(UTC):%Y-}")


async def test_a_clock_that_was_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 12.0)
    finding = await check_clock()
    assert finding.verdict is Verdict.FAILED
    assert finding.figure == "1970-01-01 00:00:12 UTC, which is before this program was made"
    assert "timedatectl" in finding.fix


class Pair:
    """A certificate with its key in files."""

    def __init__(self, directory: Path, ca: trustme.CA, days: float | None = None) -> None:
        end = None if days is None else datetime.now(UTC) + timedelta(days=days)
        made = ca.issue_cert("pump-7", not_after=end)
        self.cert, self.key = directory / "device.pem", directory / "device.key"
        made.cert_chain_pems[0].write_to_path(str(self.cert))
        made.private_key_pem.write_to_path(str(self.key))
        self.key.chmod(0o600)


async def test_a_pair_that_is_good(tmp_path: Path, certificates: Certificates) -> None:
    pair = Pair(tmp_path, certificates.ca)
    finding = await check_certificate(pair.cert, pair.key)
    assert finding.verdict is Verdict.OK, finding
    assert "issued by" in finding.figure
    assert "good until 3000-01-01" in finding.figure


async def test_one_file_with_both(tmp_path: Path, certificates: Certificates) -> None:
    pair = Pair(tmp_path, certificates.ca)
    pair.key.write_bytes(pair.key.read_bytes() + pair.cert.read_bytes())
    assert (await check_certificate(pair.key, None)).verdict is Verdict.OK


@pytest.mark.parametrize(("days", "verdict"), [(-1, Verdict.FAILED), (5, Verdict.WARNING)])
async def test_a_pair_that_expires(
    tmp_path: Path, certificates: Certificates, days: float, verdict: Verdict
) -> None:
    pair = Pair(tmp_path, certificates.ca, days)
    finding = await check_certificate(pair.cert, pair.key)
    assert finding.verdict is verdict
    assert "renew the certificate" in finding.fix


async def test_a_key_that_others_may_read(tmp_path: Path, certificates: Certificates) -> None:
    pair = Pair(tmp_path, certificates.ca)
    pair.key.chmod(0o644)
    finding = await check_certificate(pair.cert, pair.key)
    assert finding.verdict is Verdict.WARNING
    assert finding.fix == f"chmod go-rwx {pair.key}"


async def test_a_key_of_another_certificate(tmp_path: Path, certificates: Certificates) -> None:
    pair = Pair(tmp_path, certificates.ca)
    certificates.ca.issue_cert("other").private_key_pem.write_to_path(str(pair.key))
    finding = await check_certificate(pair.cert, pair.key)
    assert finding.verdict is Verdict.FAILED
    assert finding.figure == f"{pair.cert}, {pair.key}: the key belongs to another certificate"


async def test_a_file_that_is_missing(tmp_path: Path) -> None:
    finding = await check_certificate(tmp_path / "device.pem", None)
    assert finding.figure == f"{tmp_path}/device.pem: No such file or directory"


async def test_a_key_with_a_passphrase(tmp_path: Path, certificates: Certificates) -> None:
    pair = Pair(tmp_path, certificates.ca)
    encrypted = tmp_path / "encrypted.key"
    command = ["openssl", "pkey", "-in", str(pair.key), "-aes128", "-passout", "pass:secret"]
    command += ["-out", str(encrypted)]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)
    finding = await check_certificate(pair.cert, encrypted)
    assert finding.verdict is Verdict.FAILED
    assert "openssl pkey" in finding.figure


async def test_who_moves_the_data_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("compiled extension", "Python: it was not built"):
        monkeypatch.setattr(machine, "data_path", lambda words=words: words)
        assert await check_data_path() == ok(words)
