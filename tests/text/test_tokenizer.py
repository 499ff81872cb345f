import base64
import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import Recorded

from lucidlm.errors import ConfigError, DataError, WeightsError
from lucidlm.text import gpt2_ranks, tokenizer_json
from lucidlm.text import tokenizer as module
from lucidlm.text.byte_level import END_OF_TEXT, byte_alphabet
from lucidlm.text.threads import in_threads
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.text.vocabulary import suggest

TEXT = (
    "The ferry left at nine, as it always did; nobody's watch agreed. \"We'll see,\" she said.\n\n"
    "  In 1874 the lighthouse burned 1,200 litres of oil a year\tand  gave, on clear nights, 19 miles.\r\n"
    "Größe, naïveté, Москва, 東京の夜, नमस्ते, مرحبا, 👩‍👩‍👧 and \u3000 wide spaces \u00a0.\n"
)
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
PLAIN = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
EVIL = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
NAMES = ["gpt2", "bpe", "bytes"]


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train([TEXT * 3, "the lighthouse and the ferry " * 20], 400)


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request, trained):
    return {"gpt2": Tokenizer.gpt2, "bytes": Tokenizer.bytes, "bpe": lambda: trained}[request.param]()


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tokenizer.save(folder, model_max_length=1024)
    return folder


def test_gpt2_gives_the_published_ids():
    # Radford et al. 2019; the ids are those of the lecture's own examples
    assert Tokenizer.gpt2().encode("Every effort moves you") == [6109, 3626, 6100, 345]
    assert Tokenizer.gpt2().encode("I really like chocolate") == [40, 1107, 588, 11311]
    assert Tokenizer.gpt2().decode([15496, 11, 995]) == "Hello, world"


def test_gpt2_gives_the_ids_of_tiktoken_with_its_own_pattern():
    ranks = gpt2_ranks.ranks()
    # The pattern as OpenAI published it in encoder.py, without the possessive forms used here.
    pattern = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    oracle = tiktoken.Encoding("oracle", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    assert Tokenizer.gpt2().encode(TEXT) == oracle.encode_ordinary(TEXT)


def test_damaged_ranks_are_refused(monkeypatch):
    monkeypatch.setattr(gpt2_ranks, "_RANKS_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match=r"gpt2\.tiktoken: SHA-256 306cd27f"):
        gpt2_ranks.ranks.__wrapped__()


def test_vocabulary_and_end_of_text_are_where_they_belong(trained):
    gpt2, plain = Tokenizer.gpt2(), Tokenizer.bytes()
    assert (gpt2.name, gpt2.vocab_size, gpt2.end_of_text) == ("gpt2", 50257, 50256)
    assert (plain.name, plain.vocab_size, plain.end_of_text) == ("bytes", 257, 256)
    assert (trained.name, trained.vocab_size, trained.end_of_text) == ("bpe:400", 400, 399)
    assert plain.encode("aß") == list("aß".encode())


@settings(max_examples=300, deadline=None)
@given(text=st.text())
@pytest.mark.parametrize("name", NAMES)
def test_any_text_round_trips(name, text, trained):
    tokenizer = trained if name == "bpe" else Tokenizer.from_spec(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_of_text not in ids
    assert sum(tokenizer.token_lengths()[ids]) == len(text.encode())


@settings(max_examples=300, deadline=None)
@given(data=st.binary() | st.text().map(str.encode))
@pytest.mark.parametrize("name", NAMES)
def test_any_bytes_round_trip(name, data, trained):
    tokenizer = trained if name == "bpe" else Tokenizer.from_spec(name)
    assert tokenizer.decode_bytes(tokenizer.encode(data)) == data
    assert tokenizer.decode(tokenizer.encode(data)) == data.decode("utf-8", errors="replace")


def test_bytes_that_are_text_get_the_ids_of_the_text_and_others_stand_alone(tokenizer):
    assert tokenizer.encode(TEXT.encode()) == tokenizer.encode(TEXT)
    invalid = [tokenizer._byte_ids[0xFF], tokenizer._byte_ids[0xED]]
    assert tokenizer.encode(b"light\xff\xed") == [*tokenizer.encode("light"), *invalid]


def test_control_text_is_ordinary_text(tokenizer):
    text = f"a {END_OF_TEXT}{END_OF_TEXT}\n"
    ids = tokenizer.encode(text)
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.end_of_text]) == text


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff"])
def test_half_a_surrogate_pair_is_an_error_that_shows_it(tokenizer, text):
    with pytest.raises(DataError, match=r"U\+D(800 after 'a'|FFF after '') is half of a surrogate pair"):
        tokenizer.encode(text)
    with pytest.raises(DataError, match="surrogate"):
        list(tokenizer.encode_pieces([text]))


def long_text(seed, size):
    """Words, runs of whitespace and stretches without any, of many lengths."""
    draw = random.Random(seed)
    parts = []
    while sum(map(len, parts)) < size:
        word = draw.choice(
            ["it's", " the", "\n\n", "   ", "ß", "123", "....", "\r\n", "\u3000", "😀", "x\x1c", "\x85"]
        )
        parts.append(word * draw.choice([1, 1, 1, 2, 7, 60]))
    return "".join(parts)


def test_pieces_give_the_ids_of_the_joined_text_wherever_they_are_cut(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 50)
    monkeypatch.setattr(module, "LONGEST_PIECE", 10**9)
    draw = random.Random(1)
    for seed in range(10):
        text = long_text(seed, 3000)
        whole = tokenizer._encode_text(text).tolist()
        cuts = sorted(draw.choices(range(len(text)), k=draw.choice([0, 3, 200])))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)])]
        arrays = list(tokenizer.encode_pieces(pieces))
        assert len(arrays) > 5
        assert np.concatenate(arrays).tolist() == whole
        assert tokenizer.encode(text) == whole


