"""The signing key and its certificates."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from vitascope import storage
from vitascope.errors import Missing, Mistake
from vitascope.provenance import development
from vitascope.provenance.settings import ProvenanceSettings

_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_LEAST_RSA_BITS = 2048


@dataclass(frozen=True)
class Keys:
    """A private key and its certificate chain, both PEM; `algorithm` as C2PA names it.

    signed_by: the subject of the certificate. made_here: it is a development key.
    """

    chain: bytes
    private_key: bytes
    algorithm: str
    signed_by: str
    made_here: bool


def load(settings: ProvenanceSettings) -> Keys:
    """The key that the settings name, or this machine's development key.

    Raises:
        Missing: a file does not exist.
        Mistake: a file is damaged, encrypted or expired, or key and certificate do not belong together.
    """
    if settings.certificate is None or settings.private_key is None:
        content, where = development.pem()
        return _keys((content, where), (content, where), made_here=True)
    chain = _read(settings.certificate, "provenance.certificate")
    return _keys(chain, _read(settings.private_key, "provenance.private_key"), made_here=False)


def certificates(content: bytes, where: str) -> list[x509.Certificate]:
    """The certificates in a PEM file.

    Raises:
        Mistake: there is none, or one is damaged.
    """
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise Mistake(f"{where} holds no certificate that can be read ({error}); give a PEM file") from None


def subject(name: x509.Name) -> str:
    """A name in a certificate, for a reader: its common name, or whatever it has."""
    common = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(common[0].value) if common else name.rfc4514_string()


def _read(uri: str, setting: str) -> tuple[bytes, str]:
    where = f"{setting} {uri}"
    try:
        return storage.read_bytes(uri), where
    except FileNotFoundError:
        raise Missing(f"no file at {where}; set it to a PEM file that every replica can read") from None


def _keys(chain: tuple[bytes, str], private: tuple[bytes, str], *, made_here: bool) -> Keys:
    found = certificates(*chain)
    key = _private_key(*private)
    if _public(key.public_key()) != _public(found[0].public_key()):
        of_others = any(_public(key.public_key()) == _public(one.public_key()) for one in found[1:])
        order = "the signing certificate comes first in the file" if of_others else "give its own key"
        raise Mistake(f"{private[1]} is not the key of the first certificate in {chain[1]}; {order}")
    for certificate in found:
        _check_dates(certificate, chain[1])
    pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in found)
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Keys(pem, plain, _algorithm(key, private[1]), subject(found[0].subject), made_here)


def _private_key(content: bytes, where: str) -> Any:
    try:
        return serialization.load_pem_private_key(content, None)
    except TypeError:
        raise Mistake(
            f"{where} is encrypted, and nobody can be asked for its passphrase here; write it without one: "
            "openssl pkey -in KEY -out PLAIN, and protect the file"
        ) from None
    except Exception as error:  # several types, which depend on the damage
        raise Mistake(f"{where} holds no private key that can be read ({error}); give a PEM file") from None


def _public(key: Any) -> bytes:
    return bytes(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def _check_dates(certificate: x509.Certificate, where: str) -> None:
    now, name = datetime.now(UTC), subject(certificate.subject)
    if now > certificate.not_valid_after_utc:
        ended = f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        raise Mistake(f"the certificate {name!r} in {where} {ended}; give a current one")
    if now < certificate.not_valid_before_utc:
        begins = f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise Mistake(f"the certificate {name!r} in {where} {begins}; check this machine's clock")


def _algorithm(key: Any, where: str) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _LEAST_RSA_BITS:
        return "ps256"
    raise Mistake(
        f"{where} is no key that C2PA signs with; expected ECDSA on P-256, P-384 or P-521, Ed25519, or "
        f"RSA of at least {_LEAST_RSA_BITS} bits"
    )
