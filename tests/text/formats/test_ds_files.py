"""Token files of datatrove: written by hand, and by datatrove itself where it is installed."""

import ast
import inspect
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from models import SMALLEST
from written_files import read, reason_of, refusal

from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.documents import read_documents
from lucidlm.text.preparation import prepare
from lucidlm.text.tokenizer import Tokenizer

GPT2 = Tokenizer.gpt2()
TEXTS = ["The tide came in.\n\nAnna wrote it down.", "Größe, 猫 🙂", "the end"]


def write_ds(path, texts, tokenizer=GPT2, dtype="<u2", named="gpt2"):
    ids, ends = [], []
    for text in texts:
        ids += [*tokenizer.encode(text), tokenizer.end_of_text]
        ends.append(len(ids))
    path.write_bytes(np.array(ids, dtype).tobytes())
    path.with_name(f"{path.name}.index").write_bytes(np.array(ends, "<u8").tobytes())
    size = np.dtype(dtype).itemsize
    if named:
        path.with_name(f"{path.name}.metadata").write_text(f"{named}|{size}\n{len(ids)}\n{len(ids)} T")
    return path


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_documents_come_back_as_they_were_without_their_ends(tmp_path, dtype):
    path = write_ds(tmp_path / "a.ds", TEXTS, dtype=dtype)
    account = Account()
    documents = list(read_documents([tmp_path], account))
    assert [document.text() for document in documents] == TEXTS
    assert [document.source for document in documents] == [f"{path}:{number}" for number in (1, 2, 3)]
    for document in documents:
        document.add_to(account)
    # The index and the metadata are read with it, and nothing is left out.
    assert (account.passed, account.seen) == ({}, {})
    assert account.extracted == {"ds": path.stat().st_size}


def test_the_tokenizer_beside_it_counts_then_the_one_that_is_named(tmp_path, trained):
    (tmp_path / "run").mkdir()
    trained.save(tmp_path / "run")
    named = tmp_path / "run" / "tokenizer.json"
    path = write_ds(tmp_path / "a.ds", TEXTS[:1], trained, named=named)
    assert read(path) == TEXTS[:1]
    unknown = write_ds(tmp_path / "b.ds", TEXTS[:1], trained, named="someone/else")
    assert "its tokenizer, 'someone/else', is not here; copy its tokenizer.json beside it" in refusal(unknown)
    silent = write_ds(tmp_path / "c.ds", TEXTS[:1], trained, named=None)
    assert "nothing says which tokenizer wrote it" in refusal(silent)
    shutil.copy(named, tmp_path / "tokenizer.json")
    assert read(unknown) == read(silent) == TEXTS[:1]
    assert "copy the tokenizer.json that it was written with" in refusal(write_ds(path, TEXTS))


def test_control_tokens_within_a_document_are_counted_and_documents_of_them_alone_have_no_text(tmp_path):
    path = tmp_path / "a.ds"
    ids = [*GPT2.encode("one"), 50256, *GPT2.encode(" two"), 50256, 50256]
    path.write_bytes(np.array(ids, "<u2").tobytes())
    path.with_name("a.ds.index").write_bytes(np.array([0, len(ids) - 1, len(ids)], "<u8").tobytes())
    path.with_name("a.ds.metadata").write_text(f"gpt2|2\n{len(ids)}\n")
    (document,) = read_documents([path])
    assert document.text() == "one two"
    assert document.account.seen == {reasons.CONTROL_TOKENS: 1}


