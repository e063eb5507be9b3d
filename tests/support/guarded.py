"""A broker with SCRAM over TLS, mutual TLS, and ACLs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import trustme
from cryptography.hazmat.primitives import serialization

from connector.devkit.local_kafka import LocalKafka
from connector.devkit.loopback_ports import LOOPBACK, free_port
from tests.support.internal_topics import create_internal_topics
from tests.support.processes import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from cryptography.hazmat.primitives.serialization import KeySerializationEncryption

    from tests.conftest import Names

# Tests search logs for these: the passwords must occur nowhere else.
USER = "gex"
PASSWORD = "scram-pass-7f3a9c"
KEY_PASSWORD = "key-pass-51d2e8"

Right = tuple[admin_api.ResourceType, admin_api.AclOperation]

TOPIC, GROUP = admin_api.ResourceType.TOPIC, admin_api.ResourceType.GROUP
TRANSACTIONAL_ID = admin_api.ResourceType.TRANSACTIONAL_ID
NEEDED: dict[str, Right] = {
    "topic READ": (TOPIC, admin_api.AclOperation.READ),
    "topic WRITE": (TOPIC, admin_api.AclOperation.WRITE),
    "topic CREATE": (TOPIC, admin_api.AclOperation.CREATE),
    "topic DESCRIBE_CONFIGS": (TOPIC, admin_api.AclOperation.DESCRIBE_CONFIGS),
    "transactional id WRITE": (TRANSACTIONAL_ID, admin_api.AclOperation.WRITE),
    "group READ": (GROUP, admin_api.AclOperation.READ),
}

# Before the settings of Kafka's clients, in the names of variables.
CLIENT = "GEX_KAFKA__CLIENT__"

# An answer takes milliseconds. A refusal comes as an error only after this time.
_SIGN_IN_SECONDS = 5

_CLIENT = f"{USER}@client.test"
_PROTOCOLS = "CLIENT:PLAINTEXT,SCRAM:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT"
# The broker itself needs no user, so this has no user name.
_SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_AUTHORIZER = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of PEM files: the authority, and a certificate with its encrypted key."""

    authority: str
    certificate: str
    key: str


