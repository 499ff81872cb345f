"""Decoding: each strategy against arithmetic, the loop against a naive one without a cache."""

import itertools
import math
import random

import pytest
import torch
from models import BYTES, lively, shape
from torch import nn

from lucidlm.errors import ConfigError, DataError, WeightsError
from lucidlm.model.generation import (
    Decoding,
    distribution,
    generate,
    generate_batch,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_token,
    penalise_repetition,
    stream,
)
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer


def a_model(family: str = "gpt2", context: int = 32, vocab_size: int = 257) -> GPT:
    """A model whose greedy text does not repeat one token."""
    config = shape(family=family, vocab_size=vocab_size, context_length=context, emb_dim=32, n_layers=2)
    return lively(config, seed=3, noise=0.25)


class Scripted(nn.Module):
    """A stand-in for a model that says the given bytes one after the other, whatever it is asked."""

    def __init__(self, script: bytes) -> None:
        super().__init__()
        self.config = shape(context_length=64)
        self.script, self.said = script, 0
        self.device = torch.device("cpu")

    def new_cache(self, rows, capacity):
        from lucidlm.model.attention import KVCache

        return KVCache(self.config, rows, device=self.device, dtype=torch.float32)

    def hidden(self, ids, cache):
        cache.advance(ids.shape[1])
        return torch.zeros(*ids.shape, 1)

    def head(self, hidden):
        logits = torch.full((len(hidden), 257), -50.0)
        logits[:, self.script[self.said] if self.said < len(self.script) else 256] = 50.0
        self.said += 1
        return logits


