"""What tests share: tiny shapes of each family, models of them, a byte tokenizer and made-up texts."""

import importlib.resources
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lucidlm.measure.ngrams import Order, fit_orders, nats_of_documents
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes()
"""256 bytes and end-of-text, whose id is 256."""
END_OF_TEXT = 256

WORDS = [
    "the",
    "river",
    "ran",
    "past",
    "a",
    "house",
    "and",
    "nobody",
    "knew",
    "why",
    "it",
    "was",
    "late",
    "she",
    "said",
]
STORY = (
    "The old clock-maker wound each of his clocks at dusk; one night, none of them would stop. Who knew why?"
)
BUNDLED_STORY = (importlib.resources.files("lucidlm.text") / "assets" / "story.txt").read_text(
    encoding="utf-8"
)
"""The text that the package brings."""
FOREIGN = "Größe, 猫と犬, «naïve» 🙂: ça va\nвполне\t— 終"
"""Characters of one to four bytes."""


def shape(**fields: Any) -> GPTConfig:
    """The smallest shape that tests need: one layer of 16 channels and 2 heads on bytes, context 16."""
    sizes = {"vocab_size": 257, "context_length": 16, "emb_dim": 16, "n_layers": 1, "n_heads": 2}
    return GPTConfig(**(sizes | fields))


TINY = {
    "gpt2": shape(context_length=64, emb_dim=64, n_layers=2, n_heads=4, qkv_bias=True, tied_head=True),
    "modern": shape(
        family="modern", context_length=64, emb_dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16
    ),
}
"""Each family with its own features: biases and a tied head, or grouped heads and an untied head."""
TWO_LAYERS = {
    "gpt2": shape(emb_dim=32, n_layers=2, qkv_bias=True, tied_head=True),
    "modern": shape(family="modern", emb_dim=32, n_layers=2, n_kv_heads=1),
}
"""Each family with two layers, for `sharp` models."""
SMALLEST = shape(family="modern", n_layers=2, n_kv_heads=1, head_dim=8, hidden_dim=32)
"""A shape that trains in milliseconds."""


def lively(config: GPTConfig, *, seed: int = 0, noise: float = 0.3) -> GPT:
    """A model in eval mode. The noise makes all weights so large that each one shows in the logits."""
    torch.manual_seed(seed)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def sharp(config: GPTConfig, *, prefix_id: int | None = END_OF_TEXT) -> GPT:
    """A model in eval mode. Its matrices are so large that its predictions are far from uniform."""
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = parameter.dim() == 1 and name.endswith("weight")
            parameter.mul_(1 if gain else 6).add_(0.1 * torch.randn_like(parameter))
    model.config = model.config.changed(document_prefix_id=prefix_id)
    return model


def a_model(**fields: Any) -> GPT:
    """A model of two layers with 64 channels and context 64, all of whose weights are random, norms too."""
    return lively(shape(**({"context_length": 64, "emb_dim": 64, "n_layers": 2} | fields)), seed=1, noise=0.1)


MANY_SCRIPTS = (
    "The ferry left at nine, as it always did; nobody's watch agreed. \"We'll see,\" she said.\n\n"
    "  In 1874 the lighthouse burned 1,200 litres of oil a year\tand  gave, on clear nights, 19 miles.\r\n"
    "Größe, naïveté, Москва, 東京の夜, नमस्ते, مرحبا, 👩‍👩‍👧 and \u3000 wide spaces \u00a0.\n"
)
"""Text of several scripts and with many kinds of white space, for tokenizers."""


def made_up_text(*, sentences: int = 60, seed: int = 1, words: int = 9) -> str:
    """Sentences of random words: learnable, and the same everywhere."""
    draw = random.Random(seed)
    return "".join(
        " ".join(draw.choice(WORDS) for _ in range(words)).capitalize() + ".\n" for _ in range(sentences)
    )


@dataclass(frozen=True, slots=True)
class KneserNey:
    """A fitted model, its highest order first."""

    orders: tuple[Order, ...]
    vocab_size: int

    @classmethod
    def fit(
        cls,
        ids: np.ndarray,
        order: int,
        vocab_size: int,
        *,
        start_id: int | None = None,
    ) -> "KneserNey":
        """The model of a stream of ids; see `fit_orders`."""
        orders = fit_orders(ids, order, vocab_size, start_id=start_id)
        return cls(tuple(orders), vocab_size)

    def nats(self, ids: np.ndarray, prefix_id: int | None = None) -> np.ndarray:
        """-ln p of each id of a document given those before it, float64 (len(ids),)."""
        return nats_of_documents(self.orders, [ids], self.vocab_size, prefix_id=prefix_id)
