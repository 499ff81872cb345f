"""A tokenizer.json by others: the same ids as the library that made it, or a refusal with the reason."""

import json
import random

import numpy as np
import pytest
import tokenizers
from models import MANY_SCRIPTS as TEXT

from lucidlm.errors import DataError, WeightsError
from lucidlm.text import tokenizer as module
from lucidlm.text import tokenizer_json
from lucidlm.text.byte_level import END_OF_TEXT, byte_alphabet
from lucidlm.text.tokenizer import Tokenizer

ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
PLAIN = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
EVIL = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}


def rewritten(tokenizer, **changes):
    document = json.loads(json.dumps(tokenizer.document()))
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
    wholes = [json.dumps(llama3_like(trained)), json.dumps(trained.document())]
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


@pytest.mark.parametrize("field", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_a_vocabulary_that_marks_words_is_refused(tmp_path, field):
    """Bytes of a token's name would be missing in a text, or marks stand in it."""
    Tokenizer.bytes().save(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["model"][field] = "##"
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(WeightsError, match=field):
        Tokenizer.load(tmp_path)
