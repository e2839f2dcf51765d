"""Pages about a run and its data, offline in one file each.

In: the tables, logs and summaries of every stage. Out: `summary.json`, `report.html`, `data.html`.

    dataset     a run, read once, as columns
    stage       report.html of a finished run (`accounting`: the figures of summary.json, checked)
    data        data.html of a run's data (`content`: its figures; `words`: of captions; `sources`: of each)
    fill        how clips fill buckets, and samples packs; as the stages plan them
    spread      histograms, and examples at quantiles
    chosen      the clips that are shown (`thumbnails`: their pictures, by Ray)
    page        HTML from templates/, whose macros are named like a page's parts (`charts`: plots, as SVG)
"""
