"""What only a GPU shows: the CPU's numbers, saves while it computes, kills, NCCL. `make gpu` runs this."""

import contextlib
import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from models import made_up_text
from recorded import Recorded
from torch import Tensor
from trainings import last_of
from worlds import in_world

from lucidlm.errors import RunError
from lucidlm.model.config import GPTConfig
from lucidlm.model.gpt import GPT
from lucidlm.model.linear_loss import linear_cross_entropy
from lucidlm.model.presets import PLAIN, Recipe
from lucidlm.runs.checkpoints import checkpoint_folders
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.distributed import World, joined, whole
from lucidlm.runtime.process import set_float32
from lucidlm.runtime.progress import SILENT
from lucidlm.runtime.ranks import Layout, Rank
from lucidlm.text.windows import IGNORE_INDEX
from lucidlm.training import saving
from lucidlm.training.gradient import WholeBatch, compile_blocks
from lucidlm.training.loop import Report, begin_together, train, train_steps
from lucidlm.training.optim import make_optimizers
from lucidlm.training.resume import resume_run
from lucidlm.training.saving import save
from lucidlm.training.spread import replicated, sharded
from lucidlm.training.start import start_run
from lucidlm.training.step import train_step
from lucidlm.weights.load import load
from lucidlm.weights.shards import SHARDS

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
DEVICE = torch.device("cuda")
T, V, B = 64, 257, 12
MODERN = GPTConfig(
    family="modern", vocab_size=V, context_length=T, emb_dim=128, n_layers=3, n_heads=4, n_kv_heads=2,
    head_dim=32, hidden_dim=256, tied_head=True,
)  # fmt: skip
GPT2 = GPTConfig(vocab_size=V, context_length=T, emb_dim=96, n_layers=2, n_heads=3, qkv_bias=True)


@pytest.fixture(scope="module", autouse=True)
def a_gpu() -> None:
    """Without one nothing here is shown, and nothing is skipped."""
    assert torch.cuda.is_available(), "there is no GPU that PyTorch can use here"


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "book.txt"
    path.write_text(made_up_text(sentences=600), encoding="utf-8")
    return path