def test_a_text_without_a_place_to_cut_is_cut_at_the_limit_alike_however_it_comes(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 50)
    monkeypatch.setattr(module, "LONGEST_PIECE", 200)
    text = "a" * 777 + " b" * 100 + " " * 999 + "x" + "\n" * 450
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    for size in (1, 7, 49, 50, 51, 199, 200, 201, 5000):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        assert max(map(len, tokenizer.cut(pieces))) <= 200
        assert np.concatenate(list(tokenizer.encode_pieces(pieces))).tolist() == ids


def test_no_pieces_give_no_ids(tokenizer):
    assert list(tokenizer.encode_pieces([])) == []
    assert list(tokenizer.encode_pieces(["", ""])) == []
    assert tokenizer.encode("") == tokenizer.encode(b"") == []
    assert tokenizer.decode([]) == ""


def test_arrays_are_16_bits_wide_where_the_vocabulary_fits(tokenizer):
    assert {array.dtype for array in tokenizer.encode_pieces([TEXT])} == {np.dtype(np.uint16)}


@pytest.mark.parametrize("kind", ["letter", "spaces", "spaces and a word", "lines", "emoji", "random bytes"])
def test_a_megabyte_of_one_kind_takes_under_5_seconds_and_round_trips(tokenizer, kind):
    text = {
        "letter": "a" * 10**6,
        "spaces": " " * 10**6,
        "spaces and a word": " " * 10**6 + "x",  # tiktoken alone panics here
        "lines": "\n" * 10**6 + "x",
        "emoji": "😀" * 250_000,
        "random bytes": random.Random(0).randbytes(10**6),
    }[kind]
    start = time.process_time()
    ids = tokenizer.encode(text)
    assert time.process_time() - start < 5
    assert tokenizer.decode_bytes(ids) == (text if isinstance(text, bytes) else text.encode())


def test_every_token_spells_its_bytes(tokenizer):
    lengths = tokenizer.token_lengths()
    assert lengths.dtype == np.int32
    assert lengths.shape == (tokenizer.vocab_size,)
    assert [len(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)] == lengths.tolist()
    assert tokenizer.token_bytes(tokenizer.end_of_text) == b""
    assert lengths.argmin() == tokenizer.end_of_text
    assert {tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)} >= {
        bytes([b]) for b in range(256)
    }


@pytest.mark.parametrize("ids", [[-1], [60000], [[1, 2]], [0.5]])
def test_ids_that_are_none_are_an_error(tokenizer, ids):
    with pytest.raises(DataError):
        tokenizer.decode(ids)
    with pytest.raises(DataError):
        tokenizer.token_bytes(ids[0] if isinstance(ids[0], int) else -1)


def test_ids_may_come_as_array_tuple_or_iterator(tokenizer):
    ids = tokenizer.encode("a light")
    for given_as in (np.array(ids, np.uint16), tuple(ids), iter(ids)):
        assert tokenizer.decode(given_as) == "a light"


def test_cut_utf8_becomes_the_replacement_character():
    assert Tokenizer.bytes().decode(list("é".encode())[:1]) == "\ufffd"


# Training


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


# Specs


