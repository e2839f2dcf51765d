"""Clients of the object stores, made to outlast their failures.

`storage` picks the client by the scheme of a location: `s3.Store` or `gs.Store`, each an fsspec filesystem
whose every request goes through `patience.persist`, and which has `create(path, content) -> bool`. A store is
added as a module of the scheme's name with a `connect()` that gives its client.
"""