def apart(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference, as a share of that of what is expected."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("chunk", [None, 1000])
@pytest.mark.parametrize(("dtype", "most"), [("float32", 3e-6), ("bfloat16", 4e-3), ("float16", 6e-4)])
def test_the_loss_and_its_gradients_are_those_of_float64(dtype, most, chunk):
    """GPT-2's head, whose rows no matmul likes; operands that the dtype holds exactly; odd rows."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(2999, 768, generator=draw), torch.randn(50257, 768, generator=draw) * 0.05
    hidden, weight = (each.to(getattr(torch, dtype)).float() for each in (hidden, weight))
    targets = torch.randint(50257, (2999,), generator=draw)
    targets[:3], targets[3] = torch.tensor([0, 50256, 50255]), IGNORE_INDEX
    weight[targets[4]] = (hidden[4] * 0.022).to(getattr(torch, dtype)).float()  # a token that is nearly sure
    exact = [each.double().to(DEVICE).requires_grad_() for each in (hidden, weight)]
    logits = exact[0] @ exact[1].T
    expected = torch.nn.functional.cross_entropy(logits, targets.to(DEVICE), reduction="sum")
    expected.backward()
    del logits
    hidden[3] = torch.nan  # it is ignored
    mine = [each.to(DEVICE).requires_grad_() for each in (hidden, weight)]
    context = (
        contextlib.nullcontext() if dtype == "float32" else torch.autocast("cuda", getattr(torch, dtype))
    )
    with context:
        found = linear_cross_entropy(*mine, targets.to(DEVICE), chunk=chunk)
    found.backward()
    assert found.dtype == torch.float32
    assert abs(found.item() / expected.item() - 1) < 2e-6
    for got, right in zip(mine, exact, strict=True):
        assert got.grad.shape == right.grad.shape
        assert apart(got.grad, right.grad) < most
    assert (mine[0].grad[3] == 0).all()
    sure = apart(mine[0].grad[4], exact[0].grad[4])
    assert sure < 20 * most, "its gradient is the small rest to probability 1"


def plan_of(shape: GPTConfig, **changed) -> Plan:
    plan = Plan(
        model=shape,
        optim=Recipe(name="adamw", lr=3e-3, matrix_lr=0.02, weight_decay=0.1, clip=1.0).filled(PLAIN),
        batch_size=B,
        micro_batch=4,
        steps=6,
        schedule=((0, 1.0), (6, 0.5)),
        validate_every=3,
        validation_tokens=256,
        dtype="float32",
        threads=1,
        early_stop=False,
    )
    return replace(plan, **changed)


def batch_of(step: int) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = np.random.default_rng(step).integers(0, V, (2, B, T))
    targets[0], targets[7, 3:] = IGNORE_INDEX, IGNORE_INDEX
    return inputs, targets


def stepped(plan: Plan, device: torch.device, world: World | None = None, *, compiled: bool = False) -> dict:
    """Losses of all steps, the first gradient, the most bytes of the first step."""
    world = world or World()
    set_float32("stock")
    torch.manual_seed(world.rank.number)
    model = GPT(plan.model).to(device).train()
    gradient = WholeBatch(model, plan, world=world)
    if compiled:
        said = Recorded()
        compile_blocks(gradient, said)
        assert said.notes == []
    rows = world.rows(B)
    mine = [tuple(part[rows.start : rows.stop] for part in batch_of(step)) for step in range(plan.steps)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    gradient.add(mine[0], seed=1, step=0)
    most = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    first = {name: whole(weight.grad).cpu().numpy() for name, weight in model.named_parameters()}
    model.zero_grad()
    optimizers = make_optimizers(model, plan.optim)
    results = [
        train_step(model, optimizers, batch, gradient=gradient, plan=plan, seed=1, step=step)
        for step, batch in enumerate(mine)
    ]
    return {"losses": [each.loss_nats for each in results], "gradient": first, "most": most}


def check_alike(found: dict, expected: dict, *, losses: float, gradient: float) -> None:
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=losses)
    for name, right in expected["gradient"].items():
        np.testing.assert_allclose(
            found["gradient"][name], right, rtol=0, atol=gradient * np.abs(right).max(), err_msg=name
        )


@pytest.mark.parametrize("shape", [MODERN, GPT2], ids=["modern", "gpt2"])
def test_steps_in_float32_are_those_of_the_cpu(shape):
    expected = stepped(plan_of(shape), torch.device("cpu"))
    check_alike(stepped(plan_of(shape), DEVICE), expected, losses=2e-5, gradient=2e-5)
    rounded = stepped(plan_of(shape, dtype="bfloat16"), DEVICE)
    check_alike(rounded, expected, losses=2e-2, gradient=5e-2)
    assert rounded["losses"] != expected["losses"]


def test_computing_blocks_again_gives_the_same_gradient_in_less_memory():
    long = replace(MODERN, context_length=T, n_layers=8)
    plain, again = stepped(plan_of(long), DEVICE), stepped(plan_of(long, checkpointing=True), DEVICE)
    check_alike(again, plain, losses=1e-6, gradient=1e-6)
    assert again["most"] < 0.9 * plain["most"]


@pytest.mark.filterwarnings("default")  # those of the compiler are not ours
def test_compiled_blocks_train_alike():
    plain, compiled = stepped(plan_of(MODERN), DEVICE), stepped(plan_of(MODERN), DEVICE, compiled=True)
    check_alike(compiled, plain, losses=2e-5, gradient=2e-5)


@contextlib.contextmanager
def nccl_world():
    """A world of one process that is not alone, so that all of its exchanges go over NCCL and gloo."""
    store = dist.HashStore()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1, device_id=torch.device("cuda", 0)
    )
    try:
        yield World(Rank(launched=True), store=store, group=dist.new_group(backend="gloo"))
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def engine(name: str, world: World):
    """Replicas, as a world of one has them; or shards, of which this process has the only one."""

    def divided(module, device, finite):
        sharded(module, module.model.blocks, world, device)
        return module

    with patch("lucidlm.training.gradient.replicated", divided if name == "fsdp" else replicated):
        yield


@pytest.mark.filterwarnings("default")  # those of the compiler are not ours
@pytest.mark.parametrize(
    ("name", "compiled"), [("ddp", False), ("fsdp", False), ("ddp", True), ("fsdp", True)]
)
@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_the_engines_over_nccl_train_what_one_process_trains(name, compiled, optim):
    plan = plan_of(MODERN)
    plan = replace(plan, optim=replace(plan.optim, name=optim))
    alone = stepped(plan, DEVICE)
    with nccl_world() as world, engine(name, world):
        found = stepped(plan, DEVICE, world, compiled=compiled)
    check_alike(found, alone, losses=2e-5 if optim == "adamw" else 1e-2, gradient=2e-5)


@contextlib.contextmanager
def sharing_one_gpu():
    """NCCL refuses two processes on one GPU: gloo carries what is on it, and both take the first."""
    real = dist.init_process_group

    def by_gloo(backend, **named):
        assert backend == "cpu:gloo,cuda:nccl"
        real("cpu:gloo,cuda:gloo", **{**named, "device_id": None})

    os.environ["LOCAL_RANK"] = "0"
    with patch.object(dist, "init_process_group", by_gloo):
        yield


def steps_together(plan: Plan, layout: Layout) -> dict:
    with sharing_one_gpu(), joined(layout, device="cuda") as world:
        return stepped(plan, DEVICE, world)


def test_two_processes_on_a_gpu_train_what_one_trains():
    """Replicas: gloo carries no shards from GPU to GPU. Those are tried over NCCL, in one process."""
    plan = plan_of(MODERN)
    found = in_world(2, steps_together, plan, Layout(), within=200)
    assert found[0]["losses"] == found[1]["losses"]
    check_alike(found[0], stepped(plan, DEVICE), losses=2e-5, gradient=2e-5)


def losses_of(reports: Iterable[Report]) -> list[float]:
    """Of the steps, without the validation before the first."""
    return [loss for report in reports if math.isfinite(loss := report.step.loss_nats)]


@contextlib.contextmanager
def a_run(folder: Path, text: Path, plan: Plan, world: World, *, resume: bool = False):
    """A run under way, new or resumed."""
    config = TrainConfig(
        text=str(text), out=str(folder), tokenizer="bytes", device="cuda", checkpoint_seconds=1e9
    )
    with contextlib.ExitStack() as stack:
        if resume:
            begin = lambda: resume_run(str(folder), stack, SILENT, world=world)  # noqa: E731
        else:
            begin = lambda: start_run(config, stack, SILENT, plan=plan, world=world)  # noqa: E731
        yield begin_together(world, begin, SILENT)


def test_a_run_goes_on_from_shards_to_replicas_and_its_divided_checkpoint_opens(tmp_path, book):
    plan, folder = plan_of(MODERN, steps=12), tmp_path / "run"
    with nccl_world() as world, engine("fsdp", world), a_run(folder, book, plan, world) as run:
        assert run.divided
        losses = losses_of(train_steps(run, stop=lambda: run.step >= 4))
        save(run)
    assert last_of(folder).joinpath(SHARDS).is_dir()
    assert all(weight.isfinite().all() for weight in load(last_of(folder))[0].parameters())
    for name, end in (("fsdp", 6), ("ddp", 12)):
        with nccl_world() as world, engine(name, world), a_run(folder, book, plan, world, resume=True) as run:
            losses += losses_of(train_steps(run, stop=lambda: run.step >= end))  # noqa: B023
            save(run)
    with a_run(tmp_path / "alone", book, plan, World()) as run:
        alone = losses_of(train_steps(run))
    np.testing.assert_allclose(losses, alone, rtol=0, atol=5e-5)


def test_each_save_in_the_background_has_the_state_of_its_step(tmp_path, book):
    config = TrainConfig(
        text=str(book), out=str(tmp_path / "run"), tokenizer="bytes", device="cuda", checkpoint_seconds=0
    )
    plan, in_background, hashes = plan_of(MODERN, steps=60, validate_every=20), 0, {}
    with contextlib.ExitStack() as stack, patch.object(saving, "SAVING_SHARE", 1e9):
        run = start_run(config, stack, SILENT, plan=plan)
        for _ in train_steps(run):
            hashes[run.step] = hash_of(run.model)
            in_background += run.writing is not None
        save(run, now=True)
    assert in_background > 10
    folders = checkpoint_folders(tmp_path / "run")
    assert len(folders) > 1
    for folder in folders:
        step = json.loads((folder / "state.json").read_text())["step"]
        assert hash_of(load(folder)[0]) == hashes[step], folder


def hash_of(model: GPT) -> str:
    digest = hashlib.sha256()
    for _, weight in sorted(model.named_parameters()):
        digest.update(weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


FLAGS = [
    *("--tokenizer", "bytes", "--context-length", "64", "--preset", "modern-1m", "--batch-tokens", "1024"),
    *("--device", "cuda", "--steps", "60", "--validate-every", "30", "--checkpoint-seconds", "0"),
]


EXACT = ("--dtype", "float32", "--json")


def lucidlm(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lucidlm", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(process: subprocess.Popen[str]) -> str:
    out, notes = process.communicate(timeout=200)
    assert process.returncode == 0, notes[-3000:]
    return out


def steps_in(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["step"]: line["loss_nats"] for line in lines if line["event"] == "step"}


def test_a_run_is_the_same_twice_and_after_kills(tmp_path, book):
    killed, whole_run = tmp_path / "killed", tmp_path / "whole"
    other = lucidlm("train", str(book), "--out", str(whole_run), *FLAGS)
    arguments, draw = ["train", str(book), "--out", str(killed), *FLAGS], random.Random(0)
    for wanted in (8, 30):
        process, end = lucidlm(*arguments), time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                if max(steps_in(killed), default=0) >= wanted:
                    break
            time.sleep(0.01)
        time.sleep(0.2 * draw.random())
        assert process.poll() is None, process.communicate()[1][-2000:]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        arguments = ["train", "--resume", "--out", str(killed)]
    done(lucidlm(*arguments))
    done(other)
    assert steps_in(killed) == steps_in(whole_run)
    names = ["model.safetensors", f"{last_of(killed).relative_to(killed)}/optimizer.safetensors"]
    for name in names:
        assert (killed / name).read_bytes() == (whole_run / name).read_bytes(), name


def test_evaluate_says_the_same_on_the_gpu_and_on_the_cpu(tmp_path, book):
    run = tmp_path / "run"
    done(lucidlm("train", str(book), "--out", str(run), *FLAGS))
    gpu, cpu = (
        json.loads(done(lucidlm("evaluate", str(run), str(book), "--device", device, *EXACT)))
        for device in ("cuda", "cpu")
    )
    assert gpu["loss_nats"] == pytest.approx(cpu["loss_nats"], rel=1e-5)
    assert gpu["units"] != cpu["units"], "other kernels round otherwise"


def test_a_gpu_whose_memory_runs_out_costs_no_checkpoint(tmp_path, book):
    shape = replace(MODERN, emb_dim=512, hidden_dim=2048, n_heads=8, n_kv_heads=8, head_dim=64)
    config = TrainConfig(text=str(book), out=str(tmp_path / "run"), tokenizer="bytes", device="cuda")
    held = []

    def fill(report) -> None:
        free, _ = torch.cuda.mem_get_info()
        held.append(torch.empty(max(0, free - 2**24), dtype=torch.uint8, device="cuda"))
        torch.cuda.empty_cache()

    with pytest.raises(RunError, match=r"out of memory.* after step \d+; the checkpoint of step 0 remains"):
        train(config, plan=plan_of(shape, steps=40, micro_batch=B), watch=fill)
    held.clear()
    torch.cuda.empty_cache()
    load(last_of(tmp_path / "run"))


def test_doctor_finds_the_gpu_sound():
    out = done(lucidlm("doctor"))
    assert torch.cuda.get_device_name() in out