def test_a_spec_names_a_tokenizer(saved, tokenizer):
    assert Tokenizer.from_spec("gpt2").name == "gpt2"
    assert Tokenizer.from_spec("bytes").name == "bytes"
    assert Tokenizer.from_spec("bpe:300", [TEXT * 3]).name == "bpe:300"
    assert Tokenizer.from_spec(str(saved)).fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize(
    "spec", ["gpt3", "bpe", "bpe:", "bpe:x", "bpe:12", "bpe:-300", "bpe:99999999999", ""]
)
def test_an_unknown_spec_is_an_error_with_the_way_out(spec):
    with pytest.raises(ConfigError, match=r"bpe:|bytes"):
        Tokenizer.from_spec(spec, [TEXT])


def test_a_vocabulary_to_be_learnt_needs_a_text():
    with pytest.raises(ConfigError, match="bpe:300"):
        Tokenizer.from_spec("bpe:300")


def test_the_suggestion_grows_with_the_text_and_says_why():
    specs = [suggest(10**power)[0] for power in range(2, 11)]
    sizes = [257 if spec == "bytes" else 50257 if spec == "gpt2" else int(spec[4:]) for spec in specs]
    assert sizes == sorted(sizes)
    assert (specs[0], specs[-1]) == ("bytes", "gpt2")
    spec, reason = suggest(1_115_394)
    assert (spec, reason.partition(":")[0]) == ("bpe:1024", "1,115,394 characters")


# Files


def test_loading_gives_the_same_tokenizer(tokenizer, saved):
    for path in (str(saved), saved / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert (loaded.name, loaded.vocab_size, loaded.end_of_text) == (
            tokenizer.name,
            tokenizer.vocab_size,
            tokenizer.end_of_text,
        )
        assert loaded.fingerprint() == tokenizer.fingerprint()
        assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
        assert loaded.lossless


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("gpt2", None),
        ("gpt2", "gpt2"),
        ("bpe", "gpt2"),
        ("bpe", "qwen3"),
        ("bpe", "llama"),
        ("bytes", "qwen3"),
    ],
)
def test_transformers_gives_the_same_ids(name, model_type, trained, tmp_path):
    import transformers

    tokenizer = trained if name == "bpe" else Tokenizer.from_spec(name)
    tokenizer.save(tmp_path, model_max_length=1024)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    oracle = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXT, f"a {END_OF_TEXT}b{END_OF_TEXT}", long_text(5, 2000), "", " "):
        assert oracle(text)["input_ids"] == tokenizer.encode(text)
    assert oracle.decode(tokenizer.encode(TEXT)) == TEXT
    assert oracle.decode(tokenizer.encode("it 's , n't . a")) == "it 's , n't . a"
    assert oracle.eos_token_id == oracle.bos_token_id == tokenizer.end_of_text
    assert (len(oracle), oracle.model_max_length) == (tokenizer.vocab_size, 1024)


def test_both_libraries_split_every_character_alike():
    plain = Tokenizer.gpt2()
    oracle = tokenizers.Tokenizer.from_str(json.dumps(plain._document()))
    oracle.encode_special_tokens = True
    characters = [chr(code) for code in (*range(0x3400), *range(0xF900, 0x10200), *range(0x1F300, 0x1F700))]
    text = "".join(f"a{character}{character}1{character} !" for character in characters)
    for start in range(0, len(text), 50_000):
        assert plain.encode(text[start : start + 50_000]) == oracle.encode(text[start : start + 50_000]).ids


def test_merges_recovered_from_the_ranks_are_gpt2s():
    merges = gpt2_ranks.document()["model"]["merges"]
    # the first lines of OpenAI's vocab.bpe
    assert [" ".join(pair) for pair in merges[:4]] == ["Ġ t", "Ġ a", "h e", "i n"]
    assert [" ".join(pair) for pair in merges[-2:]] == ["Ġrec ommends", "Ġinfl uences"] or len(
        merges
    ) == 50_000
    assert len(merges) == 50_000


def rewritten(tokenizer, **changes):
    document = json.loads(json.dumps(tokenizer._document()))
    for key, value in changes.items():
        place = document
        *folders, last = key.split("__")
        for folder in folders:
            place = place[folder]
        place[last] = value
    return document


def loaded(tmp_path, document, **settings):
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    if settings:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer.load(tmp_path)


