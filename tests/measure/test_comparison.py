import itertools
import json
import math

import numpy as np
import pytest
import torch
from comparisons import BYTES, PAIRS, STORY, T, copied, lively, longer
from oracles import log_sum_exp

from lucidlm.errors import ConfigError, DataError, NumbersError
from lucidlm.measure.atoms import Atoms, Passage
from lucidlm.measure.comparison import compare, compare_texts
from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.measure.protocol import Protocol
from lucidlm.measure.spans import SPAN_BYTES, at_words
from lucidlm.text.excerpts import Excerpt
from lucidlm.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def bytes_model():
    return lively(257, seed=1, prefix=256), BYTES


@pytest.fixture(scope="module")
def pairs_model():
    return lively(PAIRS.vocab_size, seed=2, prefix=PAIRS.end_of_text), PAIRS


def losses(side, text: str) -> list[tuple[int, int, float]]:
    """(first byte, byte behind the last, bits) of each scored token, one forward pass a token."""
    model, tokenizer = side
    ids = tokenizer.encode(text)
    prefix = [] if model.document_prefix_id is None else [model.document_prefix_id]
    sequence, found, at = [*prefix, *ids], [], 0
    for place, token in enumerate(ids):
        end = at + len(tokenizer.token_bytes(token))
        given = place + len(prefix)
        if given:
            start = 0
            while given - 1 >= start + T:
                start += T // 2
            with torch.no_grad():
                logits = model(torch.tensor([sequence[start:given]]))[0, -1].double().numpy()
            found.append((at, end, (log_sum_exp(logits) - logits[token]) / math.log(2)))
        at = end
    return found


def by_hand(a, b, text: str) -> tuple[int, float, float]:
    """Common bytes, and the bits of both, from the first byte on at which scored tokens of both start."""
    of_a, of_b = losses(a, text), losses(b, text)
    first = min({start for start, *_ in of_a} & {start for start, *_ in of_b})
    sums = [math.fsum(bits for start, _, bits in rows if start >= first) for rows in (of_a, of_b)]
    return len(text.encode()) - first, *sums


@pytest.mark.parametrize("prefixes", [(True, True), (True, False), (False, True), (False, False)])
def test_bits_and_bytes_are_those_of_one_token_at_a_time(bytes_model, pairs_model, prefixes, monkeypatch):
    for (model, _), kept in zip((bytes_model, pairs_model), prefixes, strict=True):
        if not kept:
            monkeypatch.setattr(model, "config", model.config.changed(document_prefix_id=None))
    count, bits_a, bits_b = by_hand(bytes_model, pairs_model, STORY)
    result = compare(bytes_model, pairs_model, STORY)
    assert result.bytes_scored == count
    assert result.bytes_total == len(STORY.encode())
    assert (count < result.bytes_total) == (False in prefixes)
    assert result.bits_per_byte_a == pytest.approx(bits_a / count, rel=1e-5)
    assert result.bits_per_byte_b == pytest.approx(bits_b / count, rel=1e-5)
    assert result.difference == pytest.approx((bits_a - bits_b) / count, rel=1e-4)


def test_with_a_prefix_each_side_is_what_evaluate_says(bytes_model, pairs_model):
    result = compare(bytes_model, pairs_model, STORY)
    for side, bits, (model, tokenizer) in (
        (result.a, result.bits_per_byte_a, bytes_model),
        (result.b, result.bits_per_byte_b, pairs_model),
    ):
        alone = evaluate(model, tokenizer, STORY)
        assert bits == pytest.approx(alone.bits_per_byte, rel=1e-6)
        assert side.loss_nats == pytest.approx(alone.loss_nats, rel=1e-6)
        assert side.tokens == alone.tokens_scored


def test_one_model_given_twice_is_called_so_and_nothing_is_compared(bytes_model):
    for other in (bytes_model, copied(bytes_model)):
        result = compare(bytes_model, other, longer(3), names=("one", "two"))
        assert result.same_model
        assert result.difference == 0
        assert result.interval is None
        assert result.verdict.startswith("one and two are the same model twice")
        assert result.notes == ()
        assert result.a_wins == result.b_wins == ()
        assert result.to_dict()["same_model"] is True
        assert "0.0000" not in str(result).splitlines()[4]


def test_equal_weights_that_are_read_otherwise_are_no_model_twice(bytes_model):
    model, tokenizer = copied(bytes_model)
    model.config = model.config.changed(document_prefix_id=None)
    result = compare(bytes_model, (model, tokenizer), longer(3))
    assert not result.same_model
    assert result.interval is not None


