"""What logins are made of, made anew for each test: certificates, nkeys, JWTs, a server in operator mode."""

import base64
import binascii
import json
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.embedded.server import Tls

PREFIXES = {"operator": 14 << 3, "account": 0, "user": 20 << 3}


class Authority:
    """A certificate authority; ``file`` is its certificate."""

    def __init__(self, folder, name="ours"):
        self._folder, self._count = folder, 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._build(self._name, self._key.public_key(), days=2)
        certificate = certificate.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, *hosts, days=1):
        """The PEM files of a certificate and its key, for ``hosts`` or, without them, for a client."""
        self._count += 1
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._build(name, key.public_key(), days).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        if hosts:
            names = [x509.IPAddress(ip_address(h)) if h[0].isdigit() else x509.DNSName(h) for h in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        stem = self._folder / f"{self.file.stem}-{self._count}"
        cert, private = stem.with_suffix(".crt"), stem.with_suffix(".key")
        cert.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        private.write_bytes(key.private_bytes(*form))
        return cert, private

    def server(self, *hosts, days=1, verify=False):
        cert, key = self.issue(*(hosts or ("127.0.0.1",)), days=days)
        return Tls(cert, key, self.file if verify else None, verify)

    def _build(self, subject, public_key, days):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=3))
            .not_valid_after(now + timedelta(days=days))
        )


class NKey:
    """A key of an operator, an account or a user: ``public`` and ``seed`` are its text."""

    def __init__(self, kind):
        self._key = Ed25519PrivateKey.generate()
        prefix = PREFIXES[kind]
        self.public = _text(bytes([prefix]) + self._key.public_key().public_bytes_raw())
        self.seed = _text(bytes([18 << 3 | prefix >> 5, (prefix & 31) << 3]) + self._key.private_bytes_raw())

    def jwt(self, subject, kind, *, expires=0, **nats):
        """A JWT about ``subject`` (a key), signed with this one (NATS ADR-14)."""
        claims = {
            "jti": base64.b32encode(subject.public.encode()[:20]).decode(),
            "iat": int(time.time()) - 60,
            "iss": self.public,
            "sub": subject.public,
            "name": kind,
            "nats": {"type": kind, "version": 2, **nats},
        }
        if expires:
            claims["exp"] = expires
        parts = [_base64url(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)]
        return ".".join([*parts, _base64url(self._key.sign(".".join(parts).encode()))])


class Operator:
    """An operator with one account; ``config`` is the server's."""

    def __init__(self, *, connections=-1):
        self.key, self.account = NKey("operator"), NKey("account")
        self._connections = connections
        self.revoked = {}

    def config(self):
        without_limit = ("subs", "data", "payload", "imports", "exports", "leaf", "mem_storage", "disk_storage")
        limits = {**dict.fromkeys(without_limit, -1), "conn": self._connections, "wildcards": True}
        account = self.key.jwt(self.account, "account", limits=limits, revocations=self.revoked)
        preload = f'{{ {self.account.public}: "{account}" }}'
        return f"operator: {self.key.jwt(self.key, 'operator')}\nresolver: MEMORY\nresolver_preload: {preload}"

    def credentials(self, path, *, user=None, expires=0, pub=None):
        """Write a credentials file for a user; returns its path."""
        user = user or NKey("user")
        limits = dict.fromkeys(("subs", "data", "payload"), -1)
        jwt = self.account.jwt(user, "user", expires=expires, pub=pub or {}, sub={}, **limits)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
        return path


def seed_file(path, key):
    path.write_text(key.seed + "\n")
    return path


def _text(raw):
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
