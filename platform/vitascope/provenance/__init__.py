"""Provenance: every mp4 and png says, signed, that it is generated, by which model, and from what.

    settings      whether files are signed, and with which key
    keys          the key and its certificates, read and checked
    development   a key that this machine makes for itself
    signer        a C2PA manifest in a file
    form          bytes that C2PA's own hashes do not cover
    verify        what a file claims, and whether it was altered

In: the bytes of a finished file, and a `signer.Claim`. Out: the same file with a C2PA manifest, whose
assertion `org.vitascope.generation` holds hashes of model, request and inputs, the seed and the time; no
prompt, name or path. `c2pa-python` writes and reads manifests; nothing is fetched from the network, unless
the settings name a timestamp authority.
"""