def test_the_other_way_round_everything_changes_its_sign(bytes_model, pairs_model):
    one = compare(bytes_model, pairs_model, longer(8))
    other = compare(pairs_model, bytes_model, longer(8))
    assert other.difference == pytest.approx(-one.difference, rel=1e-9)
    assert other.interval.low == pytest.approx(-one.interval.high, abs=0.02)
    assert [span.text for span in other.a_wins] == [span.text for span in one.b_wins]
    for result in (one, other):
        better = "B" if result.difference > 0 else "A"
        assert result.verdict.startswith(f"{better} predicts this text better")
        assert result.interval.low <= result.difference <= result.interval.high


def test_documents_are_scored_alone_and_are_the_units(bytes_model, pairs_model):
    texts = [f"{number}. {STORY[number : 60 + 3 * number]}" for number in range(12)]
    together = compare_texts(bytes_model, pairs_model, texts)
    alone = [compare_texts(bytes_model, pairs_model, [text]) for text in texts]
    assert together.a.nats == pytest.approx(sum(each.a.nats for each in alone), rel=1e-6)
    assert together.bytes_scored == sum(each.bytes_scored for each in alone)
    assert together.interval is not None
    assert (together.interval.units, together.interval.of) == (12, "documents")
    assert all(each.interval is None for each in alone)


def test_few_blocks_have_no_interval_and_a_line_says_why(bytes_model, pairs_model):
    result = compare(bytes_model, pairs_model, STORY[:60])
    assert result.interval is None
    assert "no 95 % interval" in result.verdict
    assert "2 blocks of text" in result.verdict
    assert "longer text" in str(result)


def test_the_pairing_makes_the_interval_narrower_than_that_of_two_alone(bytes_model):
    model, _ = bytes_model
    torch.manual_seed(5)
    near = lively(257, seed=1, prefix=256)
    with torch.no_grad():
        near.head.weight.add_(0.02 * torch.randn_like(near.head.weight))
    paired = compare(bytes_model, (near, BYTES), longer(6)).interval
    single = evaluate(model, BYTES, longer(6)).bits_interval
    assert paired.high - paired.low < 0.5 * (single.high - single.low)


def test_spans_are_pieces_of_the_text_with_their_sums_and_do_not_overlap(bytes_model, pairs_model):
    text = STORY * 4
    result, data = compare(bytes_model, pairs_model, text), text.encode()
    rows = [losses(side, text) for side in (bytes_model, pairs_model)]
    for spans, sign in ((result.a_wins, -1), (result.b_wins, 1)):
        for span in spans:
            assert span.text == data[span.start : span.end].decode(errors="backslashreplace")
            assert span.end - span.start >= SPAN_BYTES or span.end == len(data)
            for bits, tokens in zip((span.bits_a, span.bits_b), rows, strict=True):
                inside = [cost for start, _, cost in tokens if span.start <= start < span.end]
                assert bits == pytest.approx(math.fsum(inside), rel=1e-4)
            assert sign * span.difference > 0
        ordered = sorted(spans, key=lambda span: span.start)
        assert all(one.end <= two.start for one, two in itertools.pairwise(ordered))
        assert [abs(s.difference) for s in spans] == sorted((abs(s.difference) for s in spans), reverse=True)


def test_atoms_cut_the_text_where_both_have_a_token(bytes_model, pairs_model):
    result = compare(bytes_model, pairs_model, STORY)
    (atoms,) = result.atoms
    ends = {end for _, end, _ in losses(pairs_model, STORY)}
    assert set(atoms.bounds.tolist()) == {0} | ends
    assert atoms.bits_b.sum() == pytest.approx(result.b.nats / math.log(2))


def test_its_dictionary_is_json_and_its_string_names_both(bytes_model, pairs_model):
    result = compare(bytes_model, pairs_model, longer(8), names=("one", "two"))
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["difference"] == result.difference
    assert values["interval"]["low"] == result.interval.low
    assert values["a"]["name"] == "one"
    assert values["same_model"] is False
    for part in (
        "one",
        "two",
        f"{result.bits_per_byte_a:.4f}",
        "where one saves the most bits:",
        "all of them",
    ):
        assert part in str(result)


def test_the_page_holds_the_whole_text_and_no_markup_of_it(bytes_model, pairs_model, tmp_path):
    text = "<script>alert(1)</script> & all " * 4
    result = compare(bytes_model, pairs_model, text, names=("<b>one", "two"))
    result.write_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<b>one" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('<i class="k') >= len(result.atoms[0].bits_a)
    assert "k" in result._repr_html_()


def test_what_cannot_be_compared_is_an_error_that_says_why(bytes_model, pairs_model):
    with pytest.raises(ConfigError, match=r"text=\.\.\. or path="):
        compare(bytes_model, pairs_model)
    with pytest.raises(DataError, match="no byte"):
        compare(bytes_model, pairs_model, "")
    with pytest.raises(DataError, match="no byte"):
        compare(bytes_model, pairs_model, "a", protocol=Protocol(prefix="none"))
    with pytest.raises(ConfigError, match="--stride 17"):
        compare(bytes_model, pairs_model, STORY, protocol=Protocol(stride=T + 1))
    model, _ = bytes_model
    broken = lively(257, seed=1, prefix=256)
    with torch.no_grad():
        broken.final_norm.weight[0] = math.nan
    with pytest.raises(NumbersError, match="NaN"):
        compare((broken, BYTES), (model, BYTES), STORY)


