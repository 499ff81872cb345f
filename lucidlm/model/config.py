"""What a GPT is made of: a frozen configuration, checked on construction."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lucidlm.errors import ConfigError

DERIVED: Any = None
"""Default of a field that is derived from others. Any, because a finished config has the field's type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTConfig:
    """The shape of a GPT, in the course's names. Fields that are None are derived from the rest.

    >>> config = GPTConfig(family="modern", vocab_size=257, emb_dim=128, n_layers=4, n_heads=2)
    >>> config.head_dim, config.hidden_dim, config.n_parameters
    (64, 384, 919424)
    >>> config.changed(emb_dim=256).head_dim
    128
    """

    family: Literal["gpt2", "modern"] = "gpt2"
    """gpt2: learned positions, LayerNorm, GELU. modern (Qwen3, Llama): RoPE, RMSNorm, SwiGLU, no bias."""
    vocab_size: int = 50257
    context_length: int = 256
    emb_dim: int = 768
    n_layers: int = 12
    n_heads: int = 12
    n_kv_heads: int = DERIVED
    """Heads of keys and values: each serves n_heads / n_kv_heads queries (modern only; default: n_heads)."""
    head_dim: int = DERIVED
    """Channels of one head (default: emb_dim / n_heads)."""
    qk_norm: bool = DERIVED
    """Norm of queries and keys (modern only, where it is the default: Qwen3; without it: Llama)."""
    hidden_dim: int = DERIVED
    """Width inside the feed-forward (default: 4 emb_dim; modern: 8/3 emb_dim, up to a multiple of 64)."""
    drop_rate: float = 0.0
    qkv_bias: bool = False
    tied_head: bool = False
    """The output head shares the matrix of the token embedding."""
    rope_theta: float = 10_000.0
    norm_eps: float = DERIVED
    init: Literal["torch", "scaled"] = "scaled"
    """torch: PyTorch's defaults, as in the course. scaled: GPT-2's, small normal numbers."""
    document_prefix_id: int | None = None
    """The id before each document in training, if any: with it, a text's first token can be scored too."""

    def __post_init__(self) -> None:
        modern = self.family == "modern"
        _check_counts(self, "emb_dim", "n_heads")
        _derive(self, "n_kv_heads", self.n_heads)
        _derive(self, "head_dim", self.emb_dim // self.n_heads)
        _derive(self, "qk_norm", modern)
        _derive(self, "hidden_dim", -(-8 * self.emb_dim // (3 * 64)) * 64 if modern else 4 * self.emb_dim)
        _derive(self, "norm_eps", 1e-6 if modern else 1e-5)
        _check(self)

    @property
    def n_parameters(self) -> int:
        """Number of weights, counted from the shape alone; a test compares it with the model."""
        width, inner = self.emb_dim, self.n_heads * self.head_dim
        inner_kv = self.n_kv_heads * self.head_dim
        embedding = self.vocab_size * width
        head = 0 if self.tied_head else embedding
        if self.family == "modern":
            attention = width * (2 * inner + 2 * inner_kv) + (2 * self.head_dim if self.qk_norm else 0)
            block = attention + 3 * width * self.hidden_dim + 2 * width
            return embedding + head + self.n_layers * block + width
        attention = width * 3 * inner + (3 * inner if self.qkv_bias else 0) + inner * width + width
        feed_forward = 2 * width * self.hidden_dim + self.hidden_dim + width
        positions = self.context_length * width
        return (
            embedding + head + positions + self.n_layers * (attention + feed_forward + 4 * width) + 2 * width
        )

    @property
    def matmul_parameters(self) -> int:
        """Weights that every token is multiplied with: all but the embeddings, which are looked up."""
        looked_up = self.vocab_size * self.emb_dim if not self.tied_head else 0
        positions = self.context_length * self.emb_dim if self.family == "gpt2" else 0
        return self.n_parameters - looked_up - positions

    def flops_per_token(self, context_length: int | None = None) -> int:
        """Floating-point operations to train on one token, forward and backward.

        6 for each weight of a matmul (2 forward, 4 backward), and 12 C for each earlier token and layer for
        attention's two matmuls (Chowdhery 2022, appendix B), halved, as the mask leaves half of the pairs.
        """
        context = context_length or self.context_length
        return 6 * self.matmul_parameters + 6 * self.n_layers * self.n_heads * self.head_dim * context

    def changed(self, **changes: Any) -> "GPTConfig":
        """This configuration with other values. Fields that follow width and heads are derived again."""
        follows: tuple[str, ...] = ()
        if {"emb_dim", "n_heads"} & changes.keys():
            follows = ("n_kv_heads", "head_dim", "hidden_dim")
        if changes.get("family", self.family) != self.family:
            follows = ("n_kv_heads", "head_dim", "qk_norm", "hidden_dim", "norm_eps")
        return replace(self, **dict.fromkeys(follows) | changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for TOML and JSON."""
        return asdict(self)


def _derive(config: GPTConfig, field: str, value: float) -> None:
    if getattr(config, field) is None:
        object.__setattr__(config, field, value)  # frozen; completed here and nowhere else


def _check_counts(config: GPTConfig, *fields: str) -> None:
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{field} is {value!r}; it must be a whole number of at least 1")


def _check(config: GPTConfig) -> None:
    for field, known in (("family", ("gpt2", "modern")), ("init", ("torch", "scaled"))):
        if getattr(config, field) not in known:
            raise ConfigError(f"{field} is {getattr(config, field)!r}; there are {' and '.join(known)}")
    _check_counts(config, "vocab_size", "context_length", "n_layers", "n_kv_heads", "head_dim", "hidden_dim")
    for field in ("rope_theta", "norm_eps"):
        if not 0 < getattr(config, field) < float("inf"):
            raise ConfigError(f"{field} is {getattr(config, field)}; it must be more than 0")
    if config.init == "torch" and config.tied_head:
        raise ConfigError(
            "init torch draws embeddings of size 1, far too large for a head that is tied to them; "
            "choose init scaled or an untied head"
        )
    prefix = config.document_prefix_id
    if prefix is not None and (type(prefix) is not int or not 0 <= prefix < config.vocab_size):
        raise ConfigError(
            f"document_prefix_id is {prefix!r:.80}; it must be an id of the vocabulary, less than "
            f"{config.vocab_size:,}"
        )
    if not 0 <= config.drop_rate < 1:
        raise ConfigError(f"drop_rate is {config.drop_rate}; it must be at least 0 and under 1")
    if config.n_heads % config.n_kv_heads:
        raise ConfigError(
            f"n_heads {config.n_heads} is not a multiple of n_kv_heads {config.n_kv_heads}; "
            "each head of keys serves the same number of queries"
        )
    if config.family == "gpt2":
        if config.n_heads * config.head_dim != config.emb_dim:
            raise ConfigError(
                f"emb_dim {config.emb_dim} is not n_heads {config.n_heads} x head_dim {config.head_dim}; "
                "GPT-2 needs that: choose an emb_dim that n_heads divides"
            )
        if config.n_kv_heads != config.n_heads:
            raise ConfigError(f"n_kv_heads {config.n_kv_heads}: grouped heads need the family modern")
        if config.qk_norm:
            raise ConfigError("qk_norm is a field of the family modern; GPT-2 norms no queries and keys")
    else:
        if config.head_dim % 2:
            raise ConfigError(
                f"head_dim is {config.head_dim}; rotary positions turn pairs, so it must be even"
            )
        if config.qkv_bias:
            raise ConfigError("qkv_bias is a field of the family gpt2; the modern family has no bias")
