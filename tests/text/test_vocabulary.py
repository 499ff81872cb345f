"""A vocabulary learnt from texts: the same to the byte, within its limits, quick; which size suits a text."""

import random
import time

import pytest
from models import MANY_SCRIPTS as TEXT
from recorded import Recorded

from lucidlm.errors import ConfigError
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.text.vocabulary import suggest


def test_the_same_text_gives_the_same_vocabulary_to_the_byte(trained, tmp_path):
    again = Tokenizer.train(iter([TEXT * 3, "the lighthouse and the ferry " * 20]), 400)
    for name, one in (("a", trained), ("b", again)):
        (tmp_path / name).mkdir()
        one.save(tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()
    assert trained.fingerprint() == again.fingerprint() != Tokenizer.train([TEXT], 400).fingerprint()


def test_common_words_become_tokens(trained):
    assert len(trained.encode("the lighthouse and the ferry")) < 8
    assert trained.encode(" lighthouse")[0] >= 256


def test_a_text_too_small_for_the_size_gives_what_there_is_and_says_so():
    tiny = Tokenizer.train(["ab ab ab"], 5000)
    assert tiny.name == f"bpe:{tiny.vocab_size}"
    assert 257 < tiny.vocab_size < 300
    assert tiny.end_of_text == tiny.vocab_size - 1
    assert tiny.decode(tiny.encode("ab abé")) == "ab abé"
    assert Tokenizer.train([], 300).vocab_size == 257


@pytest.mark.parametrize("size", [-1, 0, 256, 2**18 + 1])
def test_a_size_beyond_the_limits_is_an_error_with_the_limits(size):
    with pytest.raises(ConfigError, match=r"257 .* to 262144"):
        Tokenizer.train(["a"], size)


def test_the_smallest_size_is_bytes_and_end_of_text():
    smallest = Tokenizer.train([TEXT], 257)
    assert smallest.vocab_size == 257
    assert len(smallest.encode(TEXT)) == len(TEXT.encode())


def test_training_on_one_endless_word_is_quick():
    start = time.process_time()
    Tokenizer.train(["".join(random.Random(0).choices("acgt", k=300_000))], 1000)
    assert time.process_time() - start < 5


def test_training_tells_how_far_it_is():
    told = Recorded()
    told.stage("training the tokenizer", 5)
    Tokenizer.train(["abc", "de"], 300, progress=told)
    assert told.stages == [["training the tokenizer", 5, 5]]


def test_the_suggestion_grows_with_the_text_and_says_why():
    specs = [suggest(10**power)[0] for power in range(2, 11)]
    sizes = [257 if spec == "bytes" else 50257 if spec == "gpt2" else int(spec[4:]) for spec in specs]
    assert sizes == sorted(sizes)
    assert (specs[0], specs[-1]) == ("bytes", "gpt2")
    spec, reason = suggest(1_115_394)
    assert (spec, reason.partition(":")[0]) == ("bpe:1024", "1,115,394 characters")