def test_a_tokenizer_that_changes_the_text_is_refused(bytes_model, monkeypatch):
    model, _ = bytes_model
    changed = Tokenizer.bytes()
    monkeypatch.setattr(changed, "encode", lambda data: list(data.replace(b"e", b"E")))
    with pytest.raises(ConfigError, match="changes the text"):
        compare((model, changed), (model, BYTES), STORY)


def test_paths_are_read_as_evaluate_reads_them(bytes_model, pairs_model, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(STORY[number:], encoding="utf-8")
    result = compare(bytes_model, pairs_model, path=str(tmp_path))
    assert result.documents == 3
    assert result.bytes_total == sum(len(STORY[number:].encode()) for number in range(3))
    assert np.isfinite(result.difference)


def test_a_text_and_its_path_agree_and_say_what_was_left_out(bytes_model, pairs_model, tmp_path):
    text = (STORY * 2).replace("\n", "\r\n")
    (tmp_path / "a.txt").write_bytes(text.encode())
    given = compare(bytes_model, pairs_model, text)
    read = compare(bytes_model, pairs_model, path=str(tmp_path / "a.txt"))
    assert (given.a, given.b, given.bytes_total) == (read.a, read.b, read.bytes_total)
    assert given.to_dict()["bytes_left_out"] == read.to_dict()["bytes_left_out"] == {"carriage_returns": 2}
    assert read.to_dict()["bytes_of_files"] == len(text.encode()) == read.bytes_total + 2
    assert "left out 2 of the file's" in str(read)


def pieces(count: int) -> list[Excerpt]:
    """A book's pieces, each with the text before it."""
    data = np.array(BYTES.encode(longer(6)))
    starts = [5 + 100 * number for number in range(count)]
    return [Excerpt(data[start : start + 30], data[max(0, start - 50) : start]) for start in starts]


def test_a_runs_own_pieces_score_what_evaluate_scores(bytes_model, pairs_model):
    model, tokenizer = bytes_model
    held_out = pieces(8)
    passages = [Passage.of_excerpt(each, tokenizer) for each in held_out]
    result = compare_texts(bytes_model, pairs_model, passages, design="strata")
    alone = evaluate_documents(model, tokenizer, held_out, design="strata")
    both = compare_texts(bytes_model, bytes_model, passages, design="strata")
    assert both.bits_per_byte_a == pytest.approx(alone.bits_per_byte, rel=1e-6)
    assert both.bytes_scored == alone.bytes_scored == sum(len(each.ids) for each in held_out)
    assert (result.interval.of, result.interval.units) == ("book", 8)


def test_another_tokenizer_reads_the_same_bytes_before_a_piece(pairs_model):
    model, tokenizer = pairs_model
    (piece,) = pieces(1)
    passage = Passage.of_excerpt(piece, BYTES)
    result = compare_texts((model, tokenizer), (model, tokenizer), [passage], design="strata")
    data, before = (BYTES.decode_bytes(ids) for ids in (piece.ids, piece.before))
    ids = [np.array(tokenizer.encode(part)) for part in (data, before)]
    expected = evaluate_documents(model, tokenizer, [Excerpt(*ids)], design="strata")
    assert result.a.nats == pytest.approx(expected.nats, rel=1e-6)
    assert result.a.tokens == expected.tokens_scored == len(ids[0])


def test_spans_begin_and_end_between_words_where_the_text_has_blanks():
    words = ("a small boat came into the harbour before the long night began " * 30).encode()
    cuts = np.arange(0, len(words) + 1, 3)
    cuts = np.unique(np.append(cuts, len(words)))
    draw = np.random.default_rng(0)
    atoms = Atoms(words, cuts, *draw.random((2, len(cuts) - 1)))
    ends = np.searchsorted(cuts, cuts[:-1] + SPAN_BYTES).clip(max=len(cuts) - 1)
    starts, moved = at_words(atoms, ends)
    blank = lambda place: words[place : place + 1] in (b" ", b"") or words[place - 1 : place] in (b" ", b"")  # noqa: E731
    assert 0 < starts.sum() < len(starts)
    assert all(blank(cuts[place]) for place in np.flatnonzero(starts))
    assert all(blank(cuts[place]) for place in moved)
    assert (moved >= ends).all()
    without = Atoms(words.replace(b" ", b"x"), cuts, *draw.random((2, len(cuts) - 1)))
    starts, moved = at_words(without, ends)
    assert starts.sum() > 0.9 * len(starts)
    assert (moved[: len(ends) // 2] == ends[: len(ends) // 2]).all()
