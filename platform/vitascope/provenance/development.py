"""A signing key that this machine makes for itself."""

import os
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vitascope.encode.machine import cache_folder

NAME = "Vitascope development key, self-made, not trusted"
_VALID = timedelta(days=3650)
_BEFORE = timedelta(days=1)  # a clock may be behind
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def pem() -> tuple[bytes, str]:
    """The machine's key, its certificate and that of its self-made authority, as one PEM file; and its path.

    The first process that needs it makes it; only this user can read it. If the disk cannot keep it, a
    process signs with one of its own.
    """
    path = cache_folder("provenance") / "development.pem"
    with suppress(OSError):
        if not path.exists():
            _keep(path, _made())
        return path.read_bytes(), f"{path} (delete it, and a new one is made)"
    return _unkept(), "memory"


@cache
def _unkept() -> bytes:
    return _made()


def _keep(path: Path, content: bytes) -> None:
    """Writes a file that is never readable for others; an existing one stays."""
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # of mode 0600
        file.write(content)
        file.flush()
        with suppress(FileExistsError):
            os.link(file.name, path)


def _made() -> bytes:
    """A key, its certificate, and the certificate of an authority whose own key is forgotten at once."""
    authority, signer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate(authority, authority, f"{NAME}: authority")
    leaf = _certificate(signer, authority, NAME)
    key = signer.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key + b"".join(one.public_bytes(serialization.Encoding.PEM) for one in (leaf, root))


def _certificate(
    key: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey, name: str
) -> x509.Certificate:
    """A certificate as C2PA's profile demands it (specification 2.1, section 14.5)."""
    is_authority, now = key is authority, datetime.now(UTC)
    usage = "key_cert_sign" if is_authority else "digital_signature"
    above = f"{NAME}: authority"
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(above))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), critical=True)
        .add_extension(x509.KeyUsage(**{each: each == usage for each in _USAGES}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
    )
    if not is_authority:
        purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(authority, hashes.SHA256())


def _named(common: str) -> x509.Name:
    of = [(x509.NameOID.ORGANIZATION_NAME, NAME), (x509.NameOID.COMMON_NAME, common)]
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in of])
