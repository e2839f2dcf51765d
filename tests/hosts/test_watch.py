"""The record of a cluster's nodes: reading it, and what follows from it."""

import json
from dataclasses import asdict

from hosts.watch import Node, Sample, lives, most, read


def node(name: str, kind: str, start_s: float, end_s: float | None = None) -> Node:
    why = "" if end_s is None else "idle"
    return Node(name, kind, "10.0.0.1", end_s is None, start_s, end_s, why)


def sample(time_s: float, *nodes: Node) -> Sample:
    return Sample(time_s, (node("h", "head", 0), *nodes))


HISTORY = [
    sample(1, node("a", "decode", 1)),
    sample(5, node("a", "decode", 1), node("b", "decode", 2, 4)),  # came and went between two samples
    sample(9, node("a", "decode", 1, 6), node("b", "decode", 2, 4), node("c", "train", 6)),
]


def test_every_worker_is_known_with_its_whole_life() -> None:
    assert [(n.node_id, n.start_s, n.end_s) for n in lives(HISTORY)] == [
        ("a", 1, 6),
        ("b", 2, 4),
        ("c", 6, None),
    ]


def test_the_most_at_a_time_counts_short_lives_and_not_the_head() -> None:
    assert most(HISTORY) == 2
    assert most(HISTORY, "decode") == 2
    assert most(HISTORY, "train") == 1
    assert most(HISTORY, "generate") == 0
    assert most(HISTORY[2:3]) == 2  # "c" comes as "a" goes: they are not counted together


def test_a_sample_tells_the_living_from_the_dead() -> None:
    assert [n.node_id for n in HISTORY[-1].alive] == ["h", "c"]
    assert [n.node_id for n in HISTORY[-1].workers] == ["c"]


def test_half_written_lines_and_failed_questions_are_no_samples() -> None:
    documents = [{"time_s": s.time_s, "nodes": [asdict(n) for n in s.nodes]} for s in HISTORY]
    asked = [{"time_s": 0, "error": "refused"}, *documents]
    lines = [json.dumps(document).encode() + b"\n" for document in asked]
    assert read([*lines, b'{"time_s": 10, "nod']) == HISTORY
