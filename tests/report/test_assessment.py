"""An assessment is made of what each module says of the same weights and the same text."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from models import BUNDLED_STORY
from selectolax.lexbor import LexborHTMLParser

from lucidlm.measure.baselines import measure_baselines
from lucidlm.measure.continuation import measure_continuation
from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.measure.memorization import measure_memorization
from lucidlm.report.assessment import Background, HeldOut, assess, count_tokens, write_texts
from lucidlm.report.ladder import ladder_of
from lucidlm.report.memorization import sentence_of
from lucidlm.report.verdict import place_sentences
from lucidlm.runs.history import History
from lucidlm.text.corpus import train_documents, validation_documents
from lucidlm.text.excerpts import ids_of


def test_each_part_is_what_its_own_module_says(model, corpus, assessment):
    heldout, tokenizer = [*validation_documents(corpus)], corpus.tokenizer
    counts = np.bincount(np.asarray(corpus.train[:]), minlength=257)
    assert np.array_equal(count_tokens(corpus), counts)
    assert assessment.evaluation == evaluate_documents(model, tokenizer, heldout, token_counts=counts)
    assert assessment.baselines == measure_baselines(
        tokenizer, train_documents(corpus), heldout, prefix_id=256
    )
    written = write_texts(model, tokenizer)
    asked = measure_continuation(model, tokenizer, ids_of(heldout), corpus.train)
    assert assessment.memorization == measure_memorization(
        tokenizer, written, ids_of(heldout), corpus.train, continuation=asked
    )
    assert sentence_of(assessment.memorization) in assessment.sentences
    assert assessment.baselines.heldout_bytes == assessment.evaluation.bytes_scored


def test_the_same_weights_get_the_same_assessment(model, corpus, assessment):
    again = assess(model, corpus.tokenizer, HeldOut([*validation_documents(corpus)]), Background(corpus))
    assert again == assessment


def test_an_assessment_changes_no_generator_and_no_mode(assessed, model, corpus):
    state = torch.get_rng_state()
    model.train()
    assessed([*validation_documents(corpus)])
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    model.eval()


def test_the_ladder_pairs_the_model_with_each_baseline_on_the_same_bytes(assessment):
    evaluation, baselines = assessment.evaluation, assessment.baselines
    assert assessment.ladder == ladder_of(
        evaluation.bits_per_byte, evaluation.units, evaluation.design, baselines
    )
    assert evaluation.units[:, 2].sum() == baselines.heldout_bytes
    assert evaluation.units[:, 0].sum() == pytest.approx(evaluation.nats)
    assert {rung.outcome for rung in assessment.ladder.rungs if rung.baseline.bits is None} == {"not tested"}


def test_its_dictionary_is_json(assessment):
    values = json.loads(json.dumps(assessment.to_dict(), allow_nan=False))
    assert values["loss_nats"] == assessment.evaluation.loss_nats
    assert values["verdict"] == assessment.verdict
    assert len(values["baselines"]["rows"]) == len(assessment.baselines.rows)
    assert [rung["name"] for rung in values["ladder"]["rungs"]] == [
        row["name"] for row in values["baselines"]["rows"]
    ]
    assert values["units"] == assessment.evaluation.units.tolist()


def test_only_a_run_s_own_held_out_text_can_show_that_nothing_was_learnt(assessed, corpus):
    heldout = [*validation_documents(corpus)]
    own, other = assessed(heldout, history=History((), ())), assessed(heldout)
    assert own.ladder.learnt == "nothing"
    assert place_sentences(own.ladder, own=True) in own.sentences
    assert place_sentences(other.ladder, own=False) in other.sentences


def test_little_held_out_text_of_a_run_names_the_split_that_has_an_interval(assessed, corpus):
    short = np.array(corpus.tokenizer.encode(BUNDLED_STORY[:900]))
    for split, design, few in (
        ("documents", "documents", [short[:450], short[450:]]),
        ("end", "pages", [short]),
    ):
        of = dataclasses.replace(corpus, manifest=corpus.manifest | {"split": {"design": split}})
        own = assessed(few, design=design, corpus=of, history=History((), ()))
        other = assessed(few, design=design, corpus=of)
        for found, pieces in ((own, True), (other, False)):
            for missing in (found.evaluation.no_interval, found.ladder.no_interval):
                assert missing.code == f"few_{'blocks' if design == 'pages' else design}"
                assert ("--split pieces" in missing.way_out) == pieces


def test_without_a_corpus_it_is_the_evaluation_and_a_paragraph(model, corpus):
    documents = [*validation_documents(corpus)]
    alone = assess(model, corpus.tokenizer, HeldOut(iter(documents)), Background(remarks=("First.",)))
    assert alone.evaluation == evaluate_documents(model, corpus.tokenizer, documents)
    assert (alone.baselines, alone.ladder, alone.memorization, alone.sentences) == (
        None,
        None,
        None,
        ("First.",),
    )
    assert alone.explanation is not None


def test_a_notebook_shows_the_verdict_and_the_numbers_as_tables(assessment):
    shown = LexborHTMLParser(assessment._repr_html_())
    assert [node.text() for node in shown.css("p")][: len(assessment.sentences)] == [*assessment.sentences]
    numbers, ladder = shown.css("table")
    assert "bits per byte" in [node.text() for node in numbers.css("th")]
    names = [row.css_first("th").text() for row in ladder.css("tr")[1:]]
    assert names == [row["name"] for row in assessment.ladder.rows()]
