"""Settings of provenance."""

from pydantic import Field, model_validator

from vitascope.section import Location, Section


class ProvenanceSettings(Section):
    """The signatures of generated files."""

    sign: bool = Field(True, description="Sign every mp4 and png with a C2PA manifest.")
    certificate: Location | None = Field(
        None,
        description="PEM file of the signing certificate, then those that lead to its authority. Without it, "
        "each machine signs with a development key of its own, which nobody trusts.",
    )
    private_key: Location | None = Field(
        None, description="PEM file of the certificate's private key, without a passphrase."
    )
    timestamp_url: str | None = Field(
        None,
        pattern=r"^https?://[^@\s]+$",
        description="Timestamp authority (RFC 3161) to ask for each file, http:// or https://, so that "
        "signatures outlive the certificate; by default none, and no network is used.",
    )
    required: bool = Field(
        False, description="Refuse to work without a certificate and a private key: no file is unsigned."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> "ProvenanceSettings":
        given = [key for key in ("certificate", "private_key") if getattr(self, key)]
        if len(given) == 1:
            missing = {"certificate": "private_key", "private_key": "certificate"}[given[0]]
            raise ValueError(f"{given[0]} is set, and {missing} is not; set both, or neither")
        if self.required and not self.sign:
            raise ValueError("required = true contradicts sign = false; leave one of them out")
        if self.required and not given:
            raise ValueError("required = true refuses the development key; set certificate and private_key")
        return self