def test_gpt2_as_others_store_it_gets_gpt2s_own_way(tmp_path):
    document = rewritten(Tokenizer.gpt2())
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    document["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    document["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    document["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    assert loaded(tmp_path, document).fingerprint() == Tokenizer.gpt2().fingerprint()


def test_gpt2_with_a_token_before_each_text_keeps_it(tmp_path):
    document = rewritten(Tokenizer.gpt2())
    name = END_OF_TEXT
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [50256], "tokens": [name]}},
    }
    kept = loaded(tmp_path, document)
    assert kept.begin_of_text == 50256
    assert Tokenizer.gpt2().begin_of_text is None
    assert kept.encode(TEXT) == Tokenizer.gpt2().encode(TEXT)


def llama3_like(trained):
    """The pattern of Llama 3 and two added tokens, one of them no control token."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document = rewritten(trained, pre_tokenizer={"type": "Sequence", "pretokenizers": [split, plain]})
    document["added_tokens"] += [
        {"id": 400, "content": "<|begin|>", "special": True, **ADDED},
        {"id": 401, "content": "<note>", "special": False, **ADDED},
    ]
    document["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    return document


def test_someone_elses_byte_level_tokenizer_gives_the_librarys_ids(trained, tmp_path, monkeypatch):
    document = llama3_like(trained)
    custom = loaded(tmp_path, document, eos_token={"content": "<|begin|>"})
    assert (custom.name, custom.vocab_size, custom.end_of_text) == ("custom", 402, 399)
    document["truncation"] = None
    oracle = tokenizers.Tokenizer.from_str(json.dumps(document))
    oracle.encode_special_tokens = True
    text = TEXT * 5 + "a <note> 1.\n\n\nb <|begin|>" + END_OF_TEXT
    ids = custom.encode(text)
    assert ids == oracle.encode(text, add_special_tokens=False).ids
    assert 401 in ids
    assert not {399, 400} & {*ids}
    assert custom.decode(ids) == text
    assert custom.decode([400, *ids, 399]) == text
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 20)
    assert len(list(custom.cut([text]))) > 20
    assert np.concatenate(list(custom.encode_pieces([text]))).tolist() == ids
    custom.save(tmp_path)
    assert Tokenizer.load(tmp_path).fingerprint() == custom.fingerprint()


def test_the_end_of_text_of_others_is_found_by_their_settings_or_is_none(trained, tmp_path):
    document = rewritten(trained)
    del document["model"]["vocab"][END_OF_TEXT]
    document["added_tokens"][0]["content"] = "<stop>"
    assert loaded(tmp_path, document).end_of_text is None
    custom = loaded(tmp_path, document, eos_token="<stop>")
    assert custom.end_of_text == 399
    custom.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == "<stop>"


def test_a_long_text_is_encoded_in_pieces_by_a_tokenizer_with_unicodes_form_too(trained, tmp_path):
    composing = loaded(tmp_path, rewritten(trained, normalizer={"type": "NFC"}))
    text = "e\u0301 the lighthouse e\u0301n\u0303e of No\u0308e\u0308l and " * 3000
    oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert composing.encode(text) == oracle.encode(text, add_special_tokens=False).ids
    assert len(list(composing.cut([text]))) > 1  # as memory would else grow with the document


@pytest.mark.parametrize("name", ["the ", "a b", " of"])
def test_an_added_token_with_a_blank_in_it_is_found_wherever_it_stands(trained, tmp_path, name, monkeypatch):
    document = rewritten(trained)
    document["added_tokens"].append({"id": 400, "content": name, "special": False, **ADDED})
    custom = loaded(tmp_path, document)
    oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(module, "PIECE_CHARACTERS", 20)
    text = "the a b of the of a b the " * 40
    ids = oracle.encode(text, add_special_tokens=False).ids
    assert [id for piece in custom.encode_pieces([text]) for id in piece.tolist()] == ids
    assert 400 in ids


def test_a_tokenizer_that_changes_the_text_says_so(trained, tmp_path):
    assert not loaded(tmp_path, rewritten(trained, normalizer={"type": "NFC"})).lossless
    assert not loaded(tmp_path, rewritten(trained, pre_tokenizer__add_prefix_space=True)).lossless


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model__type": "WordPiece"}, "its model is WordPiece"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its text is not split into bytes"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [PLAIN, PLAIN]}}, "into bytes twice"),
        ({"pre_tokenizer": None}, "its text is not split into bytes"),
        ({"model__byte_fallback": True}, "its text is not split into bytes"),
        ({"model__vocab": {"a": 0}}, "242 of the bytes"),
        ({"model__vocab__▁the": 7}, "'▁the' is not written in bytes"),
        ({"model__vocab__ab": 10**9}, "ids run from 0 to 1000000000"),
        ({"model": 5}, "only byte-level"),
        ({"model": {"vocab": [["a", 0.5]], "unk_id": 0}}, "no type, and not the vocabulary and merges"),
        ({"model__vocab__the": 300}, "two of its tokens"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [EVIL, PLAIN]}}, "fails on some texts"),
        ({"added_tokens": [{}]}, "missing or unknown"),
        ({"added_tokens": [{**ADDED, "id": 450, "content": "<x>", "special": True}]}, "do not follow"),
    ],
)
def test_what_is_not_byte_level_is_refused_with_the_reason(trained, tmp_path, changes, reason):
    with pytest.raises(WeightsError, match=reason):
        loaded(tmp_path, rewritten(trained, **changes))


def test_a_model_without_a_type_is_read_by_its_fields_as_the_hubs_own_gpt2(trained, tmp_path):
    document = rewritten(trained)
    merges = [" ".join(pair) for pair in document["model"]["merges"]]
    document["model"] = {
        "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": False, "vocab": document["model"]["vocab"], "merges": merges,
    }  # fmt: skip
    del document["pre_tokenizer"]["use_regex"]
    tokenizer = loaded(tmp_path, document)
    oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    oracle.encode_special_tokens = True
    assert tokenizer.encode(TEXT) == oracle.encode(TEXT, add_special_tokens=False).ids
    assert (tokenizer.decode(tokenizer.encode(TEXT)), tokenizer.end_of_text) == (TEXT, 399)
    tokenizer.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["type"] == "BPE"


def without_bytes(trained, gone):
    """The vocabulary without these bytes, its ids closed up, as one that was made without a full alphabet."""
    document = rewritten(trained)
    vocabulary = document["model"]["vocab"]
    for byte in gone:
        del vocabulary[byte_alphabet()[byte]]
    document["model"]["vocab"] = {name: id for id, name in enumerate(sorted(vocabulary, key=vocabulary.get))}
    document["added_tokens"][0]["id"] = len(vocabulary) - 1
    return document


def test_bytes_that_no_text_holds_need_no_token(trained, tmp_path):
    never = [byte for byte in range(256) if byte in (0xC0, 0xC1) or byte > 0xF4]
    characters = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000, 7))))
    assert {*characters.encode()} == {*range(256)} - {*never}
    tokenizer = loaded(tmp_path, without_bytes(trained, never))
    oracle = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    oracle.encode_special_tokens = True
    for text in (TEXT, characters[:3000] + characters[-3000:]):
        assert tokenizer.encode(text) == oracle.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode_bytes(tokenizer.encode(b"a\x80b")) == b"a\x80b"
    with pytest.raises(DataError, match="byte 0xFF has no token"):
        tokenizer.encode(b"a\xffb")
    with pytest.raises(WeightsError, match="1 of the bytes"):
        loaded(tmp_path, without_bytes(trained, [*never, 0xF0]))


def test_a_control_token_that_a_text_becomes_is_refused(trained, tmp_path):
    """The library takes whole words from the vocabulary, or merges them: bytes of the text would be lost."""
    document = rewritten(trained)
    end = document["model"]["vocab"]["Ġthe"]
    document["added_tokens"].append({"id": end, "content": "Ġthe", "special": True, **ADDED})
    with pytest.raises(WeightsError, match="control token 'Ġthe'"):
        loaded(tmp_path, document)


def test_a_tokenizer_is_cut_to_its_model_where_only_control_tokens_are_lost(trained, tmp_path):
    document = rewritten(trained)
    document["added_tokens"].append({"id": 400, "content": "[PAD]", "special": True, **ADDED})
    whole = loaded(tmp_path, document, eos_token="[PAD]")
    assert whole.vocab_size == 401
    cut, names = whole.within(400)
    assert (cut.vocab_size, names, cut.end_of_text) == (400, ["[PAD]"], 399)
    assert cut.encode(TEXT + "[PAD]") == whole.encode(TEXT + "[PAD]")
    assert cut.decode(cut.encode("a [PAD]")) == "a [PAD]"
    without, names = whole.within(399)
    assert (without.end_of_text, names) == (None, [END_OF_TEXT, "[PAD]"])
    same, names = whole.within(500)
    assert same is whole
    assert names == []
    with pytest.raises(WeightsError, match="its model 300"):
        whole.within(300)
    document["added_tokens"][-1]["special"] = False
    with pytest.raises(WeightsError, match=r"'\[PAD\]'"):
        loaded(tmp_path, document).within(400)


def test_more_tokens_than_any_vocabulary_has_are_refused_before_they_are_read(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_json, "MOST_TOKENS", 390)
    with pytest.raises(WeightsError, match="400 tokens or merges, at most 390"):
        loaded(tmp_path, rewritten(trained))
    monkeypatch.undo()
    monkeypatch.setattr(tokenizer_json, "MOST_ADDED", 0)
    with pytest.raises(WeightsError, match="1 added tokens, at most 0"):
        loaded(tmp_path, rewritten(trained))


def test_a_text_on_which_the_library_gives_up_is_one_line(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_json, "check_patterns", lambda patterns: list(patterns))
    split = {"type": "Sequence", "pretokenizers": [EVIL, {**PLAIN, "use_regex": False}]}
    tokenizer = loaded(tmp_path, rewritten(trained, pre_tokenizer=split))
    with pytest.raises(DataError, match="fails on this text") as refused:
        tokenizer.encode("a" * 50 + "!")
    assert "\n" not in str(refused.value)


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"tokenizer\.json: not there"):
        Tokenizer.load(tmp_path)
    for content in (b"", b"{", b"[]", b"\xff", b"[" * 10**5):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(WeightsError, match=r"tokenizer\.json"):
            Tokenizer.load(tmp_path)


def test_damaged_tokenizer_files_load_or_are_refused_but_never_crash(trained, tmp_path, capfd):
    draw = random.Random(3)
    wholes = [json.dumps(llama3_like(trained)), json.dumps(trained._document())]
    outcomes = set()
    for _ in range(150):
        text = draw.choice(wholes)
        place = draw.randrange(len(text)) if draw.random() < 0.5 else draw.randrange(1500)
        if (
            draw.random() < 0.5
        ):  # a value of another type, which stays valid JSON more often than a changed byte
            text = text[:place] + text[place:].replace(
                draw.choice(["true", "false", "null", "1", '"']), "7", 1
            )
        else:
            text = text[:place] + draw.choice(["", "}", "0", '"', "\\", "-1", "[]"]) + text[place + 1 :]
        (tmp_path / "tokenizer.json").write_text(text)
        try:
            Tokenizer.load(tmp_path).encode("a text")
            outcomes.add("loaded")
        except WeightsError as error:
            outcomes.add(str(error)[: len(str(tmp_path))])
    assert outcomes == {"loaded", str(tmp_path)}


def test_saving_gpt2_takes_no_time_for_every_pair_of_its_ranks(tmp_path):
    gpt2_ranks.document.cache_clear()
    start = time.process_time()
    Tokenizer.gpt2().save(tmp_path)
    assert time.process_time() - start < 10  # 0.5 s of CPU; 1.6 s where coverage is measured


# Threads and processes


def test_work_in_threads_keeps_the_order_and_passes_errors_on():
    def slow(number):
        time.sleep(0.001 * (number % 3))
        return number * number

    assert list(in_threads(slow, range(50))) == [number * number for number in range(50)]
    assert list(in_threads(slow, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // (5 - number), range(50)))
    endless = in_threads(slow, iter(int, 1))
    assert next(endless) == 0
    endless.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the warning is about forks")
def test_a_fork_after_training_and_encoding_is_quiet_and_does_not_hang():
    code = (
        "import os\nfrom lucidlm.text.tokenizer import Tokenizer\n"
        "t = Tokenizer.train(['some words, some more words ' * 50] * 50, 300)\n"
        "t.encode('some words ' * 50000)\n"
        "pid = os.fork()\n"
        "if not pid:\n    t.encode('some words ' * 50000); os._exit(7)\n"
        "assert os.waitpid(pid, 0)[1] >> 8 == 7\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, timeout=60, check=True
    )
    assert done.stderr == b""


def test_neither_torch_nor_a_network_is_needed():
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from lucidlm.text.tokenizer import Tokenizer\n"
        "assert Tokenizer.gpt2().encode('a') == [64]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_the_ranks_in_the_package_are_those_of_the_ids():
    first = next(iter(gpt2_ranks.ranks()))
    assert base64.b64encode(first) == b"IQ=="
    assert list(gpt2_ranks.ranks().values()) == list(range(50256))


@pytest.mark.parametrize("field", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_a_vocabulary_that_marks_words_is_refused(tmp_path, field):
    """Bytes of a token's name would be missing in a text, or marks stand in it."""
    Tokenizer.bytes().save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["model"][field] = "##"
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=field):
        Tokenizer.load(tmp_path)
