import random

import numpy as np
import pytest
import torch

from lucidlm.measure import continuation
from lucidlm.measure.continuation import Continuation, continued_bytes, measure_continuation
from lucidlm.model.config import GPTConfig
from lucidlm.model.decoding import Decoding
from lucidlm.model.generation import generate
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes()
PAIRS = Tokenizer.train(["the old clock of the old clock-maker, the clock and the tower"] * 3, 290)


def prose(length: int, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choice("etaoins") for _ in range(6)) for _ in range(length // 7 + 1))[
        :length
    ]


BOOK, OTHER = prose(12_000, 1), prose(4_000, 2)


class Parrot:
    """Goes on as the text that it knows does after the last `order` ids; with id 0 where it knows none."""

    document_prefix_id, device = None, torch.device("cpu")

    def __init__(self, ids, *, order=8, context_length=64, vocab_size=257):
        self.vocab_size, self.context_length, self.order = vocab_size, context_length, order
        self.next = {tuple(ids[i : i + order]): ids[i + order] for i in range(len(ids) - order)}

    def hidden(self, inputs):
        chosen = [
            [self.next.get(tuple(row[max(0, end - self.order) : end]), 0) for end in range(1, len(row) + 1)]
            for row in inputs.tolist()
        ]
        return torch.nn.functional.one_hot(torch.tensor(chosen), self.vocab_size).float()

    def head(self, hidden):
        return hidden


def ids_of(text, tokenizer=BYTES):
    return np.array(tokenizer.encode(text), np.uint16)


@pytest.mark.parametrize("context_length", [16, 64, 1024])
def test_what_knows_the_training_text_goes_on_with_it_and_not_with_other_text(context_length):
    model = Parrot(ids_of(BOOK).tolist(), context_length=context_length)
    found = measure_continuation(model, BYTES, [ids_of(OTHER)], ids_of(BOOK))
    assert (found.prompts, found.heldout_prompts) == (32, 32)
    assert (found.copied, found.median_bytes) == (31, 100)  # one comes to words that occur twice
    assert (found.heldout_copied, found.heldout_median_bytes) == (0, 0)


def test_a_median_and_a_count_are_of_bytes_that_go_on_verbatim(monkeypatch):
    lengths = iter([0, 49, 50, 100, 3, 60])
    monkeypatch.setattr(continuation, "continued_bytes", lambda *_: [next(lengths) for _ in range(6)])
    monkeypatch.setattr(continuation, "_prompts", lambda *a: [(np.arange(3), 1)] * (4 if a[2] > 5_000 else 2))
    found = measure_continuation(None, BYTES, [ids_of(OTHER)], ids_of(BOOK))
    assert found == Continuation(4, 2, 49.5, 2, 1, 31.5)


@pytest.mark.parametrize("tokenizer", [BYTES, PAIRS], ids=["bytes", "pairs"])
def test_one_pass_gives_what_greedy_decoding_writes(tokenizer):
    torch.manual_seed(0)
    text = "the old clock of the tower and the clock-maker, the old clock " * 4
    ids = ids_of(text, tokenizer)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size + 3, context_length=128, emb_dim=32, n_layers=1, n_heads=2
    )
    model = GPT(config)
    windows = torch.tensor(ids[:121].astype(np.int64))[None]
    for _ in range(40):  # so far that it goes on with some of it, not with all
        loss = torch.nn.functional.cross_entropy(model(windows[:, :-1])[0], windows[0, 1:])
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 3e-3 * parameter.grad.sign()
                parameter.grad = None
    model.eval()
    seen = set()
    for place in range(0, 40, 6):
        prompt = ids[place : place + 40].astype(np.int64), 20
        (found,) = continued_bytes(model, tokenizer, [prompt])
        given, truth = (tokenizer.decode(part) for part in (prompt[0][:20], prompt[0][20:]))
        if tokenizer.encode(given) != prompt[0][:20].tolist():
            continue  # the prompt as text has other tokens
        written = generate(model, tokenizer, given, Decoding(max_new_tokens=20, temperature=0)).text
        equal = next(
            (at for at, (a, b) in enumerate(zip(written, truth)) if a != b), min(len(written), len(truth))
        )
        assert found == equal
        seen.add(found)
    assert len(seen) > 2


def test_a_token_that_begins_as_the_text_does_counts_by_its_equal_bytes():
    ids = np.array(PAIRS.encode("a clock-maker"), np.int64)
    chosen = ids.copy()
    chosen[2:] = PAIRS.encode("zz")[0]
    equal = len(PAIRS.decode(ids[:2]))
    assert continuation._equal_bytes(PAIRS, ids, chosen) == equal
    clock = next(id for id in range(PAIRS.vocab_size) if PAIRS.token_bytes(id) == b" clock")
    text = np.array(PAIRS.encode(" clown"), np.int64)
    assert len(PAIRS.token_bytes(int(text[0]))) < 4
    assert continuation._equal_bytes(PAIRS, text, np.full(len(text), clock)) == 4


def test_prompts_are_spread_and_never_reach_over_the_end_of_a_text():
    joined = np.concatenate(
        [[*ids_of(BOOK[start : start + 180]), BYTES.end_of_text] for start in range(0, 6000, 180)]
    )
    prompts = continuation._prompts(BYTES, joined, len(joined), 32)
    assert len(prompts) > 20
    for ids, given in prompts:
        assert given == 100
        assert 150 <= len(ids) <= 180
        assert BYTES.decode(ids) in BOOK
    again = continuation._prompts(BYTES, joined, len(joined), 32)
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(prompts, again, strict=True))


@pytest.mark.parametrize("tokenizer", [BYTES, PAIRS], ids=["bytes", "pairs"])
def test_a_prompt_spells_a_hundred_bytes_and_its_rest_too(tokenizer):
    ids = ids_of("the old clock of the old clock-maker " * 40, tokenizer)
    for prompt, given in continuation._prompts(tokenizer, ids, len(ids), 8):
        assert 100 <= len(tokenizer.decode(prompt[:given])) < 112
        assert len(tokenizer.decode(prompt[given:])) < 112 or len(prompt) == given


def test_texts_too_short_for_a_prompt_give_none():
    model = Parrot(ids_of(BOOK).tolist())
    assert measure_continuation(model, BYTES, [ids_of(OTHER)], ids_of(BOOK[:140])) is None
    assert measure_continuation(model, BYTES, [], ids_of("")) is None
    found = measure_continuation(model, BYTES, [ids_of(OTHER[:100])], ids_of(BOOK))
    assert (found.prompts, found.heldout_prompts, found.heldout_median_bytes) == (32, 0, 0)
