"""Kafka and schema registry checks of `gex-connector check`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from connector.errors import EXIT_KAFKA, AccessDenied, ConnectorError, KafkaError
from connector.kafka.admin import LEFT_OUT, topic_specs
from connector.kafka.clients import Clients
from connector.kafka.foreign_members import REMEDY, foreign_members, summary
from connector.kafka.framing import check_schemas
from connector.kafka.limits import group_limit_name, unknown_limits
from connector.kafka.members import Members
from connector.kafka.names import Topics
from connector.kafka.preflight import Preflight
from connector.kafka.rights import missing_rights
from connector.kafka.validity import client_certificate_end

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from connector.config.model import Config, Kafka
    from connector.kafka.preflight import PreflightReport
    from connector.tools.report import Report

_DAY_MS: Final = 86_400_000

_ADVERTISED: Final = (
    "workers connect to each: check its advertised.listeners, and the network between"
)

# Far longer than a worker waits: here a person does, and a busy machine needs the time.
_GROUP_TIMEOUT_SECONDS: Final = 30
# NTP keeps clocks within a second.
_MAX_AHEAD_SECONDS: Final = 60
# As the alert GexKafkaCertificateExpires.
_FEW_DAYS: Final = 7


def check_kafka(config: Config, report: Report) -> list[str] | None:
    """Check the broker, the topics and the rights on them.

    Return the feeds whose states can be read, or None if no broker answers.
    """
    kafka = config.kafka
    _check_certificate(kafka, report)
    try:
        clients = Clients(kafka)
        preflight = Preflight(clients)
        report.ok("broker", preflight.cluster())
    except ConnectorError as error:
        report.fail("broker", str(error), error.exit_code)
        report.warn("rights", "not tried, nor were topics and states: no broker")
        return None

    largest_group = _check_brokers(clients, preflight, report)

    feeds = [feed.name for feed in config.feeds]
    topics = Topics(kafka.topic_prefix)
    expected = topic_specs(topics, feeds, kafka)
    # No shard has this id, so that trying it disturbs nothing.
    unused_id = f"{kafka.topic_prefix}.check"
    names = [spec.name for spec in expected]
    denied = missing_rights(clients, unused_id, kafka.group_id, names)

    readable_feeds: list[str] = []
    try:
        found = preflight.topics(expected, kafka.replication_factor)
    except KafkaError as error:
        report.fail("topics", str(error), error.exit_code)
    else:
        denied += found.denied
        for creation in found.absent:
            if isinstance(creation.error, AccessDenied):
                denied.append(str(creation.error))
        _report_topics(found, topics, feeds, report)
        _check_transactions(preflight, found.checks, kafka.bootstrap_servers, report)
        _check_clock(preflight, found.checks, report)
        readable_feeds = _readable(found, topics, feeds)

    _check_group(config, feeds, largest_group, report)
    _report_rights(denied, report)
    return readable_feeds


def check_registry(config: Config, report: Report) -> bool:
    """Check that the registry, if there is one, accepts the schemas.

    Return False if it failed.
    """
    registry = config.schema_registry
    if registry.url is None:
        report.ok("registry", "not configured: values use Avro single-object encoding")
        return True

    topics = Topics(config.kafka.topic_prefix)
    feeds = [feed.name for feed in config.feeds]
    try:
        compatibility, new_schemas = check_schemas(
            registry, registry.url, topics, feeds
        )
    except ConnectorError as error:
        report.fail("registry", str(error), error.exit_code)
        return False

    schemas = "; ".join(new_schemas) or "every schema is registered"
    level = compatibility or "unknown (the registry does not tell us)"
    finding = f"compatibility {level}; {schemas}"
    # With NONE the registry would accept a schema that readers cannot decode.
    if compatibility == "NONE":
        report.warn("registry", f"{finding}; FULL_TRANSITIVE is safer")
    else:
        report.ok("registry", finding)
    return True


def _check_certificate(kafka: Kafka, report: Report) -> None:
    """Say when the client certificate expires, if there is one."""
    end = client_certificate_end(kafka)
    if end is None:
        return
    left = end - datetime.now(UTC)
    moment = f"{end:%Y-%m-%d %H:%M} UTC"
    finding = f"the client certificate expires in {left.days} days, at {moment}"
    remedy = "replace the files of ssl.certificate.location and ssl.key.location"
    if left < timedelta(0):
        finding = f"the client certificate expired at {moment}; {remedy}"
        report.fail("certificate", finding, EXIT_KAFKA)
    elif left.days < _FEW_DAYS:
        report.warn("certificate", f"{finding}; {remedy}")
    else:
        report.ok("certificate", finding)


def _check_brokers(
    clients: Clients, preflight: Preflight, report: Report
) -> int | None:
    """Ask every broker, and compare our time-outs with their limits.

    Return the number of members that a group may have, None if it is not known.
    """
    try:
        found = preflight.brokers()
    except KafkaError as error:
        report.warn("limits", f"not tried: {error}")
        return None
    for silent in found.silent:
        finding = f"a broker of the cluster does not answer: {silent}; {_ADVERTISED}"
        report.fail("broker", finding, EXIT_KAFKA)
    if found.limit_faults is None:
        unknown = "; ".join(unknown_limits(clients))
        report.warn(
            "limits",
            f"not tried, the settings of the brokers cannot be read. Compare: {unknown}. A "
            "worker that exceeds a limit ends with exit status 3 and names it",
        )
        return None
    for fault in found.limit_faults:
        report.fail("limits", fault, EXIT_KAFKA)
    if not found.limit_faults:
        report.ok("limits", "the brokers allow our transactions and group sessions")
    return found.largest_group


def _check_transactions(
    preflight: Preflight, topics: Collection[str], servers: str, report: Report
) -> None:
    """Look for open transactions that hide the records of our topics."""
    if not topics:
        return
    try:
        found = preflight.held_back(topics)
    except KafkaError as error:
        report.warn("transactions", f"not tried: {error}")
        return
    for held in found:
        report.fail(
            "transactions",
            f"{held.topic}-{held.partition}: consumers cannot read the records from "
            f"offset {held.offset} on, since a transaction stays open; "
            f"{held.remedy(servers)}",
            EXIT_KAFKA,
        )
    if not found:
        report.ok("transactions", "none stays open in the topics")


def _check_clock(preflight: Preflight, topics: Collection[str], report: Report) -> None:
    """Compare our clock with the latest record: no request tells the brokers' time."""
    try:
        latest = preflight.latest(topics)
    except KafkaError as error:
        report.warn("clock", f"not compared with the topics' records: {error}")
        return
    if latest is None:
        return
    topic, at = latest
    seconds = at - time.time()
    if seconds > _MAX_AHEAD_SECONDS:
        report.fail(
            "clock",
            f"topic {topic} has a record that is {seconds:.0f} s later than this "
            "machine's clock: set the clock of this machine (NTP), or of the one that "
            "wrote the record",
        )


