"""The settings of decoding in, checked; no torch here, as the command line makes its flags from them."""

from dataclasses import dataclass

from lucidlm.errors import ConfigError
from lucidlm.runtime.ranges import Range, check_ranges, is_whole

# float32 cannot divide by a smaller temperature. A larger one gives the same uniform distribution.
TEMPERATURES = Range(1e-9, 1e6)
RANGES = {
    "top_p": Range(0, 1, without_least=True),
    "min_p": Range(0, 1),
    # Beyond these limits the distribution does not change any more, and a logit times the penalty overflows.
    "repetition_penalty": Range(1e-3, 1e3),
}
MOST_NEW_TOKENS = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How text is generated: how the next token is chosen, and where the text ends."""

    max_new_tokens: int = 200
    """Maximum number of tokens to generate."""
    temperature: float = 0.8
    """1 keeps the model's probabilities; above 1 is more random, below 1 less; 0 takes the likeliest."""
    top_k: int | None = None
    """Sample from the k likeliest tokens."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together have this probability (nucleus sampling); 1: all."""
    min_p: float = 0.0
    """Sample from tokens with at least this share of the likeliest token's probability."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that the text already has become less likely."""
    stop: tuple[str, ...] = ()
    """End before this string; may be given several times."""

    def __post_init__(self) -> None:
        """ConfigError for a value out of its range. One stop string may be given as a str."""
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if not is_whole(self.max_new_tokens, least=0, most=MOST_NEW_TOKENS):
            raise ConfigError(
                f"--max-new-tokens {self.max_new_tokens}: it must be a whole number from 0 to "
                f"{MOST_NEW_TOKENS:,}; for more, give the text as the next prompt"
            )
        if self.temperature != 0 and self.temperature not in TEMPERATURES:
            raise ConfigError(
                f"--temperature {self.temperature}: it must be 0 (the likeliest token), or {TEMPERATURES}"
            )
        if self.top_k is not None and not is_whole(self.top_k, least=1):
            raise ConfigError(
                f"--top-k {self.top_k}: it must be a whole number of at least 1; leave it out for all tokens"
            )
        check_ranges(self, RANGES)
        if "" in self.stop:
            raise ConfigError('--stop "": every text contains it; leave it out')
