"""Writes the dashboards as Grafana's JSON.

python dashboards/build.py [folder]      by default dashboards/json
"""

import sys
from pathlib import Path

from boards import cluster, data, generation, kit, overview, training

BOARDS = [overview.BOARD, data.BOARD, training.BOARD, generation.BOARD, cluster.BOARD]


def main(folder: Path) -> None:
    """Writes every dashboard into `folder`, under its uid."""
    folder.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (folder / f"{board.uid}.json").write_text(kit.render(board))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "json")