def naive(model: GPT, ids: list[int], count: int) -> list[int]:
    """Greedy without a cache, by the stated policy: when the context is full, its older half is dropped."""
    context, found = model.config.context_length, []
    if len(ids) >= context:
        ids = ids[-(context // 2) :]
    for _ in range(count):
        if len(ids) > context:
            ids = ids[-(context // 2) :]
        with torch.no_grad():
            found.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        ids = [*ids, found[-1]]
    return found


@pytest.mark.parametrize("family", ["gpt2", "modern"])
@pytest.mark.parametrize("length", [1, 5, 31, 32, 33, 80])
def test_greedy_with_the_cache_equals_a_naive_loop_far_beyond_the_context(family, length):
    model = a_model(family)
    prompt = "".join(chr(97 + place % 26) for place in range(length))
    wanted = naive(model, BYTES.encode(prompt), 200)
    wanted = wanted[: wanted.index(256) + 1] if 256 in wanted else wanted
    written = generate(model, BYTES, prompt, max_new_tokens=200, temperature=0)
    assert [token.id for token in written.tokens] == wanted


def test_an_empty_prompt_begins_a_document():
    model = a_model()
    written = generate(model, BYTES, "", max_new_tokens=20, temperature=0)
    wanted = naive(model, [256], 20)
    assert [token.id for token in written.tokens] == wanted[: len(written.tokens)]
    with pytest.raises(DataError, match="empty prompt"):
        generate(a_model(vocab_size=256), BYTES, "", max_new_tokens=1)


def test_a_row_says_the_same_alone_and_in_a_ragged_batch():
    model = a_model("modern")
    prompts = ["a", "the quick brown fox jumps", "x" * 31, "hello there", "y" * 50]
    together = generate_batch(model, BYTES, prompts, num=2, max_new_tokens=60, temperature=1.0, seed=7)
    for prompt, row in zip(prompts, together[::2], strict=True):
        assert generate(model, BYTES, prompt, max_new_tokens=60, temperature=1.0, seed=7).text == row.text
    assert together[0].text != together[1].text


def test_the_same_seed_gives_the_same_text_and_leaves_the_global_generator_alone():
    model = a_model()
    before = torch.get_rng_state()
    first, again = (generate(model, BYTES, "hello", max_new_tokens=30, seed=5) for _ in range(2))
    fresh = generate(model, BYTES, "hello", max_new_tokens=30)
    assert first == again
    assert generate(model, BYTES, "hello", max_new_tokens=30, seed=fresh.seed).text == fresh.text
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_in_training_mode_writes_without_dropout_and_stays_in_it():
    model = a_model()
    quiet = generate(model, BYTES, "hello", max_new_tokens=10, temperature=0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.9
    model.train()
    frozen = model.blocks[0].dropout.eval()
    assert generate(model, BYTES, "hello", max_new_tokens=10, temperature=0).text == quiet.text
    assert [module for module in model.modules() if not module.training] == [frozen]


def test_a_stream_that_waits_leaves_the_model_and_the_callers_code_as_they_were():
    model = a_model().train()
    tokens = stream(model, BYTES, "hello", max_new_tokens=9, seed=0)
    next(tokens)
    assert model.training
    assert not torch.is_inference_mode_enabled()
    model.eval()
    next(tokens)
    model.train()
    del tokens
    assert model.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_type_draw_in_at_least_float32(dtype):
    model = a_model("modern").to(dtype)
    written = generate(model, BYTES, "abc", max_new_tokens=40, seed=4)
    assert generate(model, BYTES, "abc", max_new_tokens=40, seed=4) == written
    logits = torch.randn(9, dtype=dtype)
    at_least = torch.promote_types(dtype, torch.float32)
    for decoding in (Decoding(), Decoding(temperature=0), Decoding(top_k=3, top_p=0.9, repetition_penalty=2)):
        probabilities = distribution(logits, decoding, [1, 2])
        assert probabilities.dtype == at_least
        assert torch.equal(probabilities, distribution(logits.to(at_least), decoding, [1, 2]))


@pytest.mark.parametrize(
    ("decoding", "wanted"),
    [
        (Decoding(temperature=1.0), [0.4, 0.3, 0.2, 0.1]),
        (Decoding(temperature=0.5), [0.16 / 0.3, 0.09 / 0.3, 0.04 / 0.3, 0.01 / 0.3]),
        (Decoding(temperature=1.0, top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Decoding(temperature=1.0, top_k=9), [0.4, 0.3, 0.2, 0.1]),
        (Decoding(temperature=1.0, top_p=0.65), [4 / 7, 3 / 7, 0, 0]),
        (Decoding(temperature=1.0, top_p=0.01), [1, 0, 0, 0]),
        (Decoding(temperature=1.0, min_p=0.45), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Decoding(temperature=0.0), [1, 0, 0, 0]),
    ],
)
def test_drawn_tokens_follow_the_distribution_worked_out_by_hand(decoding, wanted):
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log() + 3
    assert distribution(logits, decoding).tolist() == pytest.approx(wanted, abs=1e-6)
    generator, draws = torch.Generator().manual_seed(11), 4000
    counts = [0] * 4
    for _ in range(draws):
        counts[next_token(logits, decoding, generator=generator)] += 1
    assert all(count == 0 for count, p in zip(counts, wanted, strict=True) if p == 0)
    chi_square = sum((n - draws * p) ** 2 / (draws * p) for n, p in zip(counts, wanted, strict=True) if p)
    assert chi_square < 16.27  # p = 0.001 at three degrees of freedom, stricter at fewer


def test_of_equal_logits_top_k_keeps_the_lower_ids():
    assert torch.isfinite(keep_top_k(torch.zeros(6), 2)).tolist() == [True, True, False, False, False, False]


def test_top_k_and_top_p_keep_what_a_sorted_list_keeps():
    numbers = torch.Generator().manual_seed(5)
    for k in (1, 2, 5, 11, 12, 30):
        # Few levels, so that many logits are equal; some are forbidden from the start.
        logits = torch.randint(-2, 3, (12,), generator=numbers).float()
        logits[logits == -2] = -torch.inf
        order = sorted(range(12), key=lambda id: (-logits[id].item(), id))
        wanted = {id for id in order[:k] if logits[id] > -torch.inf}
        assert set(torch.isfinite(keep_top_k(logits, k)).nonzero()[:, 0].tolist()) == wanted
        probabilities, mass, wanted = logits.double().softmax(0).tolist(), 0.0, set()
        for id in order:
            if mass >= k / 31:
                break
            wanted.add(id)
            mass += probabilities[id]
        assert set(torch.isfinite(keep_top_p(logits, k / 31)).nonzero()[:, 0].tolist()) == wanted


def test_strategies_that_are_off_change_nothing():
    logits = torch.randn(50)
    assert keep_top_k(logits, 100) is logits
    assert keep_top_p(logits, 1.0) is logits
    assert keep_min_p(logits, 0.0) is logits
    assert penalise_repetition(logits, [1, 2], 1.0) is logits


def test_the_repetition_penalty_divides_what_is_positive_and_multiplies_what_is_negative():
    logits = torch.tensor([2.0, -2.0, 2.0, 0.0])
    assert penalise_repetition(logits, [0, 1, 1, 3], 2.0).tolist() == [1.0, -4.0, 2.0, 0.0]


def test_thousands_of_settings_draw_a_token_that_is_allowed():
    generator, random = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    grid = itertools.product(
        (0.0, 1e-8, 0.7, 50.0), (None, 1, 3, 40), (1e-9, 0.5, 1.0), (0.0, 0.3, 1.0), (0.5, 1.0, 3.0)
    )
    for temperature, top_k, top_p, min_p, penalty in grid:
        decoding = Decoding(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty
        )
        for kind in range(5):
            logits = torch.randn(20, generator=random) * 10 ** (kind - 1)
            if kind == 3:
                logits[::2] = -torch.inf
            if kind == 4:
                logits[[4, 9]] = torch.inf
            id = next_token(logits, decoding, ids=[0, 3], generator=generator)
            assert logits[id] > -torch.inf
            if kind == 4:
                assert id in (4, 9)
            elif temperature == 0:
                assert id == penalise_repetition(logits, [0, 3], penalty).argmax()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_that_say_nothing_are_an_error_that_names_them(temperature):
    decoding = Decoding(temperature=temperature)
    with pytest.raises(WeightsError, match="NaN"):
        next_token(torch.tensor([0.0, torch.nan, torch.inf]), decoding)
    with pytest.raises(WeightsError, match="forbids every token"):
        next_token(torch.full((3,), -torch.inf), decoding)


def test_infinite_logits_share_the_probability_and_pass_through_the_strategies():
    logits = torch.tensor([0.0, torch.inf, 5.0, torch.inf])
    assert distribution(logits, Decoding()).tolist() == [0, 0.5, 0, 0.5]
    assert distribution(logits, Decoding(top_k=1)).tolist() == [0, 1, 0, 0]
    assert distribution(logits, Decoding(top_p=0.5)).tolist() == [0, 1, 0, 0]
    sure = Scripted(b"Hi")
    sure.head = lambda hidden: torch.tensor([[0.0] * 104 + [torch.inf] + [0.0] * 152])
    (token,) = generate(sure, BYTES, "a", max_new_tokens=1).tokens
    assert (token.text, token.log_probability) == ("h", 0.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": 0},
        {"top_k": 2.5}, {"top_k": True}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": math.nan},
        {"min_p": -0.1}, {"min_p": 1.5}, {"repetition_penalty": 0.0}, {"repetition_penalty": math.nan},
        {"repetition_penalty": 1e300}, {"max_new_tokens": -1}, {"max_new_tokens": 2.5},
        {"seed": -1}, {"seed": 2**63}, {"seed": 1.5}, {"stop": ("a", "")}, {"temperature": 1e-300},
        {"temperature": 1e300}, {"max_new_tokens": 10**12}, {"repetition_penalty": 1e-300},
    ],
)  # fmt: skip
def test_a_parameter_that_cannot_be_is_named_with_its_value_before_anything_is_drawn(fields):
    ((name, value),) = fields.items()
    said = '--stop "": ' if name == "stop" else f"--{name.replace('_', '-')} {value}: it must be "
    said = said.replace("+", r"\+")
    for write in (generate, stream):  # a stream says so at once, not at its first token
        with pytest.raises(ConfigError, match=said):
            write(a_model(), BYTES, "a", **fields)


@pytest.mark.parametrize("num", [0, -1, 1.5, 10**12])
def test_num_is_a_whole_number_of_texts(num):
    with pytest.raises(ConfigError, match=f"--num {num}: it must be"):
        generate_batch(a_model(), BYTES, ["a"], num=num)


def test_no_prompts_give_no_texts():
    assert generate_batch(a_model(), BYTES, []) == []


def test_a_tokenizer_with_more_tokens_than_the_model_is_named():
    with pytest.raises(DataError, match=r"token 122 .* 100 tokens"):
        generate(a_model(vocab_size=100), BYTES, "zebra", max_new_tokens=1)


def test_no_token_at_all_and_end_of_text_end_the_text():
    nothing = generate(a_model(), BYTES, "a", max_new_tokens=0)
    assert (nothing.text, nothing.tokens, nothing.finish_reason) == ("", (), "length")
    ended = generate(Scripted(b"Hi"), BYTES, "a", max_new_tokens=9)
    assert (ended.text, ended.finish_reason, len(ended.tokens)) == ("Hi", "end_of_text", 3)


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("own",), "The br"),
        (("x", "fo"), "The brown "),
        (("The",), ""),
        (("n f", "wn"), "The bro"),
        (("zz",), "The brown fox"),
    ],
)
def test_a_stop_string_ends_the_text_and_never_leaks(stop, text):
    tokens = list(stream(Scripted(b"The brown fox"), BYTES, "a", max_new_tokens=13, stop=stop))
    shown = list(itertools.accumulate(token.text for token in tokens))
    assert shown[-1] == text
    assert all(string not in part for string in stop for part in shown)
    assert tokens[-1].finish_reason == ("length" if stop == ("zz",) else "stop")


def test_streams_of_any_bytes_and_stops_show_exactly_the_text_before_the_first_stop():
    choice = random.Random(8)
    alphabet = ["a", "b", "é", "😀"]
    for _ in range(150):
        script = "".join(choice.choices(alphabet, k=12)).encode() + choice.choice([b"", b"\xe8", b"\xff"])
        stop = ["".join(choice.choices([*alphabet, "\ufffd"], k=choice.randint(1, 4))) for _ in range(2)]
        tokens = list(stream(Scripted(script), BYTES, "a", max_new_tokens=len(script), stop=stop))
        # The whole text, character by character, until a stop string stands in it.
        whole, text, reason = script.decode(errors="replace"), "", "length"
        for end in range(1, len(whole) + 1):
            starts = [whole[:end].find(string) for string in stop if string in whole[:end]]
            text = whole[: min(starts, default=end)]
            if starts:
                reason = "stop"
                break
        assert ("".join(token.text for token in tokens), tokens[-1].finish_reason) == (text, reason)
        for shown in itertools.accumulate(token.text for token in tokens):
            assert text.startswith(shown)


def test_a_stop_string_may_lie_inside_one_token():
    words = Tokenizer.gpt2()
    model = Scripted(b"")
    model.config = model.config.changed(vocab_size=words.vocab_size)
    (every,) = words.encode(" everything")
    model.head = lambda hidden: torch.zeros(1, words.vocab_size).index_fill(1, torch.tensor([every]), 90.0)
    written = generate(model, words, "a", max_new_tokens=5, stop="ryth")
    assert (written.text, len(written.tokens), written.finish_reason) == (" eve", 1, "stop")


def test_streamed_pieces_are_whole_characters_and_join_to_the_text():
    script = "é語😀!".encode() + b"\xff" + "ü".encode() + "語".encode()[:2]
    tokens = list(stream(Scripted(script), BYTES, "a", max_new_tokens=len(script)))
    assert "".join(token.text for token in tokens) == script.decode(errors="replace")
    assert [token.text for token in tokens[:5]] == ["", "é", "", "", "語"]


def test_ids_beyond_the_tokenizers_vocabulary_are_never_drawn():
    model = a_model(vocab_size=300)
    with torch.no_grad():
        model.head.weight[257:] += 100 * torch.ones(32)
    written = generate(model, BYTES, "abc", max_new_tokens=50, temperature=5.0, seed=1)
    assert all(token.id < 257 for token in written.tokens)


def test_log_probabilities_are_the_models_own():
    model = a_model(vocab_size=300)  # ids that are padding keep their share, though they are never drawn
    written = generate(model, BYTES, "abc", max_new_tokens=5, temperature=3.0, top_k=2, seed=0)
    ids = BYTES.encode("abc") + [token.id for token in written.tokens]
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].log_softmax(-1)
    for place, token in enumerate(written.tokens):
        assert token.log_probability == pytest.approx(expected[2 + place, token.id].item(), abs=1e-5)


def test_the_cache_is_no_longer_than_prompt_and_new_tokens(tiny_gpt, monkeypatch):
    """Models of others have a context of 40,000 tokens: a cache for all of them is gigabytes."""
    asked = []
    original = type(tiny_gpt).new_cache
    monkeypatch.setattr(
        type(tiny_gpt), "new_cache", lambda model, *sizes: asked.append(sizes) or original(model, *sizes)
    )
    generate_batch(tiny_gpt, BYTES, ["four", "sixteen letters."], max_new_tokens=5)
    assert asked == [(2, 21)]


def test_top_p_that_rounds_to_nothing_keeps_the_likeliest_token():
    kept = keep_top_p(torch.tensor([0.0, 2.0, 1.0]), 1e-300)
    assert kept.isfinite().tolist() == [False, True, False]
