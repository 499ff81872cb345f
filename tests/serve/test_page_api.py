"""What the lens asks for: logits of a place, parts of pages, its own files."""

import base64
import re

import numpy as np
import pytest
import torch

from lucidlm.measure.comparison import compare
from lucidlm.measure.explanation import explain
from lucidlm.serve.page_api import VIEWS, lens_files

TEXT = "The old lamp burned low."


@pytest.mark.parametrize("place", [0, 5, len(TEXT) - 1])
def test_the_logits_of_a_place_give_the_probability_that_explain_says(server, tiny, place):
    answer = server.ask("POST", "/api/logits", {"text": TEXT, "place": place}).json
    logits = np.frombuffer(base64.b64decode(answer["logits"]), "<f4").astype(np.float64)
    token = explain(tiny.model, tiny.tokenizer, TEXT).tokens[place]
    assert answer["id"] == token.id
    assert len(logits) == tiny.model.vocab_size
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert probabilities[token.id] == pytest.approx(token.probability, rel=1e-5)
    names = dict(answer["names"])
    assert names[token.id] == token.text
    best = [other.id for other in token.alternatives]
    assert [id for id, _ in answer["names"]][: len(best)] == best


def test_the_logits_are_the_models_own(server, tiny):
    answer = server.ask("POST", "/api/logits", {"text": TEXT, "place": 3}).json
    prefix = [] if tiny.model.document_prefix_id is None else [tiny.model.document_prefix_id]
    ids = prefix + list(tiny.tokenizer.encode(TEXT))
    with torch.inference_mode():
        wanted = tiny.model(torch.tensor([ids[:4]]))[0, -1]
    logits = np.frombuffer(base64.b64decode(answer["logits"]), "<f4")
    np.testing.assert_allclose(logits, wanted.numpy(), rtol=0, atol=2e-5)


def test_a_place_beyond_the_text_is_refused(server):
    reply = server.ask("POST", "/api/logits", {"text": "abc", "place": 99})
    assert reply.status == 400
    assert "give a smaller one" in reply.fault["message"]
    assert server.ask("POST", "/api/logits", {"text": "", "place": 0}).status == 400
    assert server.ask("POST", "/api/logits", {"text": "abc", "place": -1}).status == 400


def test_the_comparison_is_that_of_the_command_line(server):
    models = [(each.model, each.tokenizer) for each in server.engine.served.values()]
    wanted = compare(*models, TEXT, names=("tiny", "other")).to_dict()
    found = server.ask("POST", "/api/compare", {"a": "tiny", "b": "other", "text": TEXT}).json
    assert found["difference"] == wanted["difference"]
    assert found["verdict"] == wanted["verdict"]
    part = server.ask("POST", "/api/compare/part", {"a": "tiny", "b": "other", "text": TEXT})
    assert part.headers["content-type"].startswith("text/html")
    assert f"{wanted['bits_per_byte_a']:.4f}" in part.body.decode()


@pytest.mark.parametrize("route", ["/api/explain/part", "/api/compare/part"])
def test_a_part_escapes_what_looks_like_html(server, route):
    text = "<script>alert(1)</script><img src=x>"
    body = {"texts": [text]} if "explain" in route else {"a": "tiny", "b": "other", "text": text}
    part = server.ask("POST", route, body).body.decode()
    assert "<img" not in part
    assert "<script>" not in part.replace('<script type="application/json">', "")


@pytest.mark.parametrize("name", ["", *VIEWS])
def test_each_view_is_the_same_page(server, name):
    reply = server.ask("GET", f"/{name}")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert b'<main id="view"' in reply.body


def test_the_files_of_the_lens_fetch_nothing_from_another_host(server):
    files = dict(lens_files())
    assert {"app.js", "tokens.js", "look.css", "lens.css", "index.html"} <= set(files)
    for name, content in files.items():
        assert server.ask("GET", f"/lens/{name}").status == 200
        assert not re.search(rb"""(src|href|import|from|url)[\s(=]*["']?(https?:)?//""", content), name
        assert b"innerHTML" not in content or content.count(b"part.innerHTML = ") == content.count(
            b"innerHTML"
        )


@pytest.mark.parametrize(
    "name", ["..%2f..%2fpyproject.toml", "%2e%2e/app.py", "app.py", "../../etc/passwd", "x" * 3000]
)
def test_a_name_of_a_file_is_never_a_path(server, name):
    assert server.ask("GET", f"/lens/{name}").status == 404
