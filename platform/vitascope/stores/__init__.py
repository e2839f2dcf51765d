"""Clients of the object stores, which outlast the stores' failures.

`storage` picks the client by the scheme of a location: `s3.Store` or `gs.Store`, each an fsspec filesystem
whose every request goes through `patience.persist`, and which has `create(path, content) -> bool`. To add a
store, add a module named after the scheme, with a `connect()` that returns its client.
"""
