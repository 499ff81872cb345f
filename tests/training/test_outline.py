"""The outline of a plan has its numbers: the main ones first, the others in the details."""

import pytest

from lucidlm.runs.settings import TrainConfig
from lucidlm.training.outline import details, outline


@pytest.mark.parametrize("budget", [{"minutes": 1}, {"steps": 1234}, {"steps": 1}])
def test_the_outline_is_short_and_has_the_numbers_of_the_plan(plan_corpus, plan_for, budget):
    planned = plan_for(context_length=64, **budget)
    main = outline(planned, TrainConfig(preset="modern-1m", **budget), plan_corpus)
    assert len(main) == 4
    numbers = (
        plan_corpus.train_tokens, plan_corpus.heldout_tokens, plan_corpus.train_bytes,
        planned.plan.model.n_parameters, planned.plan.steps, planned.plan.batch_tokens,
    )  # fmt: skip
    assert all(f"{number:,}" in " ".join(main) for number in numbers)
    more = " ".join(details(planned, plan_corpus))
    assert all(word in more for word in ("bytes", "64", planned.plan.dtype, "GiB"))