def _check_group(
    config: Config, feeds: list[str], largest: int | None, report: Report
) -> None:
    """Look for programs in the group that are no workers, and for a place in it.

    `largest` is the number of members that it may have, None if it is not known.
    """
    kafka = config.kafka
    topics = Topics(kafka.topic_prefix)
    feed_of_topic = {topics.current(feed): feed for feed in feeds}
    clients = Clients(kafka)
    members = Members(
        clients.admin(), kafka.group_id, feed_of_topic, _GROUP_TIMEOUT_SECONDS
    )
    try:
        found = members.now()
    except KafkaError as error:
        report.warn("group", f"not tried: {error}")
        return
    foreign = foreign_members(found, kafka.client.get("client.id"))
    for member in foreign:
        finding = f"{summary(member, kafka.group_id)}; {REMEDY}"
        report.fail("group", finding, EXIT_KAFKA)
    if largest is not None and len(found) >= largest:
        report.warn(
            "group",
            f"{len(found)} members, as many as the brokers admit "
            f"({group_limit_name(clients)}): one more worker would end with exit status 3",
        )
    elif not foreign:
        workers = "worker" if len(found) == 1 else "workers"
        report.ok("group", f"{len(found)} {workers}, and no other program")


def _report_topics(
    found: PreflightReport, topics: Topics, feeds: list[str], report: Report
) -> None:
    _report_absent(found, topics, feeds, report)
    _report_existing(found, report)
    _report_unwritable(found, topics.quarantine, report)


