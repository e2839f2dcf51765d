"""Clips become latent shards: what the model trains on, at (near) native size.

In: the clip table `clips/*.parquet` (clips.table.CLIPS) and the videos its rows point to.
Out: the folder `latents/<fingerprint>/`, where the fingerprint names everything that shapes a latent:

    shard-*.parquet     records.LATENTS: samples' rows of the index, latents and text states as bf16 bytes
    drops.parquet       records.DROPS: clips without a sample, and why
    encode.json         the settings, mean and std of the latents' channels, the text states' width
    texts/              while the stage runs: the states of captions that several shards need, a file each
    index.parquet       records.SAMPLES: all that planning needs; committed last, it makes the rest visible

In the order the data flows:

    settings        what can be set
    buckets         the size each clip is trained at
    suggest         a table of buckets that keeps the most (`bucket_facts`: what it keeps)
    plan            tasks, and the shard each goes to, all shards of about equal work
    fingerprint     the folder's name
    strides         a codec's strides, which planning needs without the codec
    published       folders of weights, as diffusers and transformers write them (`machine`: copies of them)
    autoencoders    pretrained ones: their folders, and how frames stream through them
    codecs          frames to latents and back (`dct`, `diffusers`; `tiles`: of large frames)
    text            captions to token states (`minilm`; `hf`: T5 and UMT5)
    captions        the states of captions, each computed once for all shards
    frames          one shard's clips, decoded once for all their sizes
    samples         an encoded clip: as training takes it, as a shard holds it
    encoder         one shard: frames and captions to a committed file
    shards          the files: written here, read by the feed
    notes_on        notes about clips and captions that were cut
    stage           all of it on Ray Data
    verify          whether shards are still what was written
"""
