"""The loop of generation against a naive one without a cache; stop strings and streams."""

import itertools
import random

import pytest
import torch
from models import BYTES, lively, shape
from torch import nn

from lucidlm.errors import ConfigError, DataError
from lucidlm.model.decoding import Decoding
from lucidlm.model.dropout import Dropout
from lucidlm.model.generation import generate, generate_batch, stream
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
    written = generate(model, BYTES, prompt, Decoding(max_new_tokens=200, temperature=0))
    assert [token.id for token in written.tokens] == wanted


def test_an_empty_prompt_begins_a_document():
    model = a_model()
    written = generate(model, BYTES, "", Decoding(max_new_tokens=20, temperature=0))
    wanted = naive(model, [256], 20)
    assert [token.id for token in written.tokens] == wanted[: len(written.tokens)]
    with pytest.raises(DataError, match="empty prompt"):
        generate(a_model(vocab_size=256), BYTES, "", Decoding(max_new_tokens=1))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_prompt_of_a_list_gives_what_it_gives_alone(temperature):
    model, decoding = a_model("modern"), Decoding(max_new_tokens=60, temperature=temperature)
    prompts = ["a", "the quick brown fox jumps", "x" * 31, "", "y" * 50]
    alone = [generate(model, BYTES, prompt, decoding, seed=7) for prompt in prompts]
    together = generate(model, BYTES, prompts, decoding, seed=7)
    assert [(each.prompt, each.text, each.seed) for each in together] == [
        (each.prompt, each.text, each.seed) for each in alone
    ]
    several = generate_batch(model, BYTES, prompts, decoding, num=2, seed=7)
    assert [each.text for each in several[::2]] == [each.text for each in alone]
    assert temperature == 0 or several[0].text != several[1].text
    assert generate(model, BYTES, [], decoding) == []


def test_the_same_seed_gives_the_same_text_and_leaves_the_global_generator_alone():
    model = a_model()
    before = torch.get_rng_state()
    first, again = (generate(model, BYTES, "hello", Decoding(max_new_tokens=30), seed=5) for _ in range(2))
    fresh = generate(model, BYTES, "hello", Decoding(max_new_tokens=30))
    assert first == again
    assert generate(model, BYTES, "hello", Decoding(max_new_tokens=30), seed=fresh.seed).text == fresh.text
    assert torch.equal(before, torch.get_rng_state())


def test_all_texts_of_a_prompt_are_those_of_the_seed_and_differ():
    model, decoding = a_model(), Decoding(max_new_tokens=20)
    texts = [each.text for each in generate_batch(model, BYTES, ["hello"], decoding, num=3, seed=5)]
    assert [each.text for each in generate_batch(model, BYTES, ["hello"], decoding, num=3, seed=5)] == texts
    assert len({*texts}) == 3


def test_a_model_in_training_mode_writes_without_dropout_and_stays_in_it():
    model = a_model()
    quiet = generate(model, BYTES, "hello", Decoding(max_new_tokens=10, temperature=0))
    for module in model.modules():
        if isinstance(module, Dropout):
            module.rate = 0.9
    model.train()
    frozen = model.blocks[0].dropout.eval()
    assert generate(model, BYTES, "hello", Decoding(max_new_tokens=10, temperature=0)).text == quiet.text
    assert [module for module in model.modules() if not module.training] == [frozen]


def test_a_stream_that_waits_leaves_the_model_and_the_callers_code_as_they_were():
    model = a_model().train()
    tokens = stream(model, BYTES, "hello", Decoding(max_new_tokens=9), seed=0)
    next(tokens)
    assert model.training
    assert not torch.is_inference_mode_enabled()
    model.eval()
    next(tokens)
    model.train()
    del tokens
    assert model.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_dtype_generate_the_same_text_for_a_seed(dtype):
    model = a_model("modern").to(dtype)
    written = generate(model, BYTES, "abc", Decoding(max_new_tokens=40), seed=4)
    assert generate(model, BYTES, "abc", Decoding(max_new_tokens=40), seed=4) == written


def test_an_infinite_logit_takes_all_the_probability():
    sure = Scripted(b"Hi")
    sure.head = lambda hidden: torch.tensor([[0.0] * 104 + [torch.inf] + [0.0] * 152])
    (token,) = generate(sure, BYTES, "a", Decoding(max_new_tokens=1)).tokens
    assert (token.text, token.log_probability) == ("h", 0.0)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True])
@pytest.mark.parametrize("write", [generate, stream])  # a stream refuses it at once, not at its first token
def test_a_seed_is_a_whole_number_that_pytorch_takes(write, seed):
    with pytest.raises(ConfigError, match=f"--seed {seed}"):
        write(a_model(), BYTES, "a", seed=seed)


@pytest.mark.parametrize("num", [0, -1, 1.5, 10**12])
def test_num_is_a_whole_number_of_texts(num):
    with pytest.raises(ConfigError, match=f"--num {num}"):
        generate_batch(a_model(), BYTES, ["a"], num=num)


def test_a_tokenizer_with_more_tokens_than_the_model_is_named():
    with pytest.raises(DataError, match=r"token 122 .* 100 tokens"):
        generate(a_model(vocab_size=100), BYTES, "zebra", Decoding(max_new_tokens=1))


def test_no_token_at_all_and_end_of_text_end_the_text():
    nothing = generate(a_model(), BYTES, "a", Decoding(max_new_tokens=0))
    assert (nothing.text, nothing.tokens, nothing.finish_reason) == ("", (), "length")
    ended = generate(Scripted(b"Hi"), BYTES, "a", Decoding(max_new_tokens=9))
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
    tokens = list(stream(Scripted(b"The brown fox"), BYTES, "a", Decoding(max_new_tokens=13, stop=stop)))
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
        tokens = list(stream(Scripted(script), BYTES, "a", Decoding(max_new_tokens=len(script), stop=stop)))
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
    written = generate(model, words, "a", Decoding(max_new_tokens=5, stop="ryth"))
    assert (written.text, len(written.tokens), written.finish_reason) == (" eve", 1, "stop")


def test_streamed_pieces_are_whole_characters_and_join_to_the_text():
    script = "é語😀!".encode() + b"\xff" + "ü".encode() + "語".encode()[:2]
    tokens = list(stream(Scripted(script), BYTES, "a", Decoding(max_new_tokens=len(script))))
    assert "".join(token.text for token in tokens) == script.decode(errors="replace")
    assert [token.text for token in tokens[:5]] == ["", "é", "", "", "語"]


def test_ids_beyond_the_tokenizers_vocabulary_are_never_drawn():
    model = a_model(vocab_size=300)
    with torch.no_grad():
        model.head.weight[257:] += 100 * torch.ones(32)
    written = generate(model, BYTES, "abc", Decoding(max_new_tokens=50, temperature=5.0), seed=1)
    assert all(token.id < 257 for token in written.tokens)


def test_log_probabilities_are_the_models_own():
    model = a_model(vocab_size=300)  # ids that are padding keep their share, though they are never drawn
    written = generate(model, BYTES, "abc", Decoding(max_new_tokens=5, temperature=3.0, top_k=2), seed=0)
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
    generate_batch(tiny_gpt, BYTES, ["four", "sixteen letters."], Decoding(max_new_tokens=5))
    assert asked == [(2, 21)]
