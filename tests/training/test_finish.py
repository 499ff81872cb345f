"""What a run says at its end agrees with its records, also where the last save failed."""

import contextlib
from dataclasses import replace

import pytest
from recorded import Recorded
from trainings import last_of

from lucidlm.runs.checkpoints import save_checkpoint
from lucidlm.runs.history import read_history
from lucidlm.runtime.progress import SILENT
from lucidlm.training import finish, loop, saving, start
from lucidlm.training.loop import train

pytestmark = pytest.mark.usefixtures("here", "quick_probes", "quick_judging")


def test_three_numbers_of_one_run_agree_or_say_that_they_are_of_samples(make_config, make_tiny_plan):
    plan = make_tiny_plan(steps=2, validate_every=1, validation_tokens=128)
    with contextlib.ExitStack() as stack:
        run = start.start_run(make_config(), stack, SILENT, plan=plan)
        run.pace.final_tokens = 230
        for _ in loop.train_steps(run):
            pass
        sampled = finish.finish(run)
    heldout = run.corpus.heldout_tokens
    evaluation = sampled.assessment.evaluation
    assert evaluation.tokens_scored < heldout == evaluation.sample_of
    assert sampled.best.heldout_tokens == heldout > sampled.best.validation_tokens
    card = (sampled.run / "README.md").read_text(encoding="utf-8")
    mark = f"({evaluation.caution})"
    assert card.count(mark) >= 4  # its three rows and the verdict
    assert sampled.assessment.course.best.heldout_tokens == heldout

    whole = train(make_config(out="whole"), plan=replace(plan, validation_tokens=10**6))
    evaluation = whole.assessment.evaluation
    assert (evaluation.sample_of, evaluation.tokens_scored) == (None, heldout)
    assert whole.best.validation_tokens == whole.best.heldout_tokens == heldout
    recorded = [(each.name, each.bits_per_byte) for each in read_history(whole.run).baselines]
    assert recorded == [(each.name, each.bits_per_byte) for each in whole.assessment.baselines.rows]
    assert evaluation.loss_nats == pytest.approx(whole.best.validation_loss_nats, rel=1e-9)


@pytest.fixture
def no_more_saves(undisturbed, make_tiny_plan, monkeypatch) -> None:
    """A disk that is full after the first save; the undisturbed run was made before."""
    undisturbed(make_tiny_plan())
    real = saving.save_checkpoint

    def full(run, step, **named):
        if step:
            raise OSError(28, "No space left on device", "run/x")
        return real(run, step, **named)

    monkeypatch.setattr(saving, "save_checkpoint", full)


@pytest.mark.usefixtures("no_more_saves")
def test_after_a_last_save_that_fails_the_result_is_told_then_what_is_lost_and_the_advice_works(
    make_config, make_tiny_plan, undisturbed, fingerprint, monkeypatch
):
    whole, told = undisturbed(make_tiny_plan()), []
    result = train(
        make_config(checkpoint_seconds=0), plan=make_tiny_plan(), progress=Recorded(told), answer=told.append
    )
    answered = next(place for place, each in enumerate(told) if isinstance(each, finish.TrainResult))
    assert told[answered].evaluation == result.evaluation
    assert told[answered + 1 :] == list(result.problems)
    assert len(result.problems) == 1
    assert "step 8 are lost: run/x: No space left on device" in result.problems[0]
    assert "lucidlm train --resume --out run goes on from step 0" in result.problems[0]
    monkeypatch.setattr(saving, "save_checkpoint", save_checkpoint)
    assert train(make_config(), resume=True).problems == ()
    assert fingerprint(last_of("run")) == fingerprint(last_of(whole))


@pytest.mark.usefixtures("no_more_saves")
def test_what_was_not_saved_at_the_end_is_judged_from_memory(
    make_config, make_tiny_plan, undisturbed, monkeypatch
):
    def never(*arguments, **named):
        raise OSError(28, "No space left on device", "run/model.safetensors")

    def watch(report):
        monkeypatch.setattr(saving, "save_model", never)

    result = train(make_config(), plan=make_tiny_plan(), watch=watch)
    events = read_history(undisturbed(make_tiny_plan())).final
    assert result.evaluation.loss_nats == events.loss_nats
    assert result.problems