class GuardedKafka:
    """A broker with three listeners.

    `scram` needs a password (SASL_SSL), `mutual` a certificate (SSL), and the broker's
    own address allows everything. The broker's certificate is for 127.0.0.1, and not for
    localhost. The principal of a certificate is its common name.
    """

    def __init__(self, folder: Path, extra: Mapping[str, str] | None = None) -> None:
        """`extra` has further settings of the broker."""
        authority = self._authority = trustme.CA()
        server = _issue(folder / "server", authority, LOOPBACK)
        self.files = self.issue(folder / "client")
        # A client with the same name, whose authority the broker does not trust.
        unknown = trustme.CA()
        self.stranger = _issue(folder / "stranger", unknown, _CLIENT, KEY_PASSWORD)
        port = free_port()
        addresses = {"CLIENT": f"{LOOPBACK}:{port}"}
        for name in ("SCRAM", "MUTUAL", "CONTROLLER"):
            addresses[name] = f"{LOOPBACK}:{free_port()}"
        self.scram, self.mutual = addresses["SCRAM"], addresses["MUTUAL"]

        listeners = [f"{name}://{address}" for name, address in addresses.items()]
        settings = {
            "listeners": ",".join(listeners),
            "listener.security.protocol.map": _PROTOCOLS,
            "controller.quorum.voters": f"1@{addresses['CONTROLLER']}",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.scram.scram-sha-512.sasl.jaas.config": _SCRAM_LOGIN,
            "listener.name.mutual.ssl.client.auth": "required",
            # The principal is the whole distinguished name by default.
            "listener.name.mutual.ssl.principal.mapping.rules": (
                "RULE:^CN=([^,]+).*$/$1/"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": server.key,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": server.authority,
            # The broker's own connections are anonymous.
            "authorizer.class.name": _AUTHORIZER,
            "super.users": "User:ANONYMOUS",
            **(extra or {}),
        }
        self.broker = LocalKafka(folder / "broker", port=port, extra=settings)

    def issue(self, folder: Path, until: datetime | None = None) -> Files:
        """Write another certificate of our user, by default for years."""
        return _issue(folder, self._authority, _CLIENT, KEY_PASSWORD, until)

    def admit(self, password: str = PASSWORD) -> None:
        """Create the user, or change its password. The broker must run.

        It is ready for transactions and groups then.
        """
        mechanism = admin_api.ScramCredentialInfo(
            admin_api.ScramMechanism.SCRAM_SHA_512, 4096
        )
        credential = admin_api.UserScramCredentialUpsertion(
            USER, mechanism, password.encode()
        )
        # A client that is dropped cancels its requests: keep it.
        admin = self.admin()
        for future in admin.alter_user_scram_credentials([credential]).values():
            future.result(PATIENCE_SECONDS)
        # The broker itself learns of it a moment later.
        wait_until(lambda: self._signs_in(password), "the user can sign in")
        create_internal_topics(self.broker)

    def admin(self) -> admin_api.AdminClient:
        """Return a client that may do everything."""
        return admin_api.AdminClient(
            {"bootstrap.servers": self.broker.bootstrap_servers}
        )

    def by_password(self) -> dict[str, str]:
        """Return the variables of a worker with a password."""
        return {
            "GEX_KAFKA__BOOTSTRAP_SERVERS": self.scram,
            f"{CLIENT}SECURITY_PROTOCOL": "SASL_SSL",
            f"{CLIENT}SASL_MECHANISM": "SCRAM-SHA-512",
            f"{CLIENT}SASL_USERNAME": USER,
            f"{CLIENT}SASL_PASSWORD": PASSWORD,
            f"{CLIENT}SSL_CA_LOCATION": self.files.authority,
        }

    def _signs_in(self, password: str) -> bool:
        client = admin_api.AdminClient(
            {
                "bootstrap.servers": self.scram,
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": USER,
                "sasl.password": password,
                "ssl.ca.location": self.files.authority,
                # Refusals are expected, and would only confuse.
                "log_level": 0,
            }
        )
        try:
            client.list_topics(timeout=_SIGN_IN_SECONDS)
        except ck.KafkaException:
            return False
        return True

    def by_certificate(self) -> dict[str, str]:
        """Return the variables of a worker with a certificate."""
        return {
            "GEX_KAFKA__BOOTSTRAP_SERVERS": self.mutual,
            f"{CLIENT}SECURITY_PROTOCOL": "SSL",
            f"{CLIENT}SSL_CA_LOCATION": self.files.authority,
            f"{CLIENT}SSL_CERTIFICATE_LOCATION": self.files.certificate,
            f"{CLIENT}SSL_KEY_LOCATION": self.files.key,
            f"{CLIENT}SSL_KEY_PASSWORD": KEY_PASSWORD,
        }


def grant(guarded: GuardedKafka, names: Names, rights: Mapping[str, Right]) -> None:
    """Grant our user rights on everything that has this test's names."""
    bindings = []
    for resource, operation in rights.values():
        # Topics and transactional ids are granted by their prefix.
        pattern = admin_api.ResourcePatternType.PREFIXED
        name = f"{names.topic_prefix}."
        if resource is GROUP:
            pattern = admin_api.ResourcePatternType.LITERAL
            name = names.group_id
        bindings.append(
            admin_api.AclBinding(
                resource,
                name,
                pattern,
                f"User:{USER}",
                "*",
                operation,
                admin_api.AclPermissionType.ALLOW,
            )
        )
    add_rights(guarded, bindings)


def add_rights(guarded: GuardedKafka, bindings: list[admin_api.AclBinding]) -> None:
    """Create ACLs, and wait until the broker decides by them."""
    # A client that is dropped cancels its requests: keep it.
    client = guarded.admin()
    for future in client.create_acls(bindings).values():
        future.result(PATIENCE_SECONDS)

    def are_known() -> bool:
        return set(bindings) <= set(_rights(client))

    wait_until(are_known, "the broker knows the rights")


def revoke_everything(guarded: GuardedKafka) -> None:
    """Delete every ACL of the broker."""
    client = guarded.admin()
    for future in client.delete_acls([_every_right()]).values():
        future.result(PATIENCE_SECONDS)

    def are_gone() -> bool:
        return _rights(client) == []

    wait_until(are_gone, "the broker knows no rights")


def _every_right() -> Any:
    """Return a filter that matches every ACL."""
    # By the client's types, no name may be None.
    matching: Any = admin_api.AclBindingFilter
    return matching(
        admin_api.ResourceType.ANY,
        None,
        admin_api.ResourcePatternType.ANY,
        None,
        None,
        admin_api.AclOperation.ANY,
        admin_api.AclPermissionType.ANY,
    )


def _rights(client: admin_api.AdminClient) -> list[admin_api.AclBinding]:
    """Return the ACLs as the broker that decides by them has them.

    Kafka confirms a change of ACLs before the broker has it.
    """
    found: list[admin_api.AclBinding] = client.describe_acls(_every_right()).result(
        PATIENCE_SECONDS
    )
    return found


def _issue(
    folder: Path,
    authority: trustme.CA,
    name: str,
    password: str = "",
    until: datetime | None = None,
) -> Files:
    """Write a certificate for `name`, and its key in PKCS #8 with the certificate."""
    folder.mkdir()
    common_name, _, _ = name.partition("@")
    issued = authority.issue_cert(name, common_name=common_name, not_after=until)
    encryption: KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password.encode())

    # Kafka reads keys in PKCS #8 only, and trustme writes another form.
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    certificate = b"".join(blob.bytes() for blob in issued.cert_chain_pems)

    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    (folder / "certificate.pem").write_bytes(certificate)
    # Kafka's PEM key store is one file with the key and its certificate.
    (folder / "key.pem").write_bytes(pem + certificate)
    return Files(
        authority=str(folder / "authority.pem"),
        certificate=str(folder / "certificate.pem"),
        key=str(folder / "key.pem"),
    )
