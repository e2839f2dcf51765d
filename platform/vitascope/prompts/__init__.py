"""Prompts: rewritten before they are used, refused if they must not be, and kept in a log.

    settings   whether prompts are rewritten, what is refused, how long the log is kept
    upsample   a prompt in more words, from an endpoint, a local model or a function
    local      a language model of transformers
    words      the short list of what is refused
    screen     prompts and frames that are refused
    audit      who asked for what

Nothing but the list of words is on by default. In: a prompt. Out: the prompt to use, kept in
`<run>/prompts/`, so that a request that is repeated gets the same; or `ledger.Rejected`. The log is in
`<run>/audit/<day>/`.
"""
