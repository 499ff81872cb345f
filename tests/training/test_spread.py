"""One run by several processes: what they train is what one process trains, however they share it."""

import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import made_up_text
from recorded import Recorded
from worlds import in_world

from lucidlm.cli import main
from lucidlm.errors import RunError, WeightsError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import PLAIN, Recipe
from lucidlm.runs.checkpoints import checkpoint_folders, last_checkpoint
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.distributed import World, joined, whole
from lucidlm.runtime.manifest import check_manifest
from lucidlm.runtime.progress import SILENT
from lucidlm.runtime.ranks import Layout, Rank
from lucidlm.text.windows import IGNORE_INDEX, Windows
from lucidlm.training.gradient import WholeBatch
from lucidlm.training.loop import begin_together, train_steps
from lucidlm.training.optim import make_optimizers, optimizer_tensors
from lucidlm.training.resume import resume_run
from lucidlm.training.saving import save
from lucidlm.training.start import start_run
from lucidlm.training.step import train_step
from lucidlm.training.workers import gradient_of
from lucidlm.weights.load import load

T, V, B = 16, 257, 12
SHAPES = {
    "three heads": GPTConfig(
        vocab_size=V, context_length=T, emb_dim=24, n_layers=2, n_heads=3, qkv_bias=True
    ),
    "tied": GPTConfig(vocab_size=V, context_length=T, emb_dim=24, n_layers=2, n_heads=2, tied_head=True),
    "modern": GPTConfig(
        family="modern",
        vocab_size=V,
        context_length=T,
        emb_dim=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=8,
        hidden_dim=64,
    ),
}
DDP, FSDP, BOTH = Layout(), Layout(shards=2), Layout(replicas=2, shards=2)


