"""The page for Prometheus: every family once, of all nodes."""

from prometheus_client.parser import text_string_to_metric_families

from vitascope.api.measured import gathered, merged

PAGE = """# HELP ray_vitascope_requests_total Requests.
# TYPE ray_vitascope_requests_total counter
ray_vitascope_requests_total{{outcome="ok",node="{node}"}} {n}
# HELP ray_tasks Tasks.
# TYPE ray_tasks gauge
ray_tasks 5
"""


def test_the_metrics_of_all_nodes_are_one_page() -> None:
    text = merged([PAGE.format(node="a", n=2), PAGE.format(node="b", n=3), ""]).decode()
    assert text.count("# TYPE") == 1
    (family,) = text_string_to_metric_families(text)
    assert {sample.labels["node"]: sample.value for sample in family.samples} == {"a": 2, "b": 3}


def test_a_node_that_has_gone_is_left_out() -> None:
    assert gathered(["127.0.0.1:1"]) == b""
