"""Pages about a run and its data, offline in one file each.

In: the tables, logs and summaries of every stage. Out: `summary.json`, `report.html`, `data.html`.

    stage       report.html of a finished run (`results`: what it reads; `packing`: its plan again)
    accounting  the figures of summary.json, added up and checked
    data        data.html of a run's data (`content`: its other half)
    dataset     what that reads, as columns
    spread      histograms, and examples at quantiles (`words`: of captions; `sources`, `fill`: shares)
    chosen      the clips that are shown
    thumbnails  their pictures, by Ray
    charts      plots of both, as SVG (`page`: their HTML)
"""