def test_what_does_not_fit_is_refused(tmp_path):
    path = write_ds(tmp_path / "a.ds", TEXTS)
    data, index = path.read_bytes(), path.with_name("a.ds.index")
    ends = index.read_bytes()
    for tokens, borders in ((data[:-2], ends), (data, ends[:-3]), (data, b""), (data, ends[::-1])):
        path.write_bytes(tokens)
        index.write_bytes(borders)
        assert reason_of(path) == reasons.DAMAGED
    path.write_bytes(data)
    index.write_bytes(np.array([9, 3, len(data) // 2], "<u8").tobytes())
    assert "ends at token 3 before it begins at 9" in refusal(path)
    index.unlink()
    assert "write the tokens with save_index=True" in refusal(path)


def test_an_error_names_the_file_that_is_wrong_and_what_it_has(tmp_path):
    path = write_ds(tmp_path / "a.ds", TEXTS)
    index, metadata = path.with_name("a.ds.index"), path.with_name("a.ds.metadata")
    tokens = path.stat().st_size // 2
    index.write_bytes(np.array([1 << 63, tokens], "<u8").tobytes())
    assert (
        f"ends at token {1 << 63:,}, but the file has {tokens:,}); copy it again, with a.ds.index"
        in refusal(path)
    )
    index.write_bytes(b"123")
    assert "its index has 3 bytes, not 8 for each document" in refusal(path)
    for each in (index, metadata):
        write_ds(path, TEXTS)
        each.unlink()
        each.mkdir()
        assert f"{each}: cannot be read (Is a directory)" in refusal(path)
        each.rmdir()
    write_ds(path, TEXTS, named="x" * 5000)
    assert "its tokenizer, 'xxx" in refusal(path)
    assert len(refusal(path)) < 300 + len(str(path))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_probes", "quick_judging")
def test_a_corpus_that_datatrove_wrote_is_prepared_and_trained_on(
    tmp_path, trained, make_config, make_tiny_plan
):
    pytest.importorskip("datatrove")
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    from lucidlm.training.loop import train

    (tmp_path / "texts").mkdir()
    texts = [f"{number}: {TEXTS[number % 2]} {'word ' * number}." for number in range(40)]
    for part in range(2):
        lines = (json.dumps({"text": text, "id": str(n)}) + "\n" for n, text in enumerate(texts[part::2]))
        (tmp_path / "texts" / f"{part}.jsonl").write_text("".join(lines))
    trained.save(tmp_path)
    tokenizer = str(tmp_path / "tokenizer.json")
    pipeline = [
        JsonlReader(str(tmp_path / "texts")),
        DocumentTokenizer(str(tmp_path / "tokens"), tokenizer, eos_token="<|endoftext|>", seed=1),
    ]
    LocalPipelineExecutor(pipeline, tasks=2, logging_dir=str(tmp_path / "logs")).run()
    assert sorted(read(tmp_path / "tokens")) == sorted(texts)
    out = tmp_path / "out"
    corpus = prepare(tmp_path / "tokens", out, tokenizer=tokenizer, workers=2)
    assert corpus.tokenizer.fingerprint() == trained.fingerprint()
    assert corpus.characters == sum(map(len, texts))
    written = sum(each.stat().st_size for each in (tmp_path / "tokens").glob("*.ds")) // 2
    assert corpus.train_tokens + corpus.validation_tokens == written
    run = make_config(
        text=(str(tmp_path / "tokens"),), tokenizer=tokenizer, out=str(tmp_path / "run"), steps=2
    )
    plan = make_tiny_plan(steps=2, model=SMALLEST.changed(vocab_size=trained.vocab_size))
    assert train(run, plan=plan).step == 2


def test_the_pipelines_of_the_page_on_large_texts_name_what_datatrove_has():
    pytest.importorskip("datatrove")
    page = (Path(__file__).parents[3] / "docs" / "preparing.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(programs) == 3
    for program in programs:
        imports, main = ast.parse(program).body[:-1], ast.parse(program).body[-1]
        names: dict = {}
        exec(compile(ast.Module(imports, []), "page", "exec"), names)
        calls = [
            each for each in ast.walk(main) if isinstance(each, ast.Call) and isinstance(each.func, ast.Name)
        ]
        assert len(calls) == 3
        for call in calls:
            named = {word.arg: word.value for word in call.keywords}
            inspect.signature(names[call.func.id]).bind(*call.args, **named)
