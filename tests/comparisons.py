"""What tests of comparisons share: a story of any length, two tokenizers, models with large weights."""

import copy
import random

import torch

from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer

T = 16
BYTES = Tokenizer.bytes()
STORY = (
    "The old clock-maker wound each of his clocks at dusk; one night, none of them would stop. Who knew why? "
    "Größe, 猫と犬 and a naïve 🙂 went by the window. The clocks went on, and on, and on until the morning.\n"
)
PAIRS = Tokenizer.train([STORY * 3], 300)


def longer(times: int) -> str:
    """The story's words in another order each time: pages that are copies of each other have no interval."""
    words = STORY.split()
    return "".join(" ".join(random.Random(n).sample(words, len(words))) + "\n" for n in range(times))


def lively(vocab_size: int, *, seed: int, prefix: int | None) -> GPT:
    torch.manual_seed(seed)
    model = GPT(GPTConfig(vocab_size=vocab_size, context_length=T, emb_dim=16, n_layers=1, n_heads=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.config = model.config.changed(document_prefix_id=prefix)
    return model


def copied(side):
    """The same weights in another object, as a second load gives them."""
    return copy.deepcopy(side[0]), Tokenizer.bytes()
