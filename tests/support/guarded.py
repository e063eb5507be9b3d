"""A broker that asks who comes: SCRAM over TLS, certificates on both sides, ACLs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import confluent_kafka.admin as admin_api
import trustme
from cryptography.hazmat.primitives import serialization

from connector.devkit.java import LOOPBACK, free_port
from connector.devkit.local_kafka import LocalKafka

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.serialization import KeySerializationEncryption

USER = "gex"
PASSWORD = "scram-pass-7f3a9c"
KEY_PASSWORD = "key-pass-51d2e8"


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of PEM files: who is trusted, and a certificate with its key, encrypted with KEY_PASSWORD."""

    authority: str
    certificate: str
    key: str


class GuardedKafka:
    """Listens at `scram` (SASL_SSL) and `mutual` (SSL, certificate required); at its own address all is allowed to all.

    Its certificate is for 127.0.0.1, and not for localhost. The principal of a certificate is its common name.
    """

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        server = _written(folder / "server", authority, LOOPBACK)
        self.files = _written(
            folder / "client", authority, f"{USER}@client.test", KEY_PASSWORD
        )
        self.stranger = _written(
            folder / "stranger", trustme.CA(), f"{USER}@client.test", KEY_PASSWORD
        )
        ports = {
            name: free_port() for name in ("CLIENT", "SCRAM", "MUTUAL", "CONTROLLER")
        }
        addresses = {name: f"{LOOPBACK}:{port}" for name, port in ports.items()}
        self.scram, self.mutual = addresses["SCRAM"], addresses["MUTUAL"]
        extra = {
            "listeners": ",".join(
                f"{name}://{address}" for name, address in addresses.items()
            ),
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,SCRAM:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT",
            "controller.quorum.voters": f"1@{addresses['CONTROLLER']}",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.scram.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.mutual.ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": server.key,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": server.authority,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
        self.broker = LocalKafka(folder / "broker", port=ports["CLIENT"], extra=extra)

    def admit(self) -> None:
        """Make the user known, once the broker runs."""
        mechanism = admin_api.ScramCredentialInfo(
            admin_api.ScramMechanism.SCRAM_SHA_512, 4096
        )
        credential = admin_api.UserScramCredentialUpsertion(
            USER, mechanism, PASSWORD.encode()
        )
        admin = self.admin()
        for future in admin.alter_user_scram_credentials([credential]).values():
            future.result(30)

    def admin(self) -> admin_api.AdminClient:
        """Of one who may do everything."""
        return admin_api.AdminClient(
            {"bootstrap.servers": self.broker.bootstrap_servers}
        )

    def by_password(self) -> dict[str, str]:
        """A worker's variables."""
        return {
            "GEX_KAFKA__BOOTSTRAP_SERVERS": self.scram,
            "GEX_KAFKA__CLIENT__SECURITY_PROTOCOL": "SASL_SSL",
            "GEX_KAFKA__CLIENT__SASL_MECHANISM": "SCRAM-SHA-512",
            "GEX_KAFKA__CLIENT__SASL_USERNAME": USER,
            "GEX_KAFKA__CLIENT__SASL_PASSWORD": PASSWORD,
            "GEX_KAFKA__CLIENT__SSL_CA_LOCATION": self.files.authority,
        }

    def by_certificate(self) -> dict[str, str]:
        """A worker's variables."""
        return {
            "GEX_KAFKA__BOOTSTRAP_SERVERS": self.mutual,
            "GEX_KAFKA__CLIENT__SECURITY_PROTOCOL": "SSL",
            "GEX_KAFKA__CLIENT__SSL_CA_LOCATION": self.files.authority,
            "GEX_KAFKA__CLIENT__SSL_CERTIFICATE_LOCATION": self.files.certificate,
            "GEX_KAFKA__CLIENT__SSL_KEY_LOCATION": self.files.key,
            "GEX_KAFKA__CLIENT__SSL_KEY_PASSWORD": KEY_PASSWORD,
        }


def _written(
    folder: Path, authority: trustme.CA, name: str, password: str = ""
) -> Files:
    """A certificate for a name, its key in the only form Kafka reads (PKCS #8), the certificate after it."""
    folder.mkdir()
    issued = authority.issue_cert(name, common_name=name.partition("@")[0])
    encryption: KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password.encode())
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    certificate = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    files = Files(
        *(str(folder / f"{part}.pem") for part in ("authority", "certificate", "key"))
    )
    authority.cert_pem.write_to_path(files.authority)
    (folder / "certificate.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(pem + certificate)
    return files
