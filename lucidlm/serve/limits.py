"""The limits of the server in one table, each with its reason; docs/server.md shows the same table."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may ask for, and how long it may take."""

    body_bytes: int = 2**20
    """A body, chunked ones too: more text than any context; it is held in memory."""
    running: int = 32
    """Texts that are worked on at once: each has a row in a cache of keys and values."""
    waiting: int = 64
    """Texts that wait for a place; the next one is refused (429) instead of waiting for minutes."""
    texts: int = 32
    """Prompts times n of one request: a request can use all places, and never more."""
    n: int = 8
    """Completions of one prompt."""
    stop: int = 4
    """Stop strings, as OpenAI has it: each one is searched for at each token."""
    stop_characters: int = 1000
    """Characters of a stop string: that much text may be held back from a stream."""
    logit_bias: int = 300
    """Tokens with a bias, as OpenAI has it."""
    logprobs: int = 20
    """Alternatives of a token: more make an answer large."""
    explain_texts: int = 32
    """Texts of one explanation: they share a batch."""
    idle_s: float = 30.0
    """A client that sends or reads nothing for so long is cut off."""
    total_s: float = 600.0
    """A request may take so long, its answer included; following a run may take as long as the run."""
    unread_bytes: int = 64 * 2**10
    """A stream of which so much waits beyond the socket's own buffer is dropped if its client is idle."""
    unread_s: float = 1.0
    """Idle: the client took nothing for so long. A large part alone does not show that nobody reads."""
    document_bytes: int = 64 * 2**20
    """A text that is uploaded: more than a hundred novels; it lies on the disk."""
    documents: int = 16
    """Uploaded texts that are kept, until the server ends."""
    documents_bytes: int = 256 * 2**20
    """Bytes of all of them."""
    watchers: int = 64
    """Clients that follow runs: each has its part of a look at the disk every second."""
    run_models: int = 8
    """Runs that are served because a page asked for them; the one used least lately goes."""
    stop_s: float = 5.0
    """At the end of the server, running requests get so long to finish."""


LIMITS = Limits()
