"""The watch over Kafka's credentials, and the end of a client certificate."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import confluent_kafka as ck
import pytest
import trustme

from connector.config.model import Kafka
from connector.config.secrets import ClientSettings
from connector.errors import EXIT_KAFKA, EXIT_RESTART, ConfigError, UnusableFile
from connector.kafka.clients import Clients
from connector.kafka.errors import new_client
from connector.kafka.limits import require_valid_settings
from connector.kafka.probe import Probe
from connector.kafka.validity import client_certificate_end
from connector.runtime.credential_watch import CredentialWatch
from connector.runtime.supervisor import Supervisor
from connector.tools.check_kafka import _check_certificate
from connector.tools.report import Report

if TYPE_CHECKING:
    from pathlib import Path


def certificate(folder: Path, *ends: datetime) -> Kafka:
    """Return a configuration whose file of the client certificate has these ends."""
    authority = trustme.CA()
    pem = b""
    for end in ends:
        issued = authority.issue_cert("gex@client.test", not_after=end)
        pem += issued.cert_chain_pems[0].bytes()
    file = folder / "certificate.pem"
    file.write_bytes(pem)
    return Kafka(client=ClientSettings({"ssl.certificate.location": str(file)}))


def test_a_certificate_without_its_new_key_ends_no_worker_that_runs(
    tmp_path: Path,
) -> None:
    """A rotation may replace one file after the other."""
    authority = trustme.CA()
    certificate_file, key_file = tmp_path / "tls.crt", tmp_path / "tls.key"
    authority.issue_cert("gex@client.test").cert_chain_pems[0].write_to_path(
        certificate_file
    )
    authority.issue_cert("gex@client.test").private_key_pem.write_to_path(key_file)
    client = ClientSettings(
        {
            "security.protocol": "SSL",
            "ssl.certificate.location": str(certificate_file),
            "ssl.key.location": str(key_file),
        }
    )
    clients = Clients(Kafka(client=client))

    with pytest.raises(UnusableFile, match="key values mismatch"):
        new_client(ck.Producer, clients.producer("shard"))
    # It says nothing about Kafka.
    probe = Probe(clients, "topic")
    for _ in range(3):
        probe.ask()
    assert clients.reachability.outage is None
    # But at the start it is a fault of the configuration.
    with pytest.raises(ConfigError, match="key values mismatch"):
        require_valid_settings(clients)


@pytest.mark.parametrize("year", [2031, 2049, 2050, 2077])
def test_the_end_of_a_certificate_is_read(tmp_path: Path, year: int) -> None:
    # From 2050 on, certificates write their years with four digits.
    end = datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert client_certificate_end(certificate(tmp_path, end)) == end


def test_the_first_certificate_of_a_chain_that_expires_counts(tmp_path: Path) -> None:
    first, second = datetime(2033, 1, 1, tzinfo=UTC), datetime(2032, 1, 1, tzinfo=UTC)
    assert client_certificate_end(certificate(tmp_path, first, second)) == second


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x30\x82",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n",
    ],
)
def test_a_file_that_holds_no_certificate_has_no_end(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "certificate.pem"
    file.write_bytes(content)
    client = ClientSettings({"ssl.certificate.location": str(file)})
    assert client_certificate_end(Kafka(client=client)) is None


def test_no_certificate_has_no_end() -> None:
    assert client_certificate_end(Kafka()) is None


def test_a_key_beside_the_certificate_does_not_hide_its_end(tmp_path: Path) -> None:
    end = datetime(2031, 2, 3, tzinfo=UTC)
    issued = trustme.CA().issue_cert("gex@client.test", not_after=end)
    pem = issued.private_key_and_cert_chain_pem.bytes().decode()
    client = ClientSettings({"ssl.certificate.pem": pem})
    assert client_certificate_end(Kafka(client=client)) == end


def test_a_worker_without_certificate_does_not_load_the_reader_of_certificates() -> (
    None
):
    """It takes 25 ms of the start, and 7 MiB."""
    code = (
        "import sys, connector.app.worker\n"
        "from connector.config.model import Kafka\n"
        "from connector.kafka.validity import client_certificate_end\n"
        "client_certificate_end(Kafka())\n"
        "sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("days", "begin", "status"),
    [
        (-2, "FAIL  certificate    the client certificate expired at ", EXIT_KAFKA),
        (3, "warn  certificate    the client certificate expires in 3 days, at ", 0),
        (90, "ok    certificate    the client certificate expires in 90 days, at ", 0),
    ],
)
def test_check_says_when_the_certificate_expires(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    days: int,
    begin: str,
    status: int,
) -> None:
    report = Report()
    end = datetime.now(UTC) + timedelta(days=days, hours=12)
    _check_certificate(certificate(tmp_path, end), report)

    assert capsys.readouterr().out.startswith(begin)
    assert report.exit_code == status


class Bench:
    """A watch that does not wait."""

    def __init__(self, *, is_kafka_away: bool) -> None:
        self.answers = [False, False, True]
        self.waits: list[float] = []
        self.supervisor = Supervisor()
        self.watch = CredentialWatch(
            lambda: self.answers.pop(0),
            self.supervisor.restart,
            lambda: is_kafka_away,
            ThreadPoolExecutor(1),
            self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)


async def test_the_worker_ends_a_moment_after_the_credentials_are_replaced() -> None:
    bench = Bench(is_kafka_away=False)
    await bench.watch.run()

    # The last wait is that of one worker among many.
    assert bench.waits[:3] == [10, 10, 10]
    assert 0 <= bench.waits[3] <= 10
    assert bench.supervisor.exit_code == EXIT_RESTART
    assert bench.supervisor.is_stopping


async def test_a_worker_that_has_lost_kafka_ends_at_once() -> None:
    bench = Bench(is_kafka_away=True)
    await bench.watch.run()

    assert bench.waits == [10, 10, 10]
    assert bench.supervisor.exit_code == EXIT_RESTART


def test_a_worker_that_is_stopping_keeps_its_exit_status() -> None:
    supervisor = Supervisor()
    supervisor.stop()
    supervisor.restart("the credentials of Kafka were replaced")
    assert supervisor.exit_code == 0
