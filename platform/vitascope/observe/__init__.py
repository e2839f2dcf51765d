"""Metrics, and pages about runs and their data.

In: the tables and summaries of every stage. Out: live metrics, `summary.json`, `report.html`, `data.html`.

    metrics     every metric declared once, published through Ray
    accounting  the figures of summary.json, added up and checked
    report      one HTML file of a finished run (`results`: what it reads; `packing`: its plan again)
    data        one HTML file of a run's data (`content`: its other half)
    dataset     what that reads, as columns
    spread      histograms, and examples at quantiles (`words`: of captions; `sources`, `fill`: shares)
    chosen      the clips that are shown
    thumbnails  their pictures, by Ray
    charts      plots of both, as SVG (`page`: their HTML)
    grafana     brings the dashboards into a Grafana server
"""