def _readable(found: PreflightReport, topics: Topics, feeds: list[str]) -> list[str]:
    """Return the feeds whose states can be read."""
    readable = []
    for feed in feeds:
        topic = found.checks.get(topics.current(feed))
        if topic is not None and not topic.faults:
            readable.append(feed)
    return readable


def _report_rights(denied: list[str], report: Report) -> None:
    # A missing right to read an existing topic is found in two ways.
    for finding in dict.fromkeys(denied):
        report.fail("rights", finding, EXIT_KAFKA)
    if not denied:
        report.ok(
            "rights",
            "topics, transactional ids and group: all granted, as far as can be tried",
        )


def _report_absent(
    found: PreflightReport, topics: Topics, feeds: list[str], report: Report
) -> None:
    losses = _losses(found, topics, feeds)
    for creation in found.absent:
        name = creation.spec.name
        if name in losses:
            report.warn(
                "topics",
                f"{name}: absent, but others exist: {losses[name]}; the next start "
                "creates it (operations, A topic is gone)",
            )
        if creation.left_out:
            settings = ", ".join(
                f"{setting}={value}" for setting, value in creation.left_out.items()
            )
            report.warn("topics", f"{name}: absent; {LEFT_OUT}: {settings}")
        # A missing right is reported with the others.
        if creation.error is not None and not isinstance(creation.error, AccessDenied):
            report.fail("topics", str(creation.error), creation.error.exit_code)

        is_usual = name not in losses and not creation.left_out
        if is_usual and creation.error is None:
            report.ok("topics", f"{name}: absent; the first worker creates it")


def _losses(found: PreflightReport, topics: Topics, feeds: list[str]) -> dict[str, str]:
    """Return the loss with each topic that seems to have been deleted.

    Topics are created together: one that is absent alone was there before.
    """
    losses = {}
    if found.checks:
        losses[topics.quarantine] = "its records are lost"
    for feed in feeds:
        changes, current = topics.changes(feed), topics.current(feed)
        if current in found.checks:
            losses[changes] = "its events are lost"
        if changes in found.checks:
            losses[current] = "its states are lost"
    return losses


def _report_existing(found: PreflightReport, report: Report) -> None:
    for name, fit in found.checks.items():
        for fault in fit.faults:
            report.fail("topics", fault, EXIT_KAFKA)
        for problem, remedy in fit.warnings:
            report.warn("topics", f"{name}: {problem}; {remedy}")
        if not fit.faults and not fit.warnings:
            report.ok("topics", f"{name}: {_description(fit.config)}")


def _report_unwritable(found: PreflightReport, quarantine: str, report: Report) -> None:
    for name, reason in found.unwritable.items():
        finding = f"{name}: {reason}: no record can be written; start the brokers"
        if name == quarantine:
            # Events go on without it.
            report.warn("topics", finding)
        else:
            report.fail("topics", finding, EXIT_KAFKA)


def _description(config: Mapping[str, str]) -> str:
    # Kafka keeps records without limit if retention.ms is -1.
    retention_ms = int(config.get("retention.ms", -1))
    if retention_ms < 0:
        retention = "kept forever"
    elif config.get("cleanup.policy") == "compact":
        retention = "compacted"
    else:
        retention = f"kept for {retention_ms / _DAY_MS:g} days"

    replicas = config.get("min.insync.replicas")
    size = config.get("max.message.bytes")
    return f"{retention}, min.insync.replicas {replicas}, max.message.bytes {size}"
