"""Puts a signed C2PA manifest into a file."""

import hashlib
import io
import posixpath
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import IO, Any

import c2pa
import numpy as np

from vitascope import checksum, storage
from vitascope.errors import Mistake
from vitascope.media.mp4 import png_bytes
from vitascope.provenance import form
from vitascope.provenance.keys import Keys, load
from vitascope.provenance.settings import ProvenanceSettings

AGENT = "vitascope"
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_UNKNOWN = "application/octet-stream"
FORMATS = {".mp4": "video/mp4", ".png": "image/png"}
# Purposes of certificates that C2PA knows: e-mail, documents, claims.
_PURPOSES = "1.3.6.1.5.5.7.3.4\n1.3.6.1.5.5.7.3.36\n1.3.6.1.4.1.62558.2.1\n"


@dataclass(frozen=True)
class Claim:
    """What is claimed of an output.

    name: it decides the manifest's id, so that attempts that race agree on it.
    model, request: hashes. adapter: hash and weight of each.
    inputs: the location of each of the media that frames are from, by the request's field.
    """

    name: str
    model: str
    request: str
    seed: int
    adapter: Mapping[str, Any] | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def manifest(self) -> str:
        """The id of the manifest."""
        digest = hashlib.sha256("\x1f".join((self.name, self.model, self.request)).encode()).digest()
        return f"urn:c2pa:{uuid.UUID(bytes=digest[:16], version=4)}"


class Signer:
    """Signs files; or leaves them unchanged, if the settings say so."""

    def __init__(self, settings: ProvenanceSettings) -> None:
        """Reads the key, and signs a picture with it to see whether C2PA accepts it.

        Raises:
            Mistake: the key or its certificate cannot be used; says why.
        """
        self._keys = load(settings) if settings.sign else None
        self._timestamps = settings.timestamp_url
        self._context = context()
        if self._keys:
            self._check(self._keys)

    def write(self, source: IO[bytes], to: IO[bytes], suffix: str, claim: Claim) -> dict[str, str] | None:
        """Writes the signed file `to`, open for reading, too; returns the sidecar's part about it.

        None, and nothing is written, if files are not signed.

        The index of an mp4 stays at its beginning, and no frame changes.

        Raises:
            c2pa.C2paError: the timestamp authority does not answer.
        """
        if self._keys is None:
            return None
        self._write(self._keys, (source, to), FORMATS[suffix], claim)
        kind = "development" if self._keys.made_here else "configured"
        return {"manifest": claim.manifest, "signed_by": self._keys.signed_by, "key": kind}

    def _write(self, keys: Keys, files: tuple[IO[bytes], IO[bytes]], kind: str, claim: Claim) -> None:
        inputs = {role: checksum.digest(uri) for role, uri in claim.inputs.items()}
        builder = partial(self._builder, _definition(claim, inputs, form.left_out(files[0])), claim.inputs)
        info = c2pa.C2paSignerInfo(keys.algorithm, keys.chain, keys.private_key, self._timestamps)
        with c2pa.Signer.from_info(info) as signer:
            try:
                _embed(builder(), signer, kind, files)
            except c2pa.C2paError.Verify:  # one manifest is in two of the inputs, signed at different times
                if not inputs:
                    raise
                _embed(builder(chains=False), signer, kind, files)

    def _builder(
        self, definition: dict[str, Any], inputs: Mapping[str, str], *, chains: bool = True
    ) -> c2pa.Builder:
        """A builder of the manifest; `chains`: with the manifests that the inputs hold."""
        builder = c2pa.Builder(definition, self._context)
        for role, uri in inputs.items():
            if not (chains and _added(builder, role, uri)):
                builder.add_ingredient(_ingredient(role), _UNKNOWN, io.BytesIO())
        return builder

    def _check(self, keys: Keys) -> None:
        timestamps, self._timestamps = self._timestamps, None  # it is asked for outputs only
        dot = io.BytesIO(png_bytes(np.zeros((1, 1, 3), np.uint8)))
        try:
            self._write(keys, (dot, io.BytesIO()), FORMATS[".png"], Claim("", "", "", 0))
        except c2pa.C2paError as error:
            raise Mistake(
                f"C2PA does not accept the certificate {keys.signed_by!r}: {' '.join(str(error).split())}; "
                "provenance.certificate needs one for signing claims, documents or e-mail, and the chain to "
                "its authority"
            ) from None
        self._timestamps = timestamps


def context(anchors: str = "") -> c2pa.Context:
    """C2PA's library without network access and thumbnails; `anchors`: PEM of authorities to trust."""
    trust = {"trust_config": _PURPOSES} | ({"user_anchors": anchors} if anchors else {})
    settings = {
        "trust": trust,
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
        "builder": {"thumbnail": {"enabled": False}},
    }
    return c2pa.Context(c2pa.Settings.from_dict(settings))


def _definition(claim: Claim, inputs: Mapping[str, str], left_out: str) -> dict[str, Any]:
    agent, now = {"name": AGENT, "version": version(AGENT)}, datetime.now(UTC).isoformat(timespec="seconds")
    created = {"action": "c2pa.created", "when": now, "softwareAgent": agent, "digitalSourceType": GENERATED}
    placed = ({"action": "c2pa.placed", "parameters": {"ingredientIds": [role]}} for role in inputs)
    about = {
        "model": claim.model,
        "request": claim.request,
        "seed": claim.seed,
        "time": now,
        "adapter": claim.adapter and dict(claim.adapter),
        "inputs": [{"role": role, "sha256": digest} for role, digest in inputs.items()],
        "left_out": left_out,
    }
    return {
        "label": claim.manifest,
        "claim_generator_info": [agent],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created, *placed]}, "created": True},
            {"label": form.ASSERTION, "data": about, "created": True},
        ],
    }


def _added(builder: c2pa.Builder, role: str, uri: str) -> bool:
    """Adds one of the media, with the manifests that it holds; False if C2PA cannot read it."""
    kind = posixpath.splitext(uri)[1].removeprefix(".").lower() or _UNKNOWN
    try:
        with storage.open_file(uri) as file:
            builder.add_ingredient(_ingredient(role), kind, file)
    except c2pa.C2paError:
        return False
    return True


def _ingredient(role: str) -> dict[str, str]:
    return {"title": role, "label": role, "instance_id": role, "relationship": "componentOf"}


def _embed(builder: c2pa.Builder, signer: c2pa.Signer, kind: str, files: tuple[IO[bytes], IO[bytes]]) -> None:
    """Writes the first file with the builder's manifest to the second, which is emptied before."""
    source, to = files
    source.seek(0)
    to.seek(0)
    to.truncate()
    with builder:
        builder.sign(signer, kind, source, to)
