"""`vitascope serve`: the app on one machine."""

import socket
import threading
from contextlib import suppress

from ray import serve

from vitascope.api import app
from vitascope.api.store.objects import Objects
from vitascope.cluster.local import check_room, connect
from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.generate.app import serving
from vitascope.generate.tracing import tracing
from vitascope.progress import say
from vitascope.stages import resources

_NAME = "vitascope-serve"


def run(settings: Settings) -> None:
    """Serves until this process is interrupted. What is not finished by then goes on at the next start.

    Raises:
        Mistake: the port is taken, or the machine is too small.
        Failed: a replica cannot start; says why.
    """
    own = settings.serve
    _check_free(own.host, own.port)
    connect(settings.cluster)
    takes, cpus = resources.of_generation(settings), app.CPUS * (1 + own.replicas)
    check_room(settings.cluster, f"the service's {takes.processes}", cpus=takes.cpus + cpus, gpus=takes.gpus)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": own.host, "port": own.port},
        logging_config=serving.QUIET,
        tracing_config=tracing(settings.generate),
    )
    try:
        serving.run(app.service(settings), _NAME, "/")
        for line in _lines(settings):
            say("serve", line)
        threading.Event().wait()
    finally:
        serving.remove_at_once(_NAME)


def _lines(settings: Settings) -> list[str]:
    """What a user has to know."""
    host, port = settings.serve.host, settings.serve.port
    return [
        f"http://{app.address(host, port)}/v1 answers OpenAI's clients, and /docs describes it",
        f"it keeps all in {Objects.of(settings).root}",
        "make a key: vitascope keys add --name NAME, with the same settings; the cluster's token "
        "(~/.ray/auth_token) is a key that sees everything",
    ]


def _check_free(host: str, port: int) -> None:
    with (
        suppress(socket.gaierror),
        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe,
    ):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Mistake(
                f"nothing can listen on {host}:{port} ({error.strerror}); set serve.port or serve.host"
            ) from error
