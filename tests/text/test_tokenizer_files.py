"""Folders of 2020 to 2022, with vocab.json and merges.txt, against transformers reading the same files."""

import json

import pytest

from lucidlm.errors import WeightsError
from lucidlm.text.byte_level import END_OF_TEXT
from lucidlm.text.tokenizer import Tokenizer

TEXT = "It's 1874: the lighthouse's   oil, 1,200 litres!\n\n  déjà vu 東京 👩‍👩‍👧 <pad> <|endoftext|>\r\n"


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train([TEXT * 3, "the lighthouse and the ferry " * 20], 400)


@pytest.fixture
def older(trained, tmp_path):
    """older(version=True, model_type=..., **tokenizer_config): writes such a folder."""

    def write(*, version=True, model_type="gpt2", added=(), special=None, **settings):
        model = trained.document()["model"]
        (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
        lines = [" ".join(pair) for pair in model["merges"]]
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2"] * version + lines) + "\n")
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        if settings:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        if added:
            (tmp_path / "added_tokens.json").write_text(json.dumps(dict(added)))
        if special:
            (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gpt2", {}),
        ("gpt2", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}),
        ("qwen2", {"tokenizer_class": "Qwen2Tokenizer"}),
    ],
)
def test_vocab_and_merges_give_transformers_ids_and_the_text_back(older, model_type, settings):
    import transformers

    folder = older(model_type=model_type, **settings)
    ours = Tokenizer.load(folder)
    kind = transformers.Qwen2Tokenizer if model_type == "qwen2" else transformers.GPT2Tokenizer
    oracle = kind.from_pretrained(folder)
    text = TEXT.replace(END_OF_TEXT, "")  # which transformers reads as control, and we never
    assert ours.encode(text) == oracle(text)["input_ids"]
    spelled = ours.decode(ours.encode(TEXT))
    assert spelled == (" " if settings.get("add_prefix_space") else "") + TEXT
    assert ours.end_of_text == oracle.eos_token_id == 330


def test_a_merges_file_without_its_version_line_keeps_its_first_merge(older, trained):
    with_line, without = Tokenizer.load(older()), Tokenizer.load(older(version=False))
    assert with_line.fingerprint() == without.fingerprint() == trained.fingerprint()


def test_added_tokens_are_text_unless_they_are_named_as_control(older):
    folder = older(added={"<pad>": 331, "<note>": 332}, special={"pad_token": "<pad>"})
    tokenizer = Tokenizer.load(folder)
    text = "a <note> and <pad>"
    assert 332 in tokenizer.encode(text)
    assert 331 not in tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_token_that_is_put_before_each_text_is_kept(older):
    assert Tokenizer.load(older(add_bos_token=True)).begin_of_text == 330
    assert Tokenizer.load(older(add_bos_token=False)).begin_of_text is None


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("merges.txt", None, r"merges\.txt: not there"),
        ("merges.txt", "#version: 0.2\nt h</w>\n", "merge 1"),
        ("merges.txt", "a b c\n", "merge 1"),
        ("merges.txt", "a zzzz\n", "cannot read it"),
        ("vocab.json", "[]", "not a JSON object"),
        ("vocab.json", '{"a": 0}', "have no token"),
        ("tokenizer_config.json", '{"tokenizer_class": "CLIPTokenizer"}', "CLIPTokenizer"),
        ("config.json", '{"model_type": "clip"}', "clip"),
    ],
)
def test_a_folder_of_another_kind_is_refused_in_one_line(older, file, content, reason):
    folder = older()
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(WeightsError, match=reason) as refused:
        Tokenizer.load(folder)
    assert "\n" not in str(refused.value)


def test_a_folder_with_another_librarys_vocabulary_is_told_so(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a")
    with pytest.raises(WeightsError, match="SentencePiece"):
        Tokenizer.load(tmp_path)
