"""Is it healthy, and what came of it.

In: the tables and summaries of every stage. Out: live metrics, `summary.json`, `report.html`.

    metrics     every metric declared once, published through Ray
    accounting  the figures of summary.json, added up and checked
    charts      the report's plots, as SVG
    report      one HTML file that opens offline
    grafana     brings the dashboards into a Grafana server
"""
