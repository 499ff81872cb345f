import itertools
import math
import random

import numpy as np
import pytest
import torch
from oracles import softmax

from lucidlm.errors import LucidError
from lucidlm.measure.diagnosis import BINS, Findings, best_of, ranks_of
from lucidlm.measure.evaluation import evaluate, evaluate_documents
from lucidlm.measure.intervals import interval_of_ratio
from lucidlm.measure.protocol import Protocol
from lucidlm.measure.scoring import Scorer
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.text.tokenizer import Tokenizer

T = 16
BYTES = Tokenizer.bytes()
STORY = (
    "The old clock-maker wound each of his clocks at dusk; one night, none of them would stop. Who knew? " * 3
)


def lively(vocab_size: int = 257) -> GPT:
    torch.manual_seed(0)
    shape = {"vocab_size": vocab_size, "context_length": T, "emb_dim": 32, "n_layers": 1, "n_heads": 2}
    model = GPT(GPTConfig(**shape)).eval()
    with torch.no_grad():
        model.head.weight.mul_(3)
    model.config = model.config.changed(document_prefix_id=256)
    return model


@pytest.fixture(scope="module")
def model():
    return lively()


def rows_of(model, *, stride=T // 2):
    """Probabilities (N, V) in float64, targets (N,), inputs before each (N,) of the story's tokens."""
    ids = np.array(BYTES.encode(STORY))
    logits, targets, seen = [], [], []
    for piece in Scorer(model, BYTES, Protocol(stride=stride, batch_size=1)).pieces([ids]):
        logits.append(piece.logits.numpy())
        targets += piece.targets.tolist()
        seen += range(piece.position + 1, piece.position + 1 + len(piece.targets))
    return softmax(np.concatenate(logits)), np.array(targets), np.array(seen)


def textbook_ranks(probabilities, targets):
    order = [sorted(range(len(row)), key=lambda id: (-row[id], id)) for row in probabilities]
    return np.array([places.index(target) + 1 for places, target in zip(order, targets, strict=True)])


@pytest.mark.parametrize("stride", [T // 2, T])
def test_accuracy_and_ranks_are_those_of_a_sorted_list(model, stride):
    probabilities, targets, _ = rows_of(model, stride=stride)
    ranks = textbook_ranks(probabilities, targets)
    found = evaluate(model, BYTES, STORY, protocol=Protocol(stride=stride)).diagnosis
    assert found.accuracy_at_1 == pytest.approx((ranks == 1).mean())
    assert found.accuracy_at_5 == pytest.approx((ranks <= 5).mean())
    assert found.mean_rank == pytest.approx(ranks.mean())
    assert found.median_rank == np.median(ranks)


@pytest.mark.parametrize("stride", [1, T // 2, T])
def test_calibration_is_the_mean_distance_over_15_bins(model, stride):
    probabilities, targets, _ = rows_of(model, stride=stride)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    error = 0.0
    for index in range(BINS):
        inside = (confidence >= index / BINS) & (confidence < (index + 1) / BINS)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    found = evaluate(model, BYTES, STORY, protocol=Protocol(stride=stride)).diagnosis
    assert BINS == 15
    assert found.calibration_error == pytest.approx(error, abs=1e-6)
    assert sum(each.tokens for each in found.reliability) == len(targets)
    for each in found.reliability:
        assert each.low <= each.confidence <= each.high
        assert 0 <= each.accuracy <= 1


def test_losses_by_position_are_means_of_tokens_with_so_many_before(model):
    probabilities, targets, seen = rows_of(model)
    nats = -np.log(probabilities[np.arange(len(targets)), targets])
    groups = evaluate(model, BYTES, STORY).diagnosis.by_position
    assert [(each.low, each.high) for each in groups] == [(1, 1), (2, 3), (4, 7), (8, 15), (16, 16)]
    for each in groups:
        inside = (seen >= each.low) & (seen <= each.high)
        assert each.tokens == inside.sum()
        assert each.loss_nats == pytest.approx(nats[inside].mean(), rel=1e-5)


@pytest.mark.parametrize("stride", [1, 7, T])
@pytest.mark.parametrize("prefix", ["auto", "none"])
def test_all_groups_together_are_the_loss(model, stride, prefix):
    result = evaluate(model, BYTES, STORY, protocol=Protocol(stride=stride, prefix=prefix))
    for groups in (result.diagnosis.by_position, result.diagnosis.by_frequency):
        assert sum(each.tokens for each in groups) == result.tokens_scored
        nats = sum(each.tokens * each.loss_nats for each in groups)
        assert nats == pytest.approx(result.nats, rel=1e-12)
        assert all(one.high < other.low for one, other in itertools.pairwise(groups))
    assert sum(each.tokens for each in result.diagnosis.reliability) == result.tokens_scored


def test_side_by_side_each_position_is_met_as_often(model):
    groups = evaluate(model, BYTES, STORY[: 6 * T], protocol=Protocol(stride=T)).diagnosis.by_position
    assert [each.tokens for each in groups] == [6 * (each.high - each.low + 1) for each in groups]
    # At stride 1 all but the first window's tokens have a whole context before them.
    groups = evaluate(model, BYTES, STORY[: 6 * T], protocol=Protocol(stride=1)).diagnosis.by_position
    assert groups[-1].tokens == 5 * T + 1


def test_token_counts_of_the_tokenizers_size_serve_a_model_with_more_ids():
    padded, ids = lively(300), np.array(BYTES.encode(STORY))
    counts = np.bincount(ids, minlength=257)
    one = evaluate_documents(padded, BYTES, [ids], token_counts=counts).diagnosis
    other = evaluate_documents(padded, BYTES, [ids]).diagnosis
    assert one.by_frequency == other.by_frequency
    assert (one.frequency_of, other.frequency_of) == ("the training text", "this text")


@pytest.mark.parametrize("given", [True, False])
def test_losses_by_frequency_are_means_of_tokens_that_stand_so_often(model, given):
    probabilities, targets, _ = rows_of(model)
    nats = -np.log(probabilities[np.arange(len(targets)), targets])
    counts = np.bincount(BYTES.encode("the clocks " * 30), minlength=257)
    found = evaluate_documents(
        model, BYTES, [np.array(BYTES.encode(STORY))], token_counts=counts if given else None
    ).diagnosis
    often = counts if given else np.bincount(targets, minlength=257)
    assert found.frequency_of == ("the training text" if given else "this text")
    assert sum(each.tokens for each in found.by_frequency) == len(targets)
    assert (found.by_frequency[0].low == 0) == given
    for each in found.by_frequency:
        inside = (often[targets] >= each.low) & (often[targets] <= each.high)
        assert each.tokens == inside.sum()
        assert each.loss_nats == pytest.approx(nats[inside].mean(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_the_batch_size_changes_nothing(model, batch_size):
    one = evaluate(model, BYTES, STORY, protocol=Protocol(batch_size=batch_size)).diagnosis
    other = evaluate(model, BYTES, STORY, protocol=Protocol(batch_size=2)).diagnosis
    assert one.mean_rank == other.mean_rank
    assert one.calibration_error == pytest.approx(other.calibration_error, abs=1e-6)
    assert one.by_position == pytest.approx(other.by_position) or all(
        a.tokens == b.tokens and a.loss_nats == pytest.approx(b.loss_nats, rel=1e-5)
        for a, b in zip(one.by_position, other.by_position, strict=True)
    )


def test_a_model_that_holds_all_tokens_equally_likely_is_not_right_each_time():
    model = lively()
    torch.nn.init.zeros_(model.head.weight)
    found = evaluate(model, BYTES, STORY).diagnosis
    assert found.accuracy_at_1 == 0
    assert found.mean_rank == pytest.approx(np.mean(BYTES.encode(STORY)) + 1)


def test_ranks_and_the_best_follow_the_order_of_argmax_among_equals():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 4, (50, 30), generator=generator).float()
    targets = torch.randint(0, 30, (50,), generator=generator)
    expected = textbook_ranks(logits.numpy(), targets.numpy())
    assert ranks_of(logits, targets).tolist() == expected.tolist()
    for count in (1, 5, 30, 40):
        best = best_of(logits, count)
        for row, ids in zip(logits.tolist(), best.tolist(), strict=True):
            assert ids == sorted(range(30), key=lambda id: (-row[id], id))[:count]
    assert (best_of(logits, 1)[:, 0] == logits.argmax(1)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ranks_hold_with_infinite_logits(dtype):
    logits = torch.tensor([[-torch.inf, 2.0, -torch.inf, 3.0]], dtype=dtype)
    assert ranks_of(logits, torch.tensor([1])).tolist() == [2]
    assert ranks_of(logits, torch.tensor([2])).tolist() == [4]


def test_ids_beyond_the_tokenizers_keep_their_probability_and_their_mass_is_told():
    padded = lively(300)
    ids = np.array(BYTES.encode(STORY))
    mass = []
    for piece in Scorer(padded, BYTES).pieces([ids]):
        mass += softmax(piece.logits.numpy())[:, 257:].sum(1).tolist()
    result = evaluate(padded, BYTES, STORY)
    assert result.diagnosis.padding_mass == pytest.approx(np.mean(mass), rel=1e-5)
    assert f"{np.mean(mass):.2%} of probability went to ids without a token" in str(result)
    assert evaluate(lively(), BYTES, STORY).diagnosis.padding_mass == 0


def test_a_sure_model_fills_the_last_bin():
    found = Findings(vocab_size=4, known_ids=4, context_length=3)
    logits = torch.tensor([[50.0, 0.0, 0.0, 0.0]] * 3)
    targets = torch.tensor([0, 0, 1])
    found.add(logits, targets, torch.tensor([0.0, 0.0, 50.0]), 0)
    (only,) = found.diagnosis(None).reliability
    assert (only.low, only.high) == (14 / 15, 1.0)
    assert (only.tokens, only.confidence, only.accuracy) == (3, 1.0, pytest.approx(2 / 3))


@pytest.mark.parametrize("ranks", [[2], [1, 4], [1, 2, 4], [3, 1, 1, 4], [1, 1, 4, 4], [4, 4, 4, 1]])
def test_the_median_of_an_even_count_is_the_mean_of_the_two_in_the_middle(ranks):
    found = Findings(vocab_size=4, known_ids=4, context_length=len(ranks))
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * len(ranks))
    targets = torch.tensor(ranks) - 1
    found.add(logits, targets, torch.nn.functional.cross_entropy(logits, targets, reduction="none"), 0)
    assert found.diagnosis(None).median_rank == np.median(ranks)


# Units and intervals.

WORDS = STORY.split()
BOOK = " ".join(random.Random(n).choice(WORDS) for n in range(200))  # copies would be one unit


def test_several_documents_are_the_units_and_one_is_cut_into_contexts(model):
    texts = [STORY[place : place + 40 + place] for place in range(12)]
    documents = [np.array(BYTES.encode(text)) for text in texts]
    many = evaluate_documents(model, BYTES, documents)
    assert (many.loss_interval.units, many.loss_interval.of) == (12, "documents")
    one = evaluate(model, BYTES, BOOK)
    assert (one.loss_interval.units, one.loss_interval.of) == (-(-len(BOOK) // T), "pages")
    for result in (many, one):
        assert result.loss_interval.low < result.loss_nats < result.loss_interval.high
        assert result.bits_interval.low < result.bits_per_byte < result.bits_interval.high
        assert result.perplexity_interval.low < result.perplexity < result.perplexity_interval.high
        assert str(result).count(f"95 % interval {result.loss_interval.clause}") == 3
        clause = result.loss_interval.clause
        certainty = f"the loss of the scored text is exact; the 95 % intervals are estimates {clause}"
        assert f"{certainty}; {result.loss_interval.caution}" == result.certainty
        assert result.certainty in str(result)


def test_units_do_not_depend_on_stride_or_batch(model):
    found = {
        evaluate(model, BYTES, BOOK, protocol=Protocol(stride=s, batch_size=3)).loss_interval.units
        for s in (1, 5, T)
    }
    assert found == {-(-len(BOOK) // T)}


def test_a_short_text_has_no_interval_and_a_line_says_why(model):
    result = evaluate(model, BYTES, STORY[: 9 * T])
    assert result.loss_interval is result.bits_interval is result.perplexity_interval is None
    assert "9 blocks of text" in result.no_interval.reason
    assert str(result.no_interval) in str(result)


def texts_of_unequal_length(count: int) -> list[np.ndarray]:
    return [np.array(BYTES.encode(STORY[place : place + 20 + 9 * place])) for place in range(count)]


@pytest.mark.parametrize("count", [9, 12, 25])
def test_each_document_is_a_unit(model, count):
    documents = texts_of_unequal_length(count)
    alone = [evaluate_documents(model, BYTES, [ids]) for ids in documents]
    nats = np.array([each.nats for each in alone])
    result = evaluate_documents(model, BYTES, documents, protocol=Protocol(batch_size=3))
    lengths = np.array([len(ids) for ids in documents])
    for found, sums in ((result.loss_interval, nats), (result.bits_interval, nats / math.log(2))):
        expected, _ = interval_of_ratio(sums, lengths, design="documents")
        assert found.units == expected.units == count
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert result.no_interval is None
    perplexities, losses = result.perplexity_interval, result.loss_interval
    assert (perplexities.low, perplexities.high) == pytest.approx(
        (math.exp(losses.low), math.exp(losses.high))
    )


@pytest.mark.parametrize("stride", [1, 5, T])
def test_of_one_document_each_piece_of_one_context_is_a_unit(model, stride):
    ids = np.array(BYTES.encode(BOOK))
    nats = np.zeros(len(ids))
    for piece in Scorer(model, BYTES, Protocol(stride=stride, batch_size=1)).pieces([ids]):
        chosen = softmax(piece.logits.numpy())[np.arange(len(piece.targets)), piece.targets.numpy()]
        nats[piece.start : piece.start + len(chosen)] = -np.log(chosen)
    starts = np.arange(0, len(ids), T)
    counts = np.diff(np.append(starts, len(ids)))
    expected, _ = interval_of_ratio(np.add.reduceat(nats, starts), counts, design="pages")
    found = evaluate(model, BYTES, BOOK, protocol=Protocol(stride=stride)).loss_interval
    assert found.units == expected.units
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-5)


def test_a_document_without_a_scored_token_is_no_unit(model):
    few = texts_of_unequal_length(9)
    result = evaluate_documents(model, BYTES, [*few, np.array([], np.int64)])
    assert result.documents == 10
    assert result.loss_interval == evaluate_documents(model, BYTES, few).loss_interval


def test_two_documents_have_no_interval_and_never_fall_back_to_blocks(model):
    result = evaluate_documents(model, BYTES, [np.array(BYTES.encode(part)) for part in (STORY, BOOK)])
    assert result.loss_interval is None
    assert "2 documents" in result.no_interval.reason


@pytest.mark.parametrize("stride", [2, 5])
def test_by_the_guides_way_of_counting_blocks_weigh_what_their_windows_weigh(model, stride):
    ids = np.array(BYTES.encode(BOOK))
    nats, weights, before = np.zeros(len(ids)), np.zeros(len(ids)), 0
    for begin in range(0, len(ids), stride):
        end = min(begin + T, len(ids))
        with torch.no_grad():
            odds = softmax(model(torch.tensor(ids[None, begin : end - 1]))[0].numpy())
        for place in range(max(before, 1), end):
            nats[place] = -np.log(odds[place - begin - 1, ids[place]])
            weights[place] = 1.0 if before == 0 else (end - before - 1) / (end - before)
        before = end
        if end == len(ids):
            break
    starts = np.arange(0, len(ids), T)
    sums, counts = np.add.reduceat(nats * weights, starts), np.add.reduceat(weights, starts)
    expected, _ = interval_of_ratio(sums, counts, design="pages")
    result = evaluate(model, BYTES, BOOK, protocol=Protocol("hf-guide", stride=stride))
    assert result.nats == pytest.approx(nats @ weights, rel=1e-6)
    found = result.loss_interval
    assert found.units == expected.units
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-5)


def test_by_the_guides_way_of_counting_the_interval_is_about_its_loss_and_bytes_have_none(model):
    result = evaluate(model, BYTES, BOOK, protocol=Protocol("hf-guide", stride=5))
    assert result.loss_interval.low < result.loss_nats < result.loss_interval.high
    assert result.bits_interval is None
    assert math.isnan(result.bits_per_byte)
    assert "bits per byte  not counted by this protocol" in str(result)


@pytest.mark.parametrize("text", ["a" * 700, "abcdefghijklmno\n" * 50], ids=["one letter", "one line"])
def test_a_text_that_repeats_has_no_interval_and_a_reason(model, text):
    result = evaluate(model, BYTES, text)
    assert result.loss_interval is result.bits_interval is None
    assert result.no_interval.code == "copies"
    assert "the text repeats itself: only" in result.no_interval.reason


def test_an_id_that_only_the_padded_vocabulary_has_is_an_error_of_ours():
    with pytest.raises(LucidError):
        evaluate_documents(lively(300), BYTES, [np.array([1, 2, 280])])
