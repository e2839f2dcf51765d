"""The table of tars and their members."""

from dataclasses import asdict

import pyarrow as pa

from vitascope.clips.index.catalog import Item
from vitascope.clips.table import Row
from vitascope.media.tars import list_members
from vitascope.wording import count

TARS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("again", pa.bool_(), nullable=False),  # the store failed
        pa.field(
            "members",
            pa.list_(
                pa.struct(
                    [
                        pa.field("name", pa.string(), nullable=False),
                        pa.field("start", pa.int64(), nullable=False),
                        pa.field("size_bytes", pa.int64(), nullable=False),
                    ]
                )
            ),
            nullable=False,
        ),
        pa.field("damage", pa.string()),
        pa.field("passed", pa.map_(pa.string(), pa.int64())),
    ]
)
"""One row a tar: its members, its damage, and the number of skipped members by kind."""


def row(item: Item) -> Row:
    """The row of TARS about a tar."""
    origin = {"name": item.name, "version": item.version}
    try:
        index = list_members(item.uri)
    except OSError as error:
        failure = f"{type(error).__name__}: {error}"
        return origin | {"again": True, "members": [], "damage": failure, "passed": {}}
    damage = index.damage or (None if index.members else "holds no files")
    if damage and index.members:
        damage = f"{damage}; {count(len(index.members), 'file')} in it can be read"
    members = [asdict(member) for member in index.members]
    return origin | {"again": False, "members": members, "damage": damage, "passed": dict(index.passed)}
