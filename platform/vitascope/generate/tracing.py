"""The destination of a traced request's spans."""

import importlib
from typing import Any

from ray.serve.schema import TracingConfig

from vitascope.errors import Mistake
from vitascope.generate.settings import GenerateSettings

_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def tracing(settings: GenerateSettings) -> TracingConfig:
    """Serve's tracing of requests: to files next to its logs, or to a collector (OpenTelemetry).

    Raises:
        Mistake: the exporter is not installed.
    """
    if settings.traces == "otlp":
        _check_installed()
    return TracingConfig(
        enabled=settings.traces != "off",
        exporter_import_path=f"{__name__}:otlp" if settings.traces == "otlp" else "",
        sampling_ratio=settings.traced_share,
    )


def _check_installed() -> None:
    try:
        importlib.import_module(_EXPORTER)
    except ImportError:
        raise Mistake("generate.traces = 'otlp' needs an exporter; pip install 'vitascope[traces]'") from None


def otlp() -> list[Any]:
    """Exports to a collector at OTEL_EXPORTER_OTLP_ENDPOINT; called by Serve in every replica.

    In batches: an unavailable collector delays no request. Spans of a replica's last half second may be lost.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=500)]
