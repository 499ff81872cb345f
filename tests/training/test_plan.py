"""A plan leaves nothing open, keeps to what was asked for, and says what it chose."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from trainings import SECONDS_PER_STEP, KnownMachine

from lucidlm.errors import ConfigError
from lucidlm.measure.evaluation import evaluate_documents
from lucidlm.model.config import GPTConfig
from lucidlm.model.presets import Recipe, preset
from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.distributed import ALONE
from lucidlm.runtime.process import available_processors
from lucidlm.text.preparation import prepare
from lucidlm.text.windows import Windows
from lucidlm.training import plan as plan_module
from lucidlm.training import speed
from lucidlm.training.footprint import judging_bytes, memory_bytes, memory_on_a_gpu, training_bytes
from lucidlm.training.plan import ADAMW_FOR_MUON, GO_ON, _draft, recipe_for
from lucidlm.training.schedule import learning_rate_factor
from lucidlm.training.shapes import cpu_flops_per_s
from lucidlm.training.speed import Machine, threads_for

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"minutes": 0.2},
        {"steps": 7},
        {"epochs": 2.0},
        {"steps": 7, "optim": Recipe(name="adamw")},
        {"steps": 7, "preset": "lecture"},
        {"steps": 7, "preset": None},
    ],
    ids=["minutes", "steps", "epochs", "adamw", "lecture", "no preset"],
)
def test_a_plan_leaves_nothing_open(plan_for, settings):
    plan = plan_for(**({"context_length": 64} | settings)).plan
    for part in (plan, plan.model, plan.optim):
        values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        values.pop("document_prefix_id", None)  # the tokenizer's end-of-text, set when the run starts
        assert None not in values.values(), values
    assert plan.steps >= 1
    assert 1 <= plan.micro_batch <= plan.batch_size
    assert 0 < learning_rate_factor(plan.schedule, 0) <= 1
    assert plan.dtype == "float32"
    assert plan.threads == 1


def test_steps_are_kept_to(plan_for):
    planned = plan_for(steps=17)
    assert planned.plan.steps == 17
    assert planned.deadline_s is None


@pytest.mark.parametrize("epochs", [0.1, 1.0, 2.5, 30.0])
def test_epochs_are_kept_to_up_to_one_step(plan_for, plan_corpus, epochs):
    plan = plan_for(epochs=epochs, context_length=64).plan
    windows = Windows(plan_corpus.train, 64)
    seen = windows.epoch_at(plan.steps, plan.batch_size)
    assert epochs <= seen < epochs + plan.batch_size / windows.n_windows + 1e-9


def test_minutes_are_a_deadline_and_as_many_steps_as_fit(plan_for):
    planned = plan_for(minutes=0.5)
    assert planned.deadline_s == 30
    assert 30 * 0.6 < planned.plan.steps * SECONDS_PER_STEP < 30


def test_no_budget_is_3_minutes(plan_for):
    assert plan_for().deadline_s == 180


@pytest.mark.parametrize(("layers", "most"), [(2, 40), (14, 20)])
def test_weights_of_others_see_a_text_fewer_times_the_larger_they_are(plan_corpus, plan_for, layers, most):
    base = GPTConfig(vocab_size=257, context_length=64, emb_dim=384, n_layers=layers, n_heads=2)
    plan = plan_for(minutes=600, preset=None, from_="base", base=base).plan
    passes = plan.steps * plan.batch_tokens / plan_corpus.train_tokens
    assert most <= passes < most + plan.batch_tokens / plan_corpus.train_tokens + 1


def test_a_short_text_is_not_trained_on_for_hours(plan_for, plan_corpus):
    planned = plan_for(minutes=600)
    epochs = planned.plan.steps * planned.plan.batch_tokens / plan_corpus.train_tokens
    assert epochs < 100
    assert planned.plan.steps == planned.most_steps


def test_batch_tokens_are_kept_to(plan_for):
    plan = plan_for(steps=1, context_length=32, batch_tokens=128).plan
    assert (plan.batch_size, plan.batch_tokens) == (4, 128)


def test_a_batch_of_less_than_a_window_is_refused_with_both_numbers(plan_for):
    with pytest.raises(
        ConfigError, match=r"--batch-tokens 31 is less than one window of 32.*--context-length"
    ):
        plan_for(steps=1, context_length=32, batch_tokens=31)


def test_settings_that_were_given_stand_over_the_plans_own(plan_for):
    optim = Recipe(
        name="adamw", lr=1e-4, weight_decay=0.0, warmup_steps=3, decay_fraction=0.25, clip=0.0, beta2=0.98
    )
    plan = plan_for(
        steps=40,
        context_length=48,
        drop_rate=0.3,
        micro_batch=3,
        validate_every=7,
        early_stop=False,
        optim=optim,
    ).plan
    assert (plan.model.context_length, plan.model.drop_rate) == (48, 0.3)
    assert (plan.micro_batch, plan.validate_every, plan.early_stop) == (3, 7, False)
    given = [field.name for field in dataclasses.fields(optim) if getattr(optim, field.name) is not None]
    assert {name: getattr(plan.optim, name) for name in given} == {
        name: getattr(optim, name) for name in given
    }
    assert [learning_rate_factor(plan.schedule, step) for step in (2, 30, 35)] == pytest.approx([1, 1, 0.5])


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_the_optimizer_that_was_asked_for_is_taken(plan_for, name):
    assert plan_for(steps=1, optim=Recipe(name=name)).plan.optim.name == name


def test_the_more_often_a_text_is_seen_the_more_is_dropped(plan_for):
    rates = [plan_for(preset=None, epochs=epochs).plan.model.drop_rate for epochs in (0.5, 4, 12, 25, 60)]
    assert rates == sorted(set(rates))
    assert rates[0] == 0


@pytest.mark.parametrize("batch_tokens", [64, 128, 1024])
@pytest.mark.parametrize("matrix_lr", [0.014, 0.2])
def test_weights_remember_two_epochs(plan_for, plan_corpus, batch_tokens, matrix_lr):
    optim = Recipe(matrix_lr=matrix_lr)
    plan = plan_for(preset=None, steps=3, context_length=32, batch_tokens=batch_tokens, optim=optim).plan
    steps_per_epoch = (len(plan_corpus.train) - 1) / batch_tokens
    remembered = 1 / (matrix_lr * plan.optim.weight_decay)
    if plan.optim.weight_decay > 0.05:  # the recipe's own is the least
        assert remembered == pytest.approx(max(14, 2 * steps_per_epoch), rel=0.02)
    else:
        assert remembered < 2 * steps_per_epoch


@pytest.mark.parametrize(("matrix_lr", "lr"), [(0.0, 0.01), (0.5, 0.01), (0.01, 0.5), (0.0, 0.0)])
def test_no_step_takes_more_than_a_part_of_a_weight(plan_for, matrix_lr, lr):
    optim = Recipe(matrix_lr=matrix_lr, lr=lr)
    plan = plan_for(preset=None, steps=3, batch_tokens=4096, optim=optim).plan
    assert max(plan.optim.lr, plan.optim.matrix_lr) * plan.optim.weight_decay < 1 / 13


@pytest.mark.parametrize(
    ("settings", "decay"),
    [
        ({"optim": Recipe(weight_decay=0.02)}, 0.02),
        ({"preset": "modern-1m"}, preset("modern-1m").recipe.weight_decay),
        ({"preset": "lecture"}, preset("lecture").recipe.weight_decay),
        ({"optim": Recipe(name="adamw")}, ADAMW_FOR_MUON.weight_decay),
        ({"from_": "base", "base": preset("modern-1m").shape}, GO_ON.weight_decay),
    ],
    ids=["asked for", "preset", "lecture", "adamw", "from"],
)
def test_only_the_plans_own_recipe_takes_its_weight_decay_from_the_text(plan_for, settings, decay):
    plan = plan_for(**({"preset": None, "epochs": 40.0, "context_length": 64} | settings)).plan
    assert plan.optim.weight_decay == decay


def test_nothing_is_timed_for_the_shape_on_a_cpu(monkeypatch):
    monkeypatch.setattr(speed, "probe_matmul", lambda *_, **__: pytest.fail("a matmul was timed"))
    assert Machine().flops_per_s(CPU, cores=2) == cpu_flops_per_s(2)
    cores = [cpu_flops_per_s(count, {"avx2"}) for count in (1, 2, 64)]
    assert cores[0] < cores[1] < 2 * cores[0]
    assert cores[1] < cores[2] < 64 * cores[0]
    kinds = [cpu_flops_per_s(1, has) for has in ((), {"avx512_f"}, {"avx512_f", "avx512_bf16"})]
    assert kinds == sorted(set(kinds))


def test_the_lecture_gets_the_courses_settings(plan_for):
    plan = plan_for(preset="lecture", steps=10).plan
    assert plan.model == preset("lecture").shape.changed(vocab_size=257)
    assert plan.batch_size == 2
    optim = plan.optim
    assert (optim.name, optim.weight_decay, optim.warmup_steps, optim.clip) == ("adamw", 0.1, 0, 0.0)
    assert (optim.lr, optim.beta1, optim.beta2) == (5e-4, 0.9, 0.999)
    assert {learning_rate_factor(plan.schedule, step) for step in range(10)} == {1.0}


def test_a_text_shorter_than_a_window_gets_a_shorter_window(plan_for, tmp_path):
    (tmp_path / "note.txt").write_text("Nobody knew why the river ran past the house, and nobody asked. " * 3)
    short = prepare(tmp_path / "note.txt", tmp_path / "data", tokenizer="bytes")
    planned = plan_for(short, steps=2, preset="modern-1m")
    assert planned.plan.model.context_length == len(short.train) - 1
    Windows(short.train, planned.plan.model.context_length).batch_at(seed=0, step=0, batch_size=1)


def test_with_minutes_the_faster_dtype_is_taken(plan_for):
    assert plan_for(minutes=1, dtype="auto").plan.dtype == "bfloat16"


RACES = ["float32", "bfloat16"]


@pytest.mark.parametrize("budget", [{"steps": 30}, {"epochs": 1.0}], ids=["steps", "epochs"])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_without_minutes_no_race_of_speeds_decides_anything(plan_for, budget, threads):
    open_choice = {"threads": threads, "dtype": "auto"}
    plans = [plan_for(**open_choice, **budget, machine=KnownMachine(fast=fast)).plan for fast in RACES]
    assert all(plan == plans[0] for plan in plans)
    assert (plans[0].dtype, plans[0].workers) == ("float32", 2)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_with_minutes_the_race_decides_dtype_and_each_core_has_a_worker(plan_for, threads):
    open_choice = {"minutes": 1, "threads": threads, "dtype": "auto"}
    for fast in RACES:
        planned = plan_for(**open_choice, machine=KnownMachine(fast=fast))
        assert (planned.plan.dtype, planned.plan.workers) == (fast, threads or available_processors())
        assert planned.speed.seconds_per_step == pytest.approx(0.1 * SECONDS_PER_STEP)


def test_no_worker_is_without_a_window(plan_for):
    plan = plan_for(minutes=1, threads=64, batch_tokens=256, context_length=128).plan
    assert (plan.batch_size, plan.workers, plan.micro_batch) == (2, 2, 1)


def test_the_windows_of_a_worker_are_cut_evenly_where_not_all_fit(plan_for, monkeypatch):
    window = 34 * 4 * 64 * 128 * 4  # KEPT_A_TOKEN numbers in float32, of modern-1m
    monkeypatch.setattr(plan_module, "CPU_ACTIVATIONS", 6 * window)
    asked = {"context_length": 64, "batch_tokens": 8 * 64, "steps": 1}
    assert plan_for(**asked).plan.micro_batch == 2  # 3 fit, of 4
    assert plan_for(**asked, micro_batch=3).plan.micro_batch == 3


@pytest.mark.parametrize("name", ["compile", "checkpointing"])
def test_a_model_that_is_compiled_or_computed_again_has_no_workers(plan_for, name):
    plan = plan_for(steps=3, **{name: True}).plan
    assert plan.workers == 0
    assert getattr(plan, name)


@pytest.mark.parametrize(
    ("asked", "gigabytes", "checkpointing"),
    [(None, 80, False), (None, 3.2, True), (False, 3.2, False), (True, 80, True)],
)
def test_on_a_gpu_blocks_are_computed_again_where_not_one_window_fits(
    monkeypatch, asked, gigabytes, checkpointing
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(gigabytes * 1e9), 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    config = TrainConfig(
        preset="gpt2-124m", steps=1, checkpointing=asked, context_length=8192, batch_tokens=65_536
    )
    shape = preset("gpt2-124m").shape.changed(context_length=8192)
    plan = _draft(config, shape, torch.device("cuda"), float32="stock")
    assert plan.checkpointing is checkpointing
    assert plan.micro_batch == 1 if gigabytes < 80 else plan.micro_batch > 1


@pytest.mark.parametrize(
    ("name", "gigabytes", "checkpointing", "windows"),
    [
        ("gpt2-124m", 80, False, 32),  # more would not be faster
        ("gpt2-124m", 16, False, 22),
        ("gpt2-1558m", 80, False, 11),
        ("gpt2-1558m", 80, True, 32),
        ("gpt2-1558m", 24, True, 1),
    ],
)
def test_on_a_gpu_as_many_windows_at_once_as_fit_and_make_it_faster(
    monkeypatch, name, gigabytes, checkpointing, windows
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(gigabytes * 1e9), 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    config = TrainConfig(
        preset=name, steps=1, checkpointing=checkpointing, batch_tokens=131_072, drop_rate=0.0
    )
    shape = preset(name).shape.changed(drop_rate=0.0)
    plan = _draft(config, shape, torch.device("cuda"), float32="stock")
    assert plan.micro_batch == windows
    need = training_bytes(
        shape,
        plan.optim.name,
        micro_batch=windows,
        batch_size=plan.batch_size,
        device="cuda",
        dtype="bfloat16",
        checkpointing=checkpointing,
    )
    assert need < 0.8 * gigabytes * 1e9 or windows == 1


def test_a_small_model_is_evaluated_on_one_thread_and_a_large_one_on_all():
    config, cpu = TrainConfig(text="book.txt"), torch.device("cpu")
    sizes = [threads_for(config, preset(name).shape, cpu) for name in ("modern-3m", "gpt2-124m")]
    assert sizes == [1, available_processors()]


def test_without_minutes_the_dtype_that_was_asked_for_is_taken(plan_for):
    assert plan_for(steps=3, dtype="bfloat16", machine=KnownMachine(fast="float32")).plan.dtype == "bfloat16"


def test_the_plan_does_not_depend_on_torchs_generator(plan_for):
    plans = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        plans.append(plan_for(steps=5).plan)
    assert plans[0] == plans[1]


def test_more_time_never_means_a_smaller_model(plan_for):
    sizes = [plan_for(preset=None, minutes=minutes).plan.model.n_parameters for minutes in (0.05, 0.5, 3, 30)]
    assert sizes == sorted(sizes)


def test_memory_of_a_gpu_grows_with_the_micro_batch(plan_for):
    small, large = (plan_for(steps=1, context_length=64, micro_batch=size).plan for size in (1, 16))
    sizes = [memory_bytes(plan, torch.device("cuda"), later=0, held=0, peak=0) for plan in (small, large)]
    assert 4 * small.model.n_parameters * 3 < sizes[0] < sizes[1]


def test_memory_of_a_gpu_is_that_of_its_shard(plan_for):
    plan = plan_for(steps=1, context_length=64, micro_batch=1).plan
    for shards in (1, 2, 8):
        expected = memory_on_a_gpu(
            plan.model, plan.optim.name, tokens=plan.micro_batch * plan.model.context_length,
            dtype=plan.dtype, checkpointing=plan.checkpointing, shards=shards,
        )  # fmt: skip
        got = memory_bytes(plan, torch.device("cuda"), later=0, held=0, peak=0, shards=shards)
        assert got == expected.bytes


def test_a_plan_for_shards_says_the_memory_of_one(plan_for, monkeypatch):
    asked = {}

    def memory(plan, device, **others):
        asked.update(others)
        return 12345

    monkeypatch.setattr(ALONE, "shards", 1)  # which a plan sets: as it was, after the test
    monkeypatch.setattr(plan_module, "memory_bytes", memory)
    monkeypatch.setattr(plan_module, "arranged", lambda world, model, device: (1, 2))
    assert plan_for(steps=1).memory_bytes == 12345
    assert asked["shards"] == 2


def test_memory_of_a_cpu_is_what_the_process_holds_and_what_comes_later(plan_for):
    plan = plan_for(steps=1).plan
    held, little, much = 400_000_000, judging_bytes(0), judging_bytes(1_000_000)

    def memory(plan, later, peak=410_000_000):
        return memory_bytes(plan, CPU, later=later, held=held, peak=peak)

    assert 2 * 4 * plan.model.n_parameters < memory(plan, little) - held < 300_000_000
    assert memory(plan, much) > memory(plan, little)
    assert memory(dataclasses.replace(plan, float32="onednn"), little) > memory(plan, little)
    assert memory(plan, little, peak=2_000_000_000) - 2_000_000_000 == memory(plan, little) - held - little


def test_nothing_is_predicted_for_the_lecture(plan_for):
    assert plan_for(preset="lecture", steps=10).predicted is None


def test_a_real_measurement_gives_a_finite_plan_and_leaves_threads_as_they_were(plan_for, monkeypatch):
    monkeypatch.setattr(speed, "time_of", _once)
    threads = torch.get_num_threads()
    small = {"minutes": 0.1, "context_length": 32, "batch_tokens": 64, "dtype": "auto"}
    planned = plan_for(**small, machine=Machine())
    assert torch.get_num_threads() == threads
    assert planned.plan.dtype in ("float32", "bfloat16")
    assert 1 <= planned.plan.steps < 100_000
    assert planned.plan.validation_tokens >= 256


def _once(work: Callable[[], object], **_: object) -> float:
    import time

    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def test_validation_samples_fit_their_share_of_the_time(plan_for):
    tokens_per_s = 5_000.0
    planned = plan_for(minutes=1, context_length=64, machine=KnownMachine(evaluated_per_s=tokens_per_s))
    validations = planned.plan.steps / planned.plan.validate_every + 1
    seconds = 2 * planned.plan.validation_tokens * validations / tokens_per_s
    assert seconds < 0.15 * 60
    assert planned.final_tokens / tokens_per_s < 0.1 * 60


@pytest.mark.parametrize("name", ["modern-1m", "lecture"])
def test_what_is_planned_can_be_trained(plan_for, plan_corpus, name):
    from lucidlm.model.gpt import GPT
    from lucidlm.training.optim import make_optimizers
    from lucidlm.training.step import train_step
    from lucidlm.training.workers import Workers

    plan = plan_for(preset=name, steps=1, context_length=16, batch_tokens=32).plan
    torch.manual_seed(0)
    plan = dataclasses.replace(plan, model=plan.model.changed(n_layers=1))
    model = GPT(plan.model)
    batch = Windows(plan_corpus.train, 16).batch_at(seed=0, step=0, batch_size=plan.batch_size)
    optimizers = make_optimizers(model, plan.optim)
    gradient = Workers(model, plan, seed=0)
    result = train_step(model, optimizers, batch, gradient=gradient, plan=plan, seed=0, step=0)
    assert math.isfinite(result.loss_nats)
    assert evaluate_documents(model, plan_corpus.tokenizer, [plan_corpus.train[1:40]]).tokens_scored > 0


def test_an_unknown_preset_is_refused_by_name(plan_for):
    with pytest.raises(ConfigError, match="modern-1x"):
        plan_for(preset="modern-1x", steps=1)


def test_a_setting_that_equals_the_default_is_still_asked_for():
    asked = TrainConfig(preset="lecture", optim=Recipe(beta2=0.95))
    assert recipe_for(asked, preset("lecture").shape).beta2 == 0.95