def plan_of(shape: str, *, optim: str = "adamw", steps: int = 3, micro_batch: int = 2) -> Plan:
    return Plan(
        model=SHAPES[shape],
        optim=Recipe(name=optim, lr=3e-3, matrix_lr=0.02, weight_decay=0.1, clip=1.0).filled(PLAIN),
        batch_size=B,
        micro_batch=micro_batch,
        steps=steps,
        schedule=((0, 1.0), (steps, 0.0)),
        validate_every=max(1, steps // 2),
        validation_tokens=256,
        dtype="float32",
        threads=1,
        early_stop=False,
    )


def batch_of(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a step; the first third of the rows has no target, and one row has three."""
    draw = np.random.default_rng(step)
    inputs, targets = draw.integers(0, V, (2, B, T))
    targets[: B // 3] = IGNORE_INDEX
    targets[7, 3:] = IGNORE_INDEX
    return inputs, targets


def steps_of(cases: list[tuple[Plan, str]], layout: Layout) -> list[dict]:
    """Losses and norms of the steps of each case, its first gradient and its last weights."""
    with joined(layout, device="cpu") as world:
        world.shards = layout.over(world.size, fits=1)[1]
        rows = world.rows(B)
        return [stepped(plan, dtype, world, rows) for plan, dtype in cases]


def stepped(plan: Plan, dtype: str, world, rows: range) -> dict:
    torch.manual_seed(world.rank.number)  # only the first process's weights count
    model = GPT(plan.model).to(getattr(torch, dtype)).train()
    gradient = WholeBatch(model, plan, world=world)
    optimizers = make_optimizers(model, plan.optim)
    mine = [tuple(part[rows.start : rows.stop] for part in batch_of(step)) for step in range(plan.steps)]
    gradient.add(mine[0], seed=1, step=0)
    first = {name: whole(weight.grad).numpy().copy() for name, weight in model.named_parameters()}
    model.zero_grad()
    results = [
        train_step(model, optimizers, batch, gradient=gradient, plan=plan, seed=1, step=step)
        for step, batch in enumerate(mine)
    ]
    return {
        "losses": [each.loss_nats for each in results],
        "tokens": [each.tokens for each in results],
        "norms": [each.grad_norm for each in results],
        "gradient": first,
        "weights": {name: whole(weight).detach().numpy() for name, weight in model.named_parameters()},
    }


CASES = [
    (plan_of("three heads"), "float64"),
    (plan_of("tied", micro_batch=3), "float64"),
    (plan_of("modern"), "float64"),
    (replace(plan_of("modern"), checkpointing=True), "float64"),
    (plan_of("three heads"), "float32"),
    (plan_of("modern", optim="muon"), "float32"),
    (plan_of("tied", optim="muon", micro_batch=1), "float32"),
]


@pytest.fixture(scope="module")
def alone() -> list[dict]:
    return steps_of(CASES, Layout())


@pytest.mark.parametrize(
    ("size", "layout"),
    [(2, DDP), (2, FSDP), (3, Layout(shards=3)), (4, BOTH)],
    ids=["ddp", "fsdp", "3", "2x2"],
)
def test_loss_and_gradient_are_those_of_one_process(alone, size, layout, record_property):
    answers = in_world(size, steps_of, CASES, layout)
    for place, (plan, dtype) in enumerate(CASES):
        expected, found = alone[place], answers[0][place]
        assert found["losses"] == answers[-1][place]["losses"], "all processes know the same loss"
        assert found["tokens"] == expected["tokens"]
        # Muon makes orthogonal in bfloat16, so that a rounding error of the gradient grows there.
        exact, step = {"float64": (1e-12, 1e-12), "float32": (2e-6, 1e-6)}[dtype]
        if plan.optim.name == "muon":
            step = 1e-2
        record_property(
            f"losses of {dtype} {plan.optim.name}, apart by at most",
            float(np.abs(np.subtract(found["losses"], expected["losses"])).max()),
        )
        np.testing.assert_allclose(found["losses"][0], expected["losses"][0], rtol=0, atol=exact)
        np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=step)
        for name, gradient in expected["gradient"].items():
            largest = np.abs(gradient).max()
            np.testing.assert_allclose(found["gradient"][name], gradient, rtol=0, atol=exact * largest)


@pytest.mark.torture
@pytest.mark.timeout(900)
@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_sixty_steps_are_those_of_one_process_in_every_layout_and_micro_batch(optim, record_property):
    cases = [
        (plan_of(shape, optim=optim, steps=60, micro_batch=size), "float32")
        for shape in SHAPES
        for size in (1, 6)
    ]
    alone, most = steps_of(cases, Layout()), 0.0
    for size, layout in [(2, DDP), (2, FSDP), (3, DDP), (3, Layout(shards=3)), (4, DDP), (4, BOTH)]:
        for expected, found in zip(
            alone, in_world(size, steps_of, cases, layout, within=300)[0], strict=True
        ):
            apart = np.abs(np.subtract(found["losses"], expected["losses"])).max()
            most = max(most, float(apart))
            assert apart < (1e-6 if optim == "adamw" else 1e-2), (size, layout)
    record_property(f"losses of {optim}, apart by at most", most)


@pytest.mark.parametrize("steps", [50, pytest.param(1_000, marks=pytest.mark.torture)])
def test_the_windows_of_each_step_are_the_same_in_worlds_of_one_to_four(steps):
    windows = Windows(np.random.default_rng(0).integers(0, V, 5_000).astype(np.uint16), T)
    for step in range(steps):
        whole_batch = windows.batch_at(seed=1, step=step, batch_size=B)
        for size in (2, 3, 4):
            parts = [
                windows.batch_at(
                    seed=1, step=step, batch_size=B, rows=World(Rank(number=each, size=size)).rows(B)
                )
                for each in range(size)
            ]
            for side in (0, 1):
                assert (np.concatenate([part[side] for part in parts]) == whole_batch[side]).all()


@pytest.mark.parametrize("layout", [pytest.param(DDP, marks=pytest.mark.torture), FSDP], ids=["ddp", "fsdp"])
def test_blocks_are_compiled_after_the_model_was_divided_and_train_alike(layout):
    plan = plan_of("modern")
    alone = in_world(2, compiled_steps, plan, layout)[0]
    found = in_world(2, compiled_steps, replace(plan, compile=True), layout, within=110)[0]
    assert (found["notes"], found["compiled"], alone["compiled"]) == ([], True, False)
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=0, atol=2e-6)


def compiled_steps(plan: Plan, layout: Layout) -> dict:
    with joined(layout, device="cpu") as world:
        world.shards = layout.over(world.size, fits=1)[1]
        torch.manual_seed(0)
        model, said = GPT(plan.model).train(), Recorded()
        gradient = gradient_of(model, plan, config=TrainConfig(), progress=said, world=world)
        optimizers, rows, losses = make_optimizers(model, plan.optim), world.rows(B), []
        for step in range(plan.steps):
            batch = tuple(part[rows.start : rows.stop] for part in batch_of(step))
            result = train_step(model, optimizers, batch, gradient=gradient, plan=plan, seed=1, step=step)
            losses.append(result.loss_nats)
        compiled = all(block.compiled is not None for block in model.blocks)
        return {"losses": losses, "notes": said.notes, "compiled": compiled}


def not_finite(layout: Layout, where: int) -> tuple[str, bool]:
    """What a step says whose gradient one process makes NaN, and whether a weight has moved."""
    plan = plan_of("three heads")
    with joined(layout, device="cpu") as world:
        world.shards = layout.over(world.size, fits=1)[1]
        torch.manual_seed(0)
        model = GPT(plan.model).train()
        if world.rank.number == where:
            model.final_norm.register_forward_hook(lambda module, given, found: found * float("nan"))
        gradient = WholeBatch(model, plan, world=world)
        optimizers = make_optimizers(model, plan.optim)
        before = [whole(weight).detach().clone() for weight in model.parameters()]
        rows = world.rows(B)
        batch = tuple(part[rows.start : rows.stop] for part in batch_of(0))
        try:
            train_step(model, optimizers, batch, gradient=gradient, plan=plan, seed=1, step=0)
            said = "nothing"
        except RunError as error:
            said = str(error)
        after = [whole(weight).detach() for weight in model.parameters()]
        return said, all(map(torch.equal, before, after))


@pytest.mark.parametrize("layout", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_a_gradient_that_is_not_finite_on_one_rank_stops_all_and_is_blamed_on_it(layout):
    for said, unmoved in in_world(2, not_finite, layout, 1):
        assert said.startswith("step 0: the gradient's norm is nan (rank 1), the batch's loss")
        assert unmoved


def ran(
    folder: Path, text: Path, plan: Plan, layout: Layout, *, to: int | None, resume: bool = False
) -> dict[str, list]:
    """A run in a folder, new or resumed, until a step; its losses, windows, and the state it begins with."""
    config = TrainConfig(
        text=str(text), out=str(folder), tokenizer="bytes", device="cpu", threads=1, checkpoint_seconds=1e9
    )
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(joined(layout, device="cpu"))
        if resume:
            begin = lambda: resume_run(str(folder), stack, SILENT, world=world)  # noqa: E731
        else:
            begin = lambda: start_run(config, stack, SILENT, plan=plan, world=world)  # noqa: E731
        run = begin_together(world, begin, SILENT)
        began = hashes_of(run)
        seen: list[str] = []
        batch_at = run.windows.batch_at

        def watched(**named):
            mine = batch_at(**named)
            parts = world.gathered(lambda: np.stack(mine, axis=1).tolist())
            rows = [row for part in parts for row in part]
            seen.append(hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12])
            return mine

        run.windows.batch_at = watched
        losses = [
            report.step.loss_nats
            for report in train_steps(run, stop=lambda: to is not None and run.step >= to)
            if len(seen) > 0
        ]
        save(run)
        validations = [each.validation_loss_nats for each in run.validations]
        return {
            "began": began,
            "ended": hashes_of(run),
            "seen": seen,
            "losses": losses,
            "validations": validations,
        }


def hashes_of(run) -> dict[str, str]:
    """Of each weight and each tensor of the optimizers, whole."""
    return hashes_in(dict(run.model.named_parameters()) | optimizer_tensors(run.model, run.optimizers))


def hashes_in(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {
        name: hashlib.sha256(whole(tensor).detach().numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }


def resumed(folder: Path, text: Path, plan: Plan, layout: Layout, to: int | None) -> dict[str, list]:
    return ran(folder, text, plan, layout, to=to, resume=True)


def begun(folder: Path, text: Path, plan: Plan, layout: Layout, to: int | None) -> dict[str, list]:
    return ran(folder, text, plan, layout, to=to)


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("spread") / "book.txt"
    path.write_text(made_up_text(sentences=300), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "ways",
    [
        [(2, FSDP), (1, Layout()), (2, DDP)],
        pytest.param(
            [(2, DDP), (2, FSDP), (1, Layout()), (3, Layout(shards=3)), (4, BOTH), (2, DDP)],
            marks=pytest.mark.torture,
        ),
    ],
    ids=len,
)
def test_a_run_goes_on_in_any_layout_with_the_same_windows_and_from_the_same_state(
    tmp_path, book, ways, record_property
):
    plan = plan_of("tied", steps=2 * len(ways))
    alone = begun(tmp_path / "alone", book, plan, Layout(), None)
    assert len(alone["losses"]) == plan.steps
    folder = tmp_path / "changing"
    losses, seen, ended = [], [], None
    for number, (size, layout) in enumerate(ways):
        work = begun if number == 0 else resumed
        to = 2 * (number + 1)
        arguments = folder, book, plan, layout, to
        answer = work(*arguments) if size == 1 else in_world(size, work, *arguments)[0]
        losses += answer["losses"]
        seen += answer["seen"]
        assert ended is None or answer["began"] == ended, f"layout {number} begins with other weights"
        ended = answer["ended"]
        model, _ = load(max((folder / "checkpoints").glob("step_*")))
        assert hashes_in(dict(model.named_parameters())).items() <= ended.items()
    assert seen == alone["seen"]
    record_property("losses apart by at most", float(np.abs(np.subtract(losses, alone["losses"])).max()))
    np.testing.assert_allclose(losses, alone["losses"], rtol=0, atol=1e-6)
    model, tokenizer = load(str(folder))
    assert model.config == replace(plan.model, document_prefix_id=tokenizer.end_of_text)


def test_under_torchrun_a_run_needs_a_name_and_seeds_come_one_by_one(monkeypatch, capsys, book):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", str(book), "--steps", "1"]) == 2
    assert "--out is needed under torchrun" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", str(book), "--steps", "1", "--out", "x", "--seeds", "2"]) == 2
    assert "leave --seeds out, and give --seed" in capsys.readouterr().err


def failing_saves(folder: Path, text: Path, plan: Plan) -> dict:
    """A run in two shards whose second process cannot write its part of one save, of steps 2, 4 and 6."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    real = HuggingFaceStorageWriter.write_data
    config = TrainConfig(text=str(text), out=str(folder), tokenizer="bytes", device="cpu", threads=1)
    said: list[tuple[int, tuple[str, ...]]] = []
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(joined(FSDP, device="cpu"))
        run = begin_together(
            world,
            lambda: start_run(config, stack, SILENT, plan=plan, world=world),
            SILENT,
        )

        def full(writer, *arguments):
            if run.step == 4 and world.rank.number == 1:
                raise OSError(28, "No space left on device", "its part")
            return real(writer, *arguments)

        HuggingFaceStorageWriter.write_data = full
        for to in (2, 4, 6):
            for _ in train_steps(run, stop=lambda to=to: run.step >= to):
                pass
            if run.saved[0] != run.step:  # as the loop's next save would
                said.append((run.step, (run.unsaved or "",)))
        kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
        return {"saved": run.saved[0], "said": said, "kept": kept}


def test_a_part_that_one_process_cannot_write_costs_that_save_on_all_and_no_training(tmp_path, book):
    answers = in_world(2, failing_saves, tmp_path / "run", book, plan_of("tied", steps=6))
    for answer in answers:
        assert answer["saved"] == 6
        assert [step for step, _ in answer["said"]] == [4]
        assert "No space left on device" in answer["said"][0][1][0]
    # Nothing is left of the one that failed, and the others are whole.
    assert answers[0]["kept"] == ["step_000002", "step_000006"]
    check_manifest(tmp_path / "run" / "checkpoints" / "step_000006")


def test_a_part_that_is_damaged_or_of_another_shape_is_not_taken(tmp_path, book):
    plan = plan_of("tied", steps=4)
    folder = tmp_path / "run"
    in_world(2, begun, folder, book, plan, FSDP, 2)
    in_world(2, resumed, folder, book, plan, FSDP, 4)
    newest = checkpoint_folders(folder)[-1]
    part = sorted((newest / "shards").iterdir())[0]
    data = bytearray(part.read_bytes())
    data[-5] ^= 1
    part.write_bytes(data)
    found = last_checkpoint(folder)
    assert (found.step, len(found.notes)) == (2, 1)
    assert part.name in found.notes[0]
    with pytest.raises(WeightsError, match=part.name):
        load(newest)
    settings = folder / "run.toml"
    text = settings.read_text(encoding="utf-8")
    assert "n_layers = 2" in text
    settings.write_text(text.replace("n_layers = 2", "n_layers = 1"), encoding="utf-8")
    with pytest.raises(RunError, match=r"n_layers=2.* run.toml says .*n_layers=1.*restore the run.toml"):
        resumed(folder, book, plan, Layout(), None)
