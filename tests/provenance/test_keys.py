"""Keys that the settings name, and the one that a machine makes for itself."""

import io
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from provenance.conftest import claim, sign
from vitascope import config
from vitascope.config import SettingsError
from vitascope.errors import Missing, Mistake
from vitascope.provenance import development, keys, verify
from vitascope.provenance.settings import ProvenanceSettings
from vitascope.provenance.signer import Signer

Save = Callable[..., ProvenanceSettings]
EMAIL = x509.ExtendedKeyUsageOID.EMAIL_PROTECTION
CLAIMS = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
SERVER = x509.ExtendedKeyUsageOID.SERVER_AUTH


def certificate(
    name: str, key: Any, above: tuple[str, Any], *, days: tuple[float, float] = (-1, 9), usage: Any = EMAIL
) -> x509.Certificate:
    issuer, signer = above
    now, ca, of = datetime.now(UTC), key is signer, x509.NameOID
    names = [x509.Name([x509.NameAttribute(of.COMMON_NAME, text)]) for text in (name, issuer)]
    flags = dict.fromkeys(development._USAGES, False) | {"key_cert_sign" if ca else "digital_signature": True}
    builder = (
        x509.CertificateBuilder(*reversed(names), key.public_key(), x509.random_serial_number())
        .not_valid_before(now + timedelta(days[0]))
        .not_valid_after(now + timedelta(days[1]))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(x509.KeyUsage(**flags), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def pem_of(key: Any, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a chain and a key, and gives the settings that name them."""

    def write(chain: bytes, key: bytes, **more: Any) -> ProvenanceSettings:
        for name, content in (("chain.pem", chain), ("key.pem", key)):
            (tmp_path / name).write_bytes(content)
        named = {"certificate": str(tmp_path / "chain.pem"), "private_key": str(tmp_path / "key.pem")}
        return ProvenanceSettings(**named | more)

    return write


AUTHORITY = ec.generate_private_key(ec.SECP256R1())
ROOT = certificate("An authority", AUTHORITY, ("An authority", AUTHORITY))
KEY = ec.generate_private_key(ec.SECP256R1())
LEAF = certificate("A studio", KEY, ("An authority", AUTHORITY))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "P-521", "Ed25519", "RSA"],
)
@pytest.mark.parametrize("usage", [EMAIL, CLAIMS], ids=["e-mail", "claims"])
def test_a_studios_own_key_signs_and_its_authority_vouches(
    save: Save, tmp_path: Path, key: Any, usage: Any
) -> None:
    leaf = certificate("A studio", key, ("An authority", AUTHORITY), usage=usage)
    signer = Signer(save(pem(leaf, ROOT), pem_of(key), required=True))
    content, about = sign(signer, ".png", claim())
    assert about == {"manifest": claim().manifest, "signed_by": "A studio", "key": "configured"}
    (tmp_path / "it.png").write_bytes(content)
    (tmp_path / "root.pem").write_bytes(pem(ROOT))
    verdict = verify.verify(str(tmp_path / "it.png"), [str(tmp_path / "root.pem")])
    assert (verdict.state, verdict.trusted, verdict.signed_by) == ("valid", True, "A studio")
    (tmp_path / "leaf.pem").write_bytes(pem(leaf))
    with pytest.raises(Mistake, match="holds no authority, only A studio"):
        verify.verify(str(tmp_path / "it.png"), [str(tmp_path / "leaf.pem")])


OTHER = ec.generate_private_key(ec.SECP256R1())
OLD = certificate("A studio", KEY, ("An authority", AUTHORITY), days=(-9, -1))
FUTURE = certificate("A studio", KEY, ("An authority", AUTHORITY), days=(1, 9))
WEB = certificate("A studio", KEY, ("An authority", AUTHORITY), usage=SERVER)
SMALL, OTHER_KIND = rsa.generate_private_key(65537, 1024), ed448.Ed448PrivateKey.generate()


@pytest.mark.parametrize(
    ("chain", "key", "why"),
    [
        (pem(LEAF, ROOT), pem_of(KEY, b"secret"), r"key\.pem is encrypted.*openssl pkey"),
        (pem(LEAF, ROOT), pem_of(KEY)[:-80], r"key\.pem holds no private key"),
        (pem(LEAF, ROOT), b"", r"key\.pem holds no private key"),
        (pem(LEAF)[:-80], pem_of(KEY), r"chain\.pem holds no certificate"),
        (pem(LEAF, ROOT), pem_of(OTHER), r"is not the key of the first certificate.*its own key"),
        (pem(ROOT, LEAF), pem_of(KEY), "the signing certificate comes first"),
        (pem(OLD, ROOT), pem_of(KEY), "'A studio' in .* expired on "),
        (pem(FUTURE, ROOT), pem_of(KEY), "is not valid before .* clock"),
        (
            pem(WEB, ROOT),
            pem_of(KEY),
            "C2PA does not accept the certificate 'A studio'.*chain to its authority",
        ),
        (
            pem(certificate("A studio", SMALL, ("An authority", AUTHORITY))),
            pem_of(SMALL),
            "no key that C2PA signs with",
        ),
        (
            pem(certificate("A studio", OTHER_KIND, ("An authority", AUTHORITY))),
            pem_of(OTHER_KIND),
            "no key that C2PA signs with",
        ),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_at_once(save: Save, chain: bytes, key: bytes, why: str) -> None:
    with pytest.raises(Mistake, match=why):
        Signer(save(chain, key))


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere.pem")
    with pytest.raises(Missing, match=r"no file at provenance\.certificate .*nowhere\.pem"):
        Signer(ProvenanceSettings(certificate=nowhere, private_key=nowhere))


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["provenance.required=true"], "refuses the development key"),
        (["provenance.required=true", "provenance.sign=false"], "contradicts"),
        (["provenance.certificate=/a.pem"], "private_key is not; set both"),
        (["provenance.timestamp_url=tsa.example"], "http"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        config.load(None, overrides)


def test_the_development_key_is_made_once_and_is_this_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: development.pem()[0], range(8)))
    assert len(made) == 1
    path = tmp_path / "vitascope" / "provenance" / "development.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["development.pem"]
    other = "from vitascope.provenance import development; print(development.pem()[0].decode(), end='')"
    again = subprocess.run([sys.executable, "-c", other], capture_output=True, check=True, timeout=120)
    assert again.stdout == path.read_bytes()
    found = keys.load(ProvenanceSettings())
    assert "not trusted" in found.signed_by
    path.write_bytes(b"damaged")
    with pytest.raises(Mistake, match=r"development\.pem .delete it, and a new one is made"):
        keys.load(ProvenanceSettings())


def test_a_disk_that_keeps_nothing_does_not_keep_files_from_being_signed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(development.tempfile, "NamedTemporaryFile", full)
    monkeypatch.setattr(development, "cache_folder", lambda _: Path("/nonexistent"))
    assert development.pem() == development.pem()
    content, _ = sign(Signer(ProvenanceSettings()), ".png", claim())
    assert c2pa.Reader("image/png", io.BytesIO(content)).get_validation_state() == "Valid"


def test_a_timestamp_authority_that_does_not_answer_is_an_error_and_no_unsigned_file() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    signer = Signer(ProvenanceSettings(timestamp_url=f"http://127.0.0.1:{port}/"))
    with pytest.raises(c2pa.C2paError, match=f"127.0.0.1:{port}"):
        sign(signer, ".png", claim())
