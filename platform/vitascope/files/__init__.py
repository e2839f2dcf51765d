"""Package data: manifests, dashboards, settings of demo and recipes.

    cluster/       base manifests of every cloud      the repository's cluster/
    dashboards/    Grafana's JSON                     the repository's dashboards/json/
    configs/       settings of demo and recipes       the repository's jobs/configs/

In the repository these are links to its top-level folders; in a wheel they are the files themselves.
"""

from pathlib import Path

from vitascope.errors import Missing


def packaged(*parts: str) -> Path:
    """The path of a packaged file or folder, such as `packaged("configs", "demo.toml")`.

    Raises:
        Missing: the installation lacks it.
    """
    path = Path(__file__).parent.joinpath(*parts)
    if not path.exists():
        raise Missing(
            f"{path} is missing from this installation of vitascope; install its wheel, or a whole checkout "
            "of the repository on a disk that keeps symbolic links"
        )
    return path
