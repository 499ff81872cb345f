"""benchmarks/: what is written into docs/numbers.md, and how it is made from what was measured."""

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch
from models import made_up_text

from lucidlm.text.preparation import prepare

ROOT = Path(__file__).parents[1]
MODULES = (
    "timing", "tables", "contestants", "steps", "small_models", "learning", "budget", "texts", "peers",
    "recipes", "gpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    """The scripts as modules that import each other, as they do where one of them is run."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["step", "small", "learning"])
def test_each_part_has_its_place_on_the_page_and_changes_nothing_else(bench, name, tmp_path):
    page = (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")
    copy = tmp_path / "numbers.md"
    copy.write_text(page, encoding="utf-8")
    bench["tables"].write(name, {"a": 1}, "\nnew | text\n", folder=tmp_path, numbers=copy)
    changed = copy.read_text(encoding="utf-8")
    begin, end = f"<!-- bench: {name} -->\n", f"<!-- end: {name} -->"
    assert changed.count("new | text") == 1
    for old, new in zip(
        (page.split(begin)[0], page.split(end)[1]), (changed.split(begin)[0], changed.split(end)[1])
    ):
        assert old == new
    assert changed.split(begin)[1].split(end)[0] == "new | text\n"
    assert name in bench["peers"].PARTS


def test_a_page_without_the_marks_is_refused(bench):
    for page in ("no marks", "<!-- bench: x -->\nnever closed"):
        with pytest.raises(SystemExit, match="missing"):
            bench["tables"].replaced(page, "x", "text")


def runs_of(*seconds, speed=100.0, peak_mib=1000):
    times = [[each, speed, 3 * each] for each in seconds]
    return [{"times": times, "chosen": "by itself", "peak_mib": peak_mib, "version": "1"}]


def test_a_step_is_compared_by_median_and_by_the_best(bench):
    steps = bench["steps"]
    size = steps.Size(2, 256, ("course", "ours"), rounds=1, seconds=1.0)
    results = [
        steps.result_of("course", size, runs_of(4.0, 8.0, 8.0), best=100.0),
        steps.result_of("ours", size, runs_of(1.0, 2.0, 2.0, peak_mib=500), best=100.0),
    ]
    assert results[0].of_peak(1e12) == pytest.approx(results[1].of_peak(1e12) / 4)
    text = steps.tables(results, 1e12)
    assert "| 64 (128); " in text
    assert "against the course's code, float32 | 4.0 (4.0); 4.0; 0.50 |" in text
    assert "<svg" in steps.picture(results)


def test_the_part_of_the_peak_is_counted_by_hand(bench):
    steps = bench["steps"]
    result = steps.result_of(
        "ours", steps.Size(8, 256, ("ours",), rounds=1, seconds=1.0), runs_of(2.0), best=100.0
    )
    blocks = 12 * (4 * 768 * 768 + 768 + 2 * 768 * 3072 + 3072 + 768)
    norms = (12 * 4 + 2) * 768
    # The mask leaves half of the pairs: 2 x 2 T C forward, twice that backward, halved.
    attention = 12 * 768 * 256
    flops = 6 * (blocks + norms + 50257 * 768 + attention) * 8 * 256
    assert result.of_peak(1e12) == pytest.approx(flops / 2.0 / 1e12, rel=1e-6)


def test_a_step_that_failed_has_its_reason_and_no_figure(bench):
    steps = bench["steps"]
    size = steps.Size(2, 256, ("litgpt", "ours"), rounds=1, seconds=1.0)
    failed = [{"failed": "ModuleNotFoundError: No module named 'litgpt'"}]
    results = [
        steps.result_of("litgpt", size, failed, best=100.0),
        steps.result_of("ours", size, runs_of(1.0), best=100.0),
    ]
    text = steps.tables(results, 1e12)
    assert "| failed |" in text
    assert failed[0]["failed"] in text
    assert "against litgpt" not in text


def test_what_a_contestant_says_last_is_why_it_failed(bench, tmp_path, monkeypatch):
    steps = bench["steps"]
    monkeypatch.setattr(steps, "__file__", str(tmp_path / "steps.py"))
    (tmp_path / "contestants.py").write_text("print('a word'); raise KeyError('missing')")
    size = steps.Size(1, 16, ("course",), rounds=1, seconds=0.1)
    assert steps.run_one("course", size, sys.executable) == {"failed": "KeyError: 'missing'"}


@pytest.mark.parametrize(
    ("text", "first"), [("abcdefghij", "abcdefghi"), ("abcdefgh€", "abcdefgh€"), ("€" * 4, "€" * 4), ("", "")]
)
def test_a_text_is_cut_after_nine_tenths_before_a_whole_character(bench, text, first):
    train, test = bench["texts"].cut(text.encode())
    assert train.decode() == first
    assert (train + test).decode() == text


def test_a_text_of_this_machine_needs_a_size(bench):
    with pytest.raises(SystemExit, match="code:200000"):
        bench["texts"].text_of("code")
    assert len(bench["texts"].text_of("code:1000").train) == 900


@pytest.mark.parametrize("count", [1, 5, 37])
def test_the_first_weights_below_a_goal_are_found(bench, count):
    learning = bench["learning"]
    curve = [2.0 + 1.5 * math.exp(-0.15 * place) for place in range(count)]
    asked = []
    found = learning.evaluated(count, lambda place: asked.append(place) or curve[place])
    assert len(asked) == len(set(asked)) <= count // learning.COARSE + 8
    for goal in learning.GOALS:
        first = next((place for place, bits in enumerate(curve) if bits <= goal), None)
        assert min((place for place, bits in found.items() if bits <= goal), default=None) == first


def test_two_revisions_are_compared_by_their_medians(bench):
    small, times = bench["small_models"], bench["timing"].Times
    plans = ("float32, 0 workers, 2 threads", "bfloat16, 2 workers, 1 thread")
    result = small.Result(
        small.SHAPES[0], small.QUIET, times((0.4, 0.4, 0.9), 3), times((0.1, 0.2, 0.2), 3), plans
    )
    (row,) = [line for line in small.tables([result], "abc").splitlines() if "quiet" in line]
    before, now, ratio = row.strip("| ").split(" | ")[2:]
    assert before == "5,120 (2,276 to 5,120); float32, 0 workers, 2 threads"
    assert now == "10,240 (10,240 to 20,480); bfloat16, 2 workers, 1 thread"
    assert ratio == "2.00"
    assert small.records([result])[0]["ratio"] == pytest.approx(2.0)


def test_a_process_that_ends_early_ends_the_comparison(bench, tmp_path, monkeypatch):
    small = bench["small_models"]
    monkeypatch.setattr(small, "__file__", str(tmp_path / "small_models.py"))
    (tmp_path / "small_steps.py").write_text("raise KeyError('missing')")
    with small.training(small.SHAPES[0], tmp_path) as side, pytest.raises(SystemExit, match="ended"):
        side.begin()


def test_the_benchmark_of_a_gpu_trains_by_the_plan_of_its_flags(bench, monkeypatch, tmp_path):
    gpu, models = bench["gpu"], []
    monkeypatch.setattr(gpu, "GPU", torch.device("cpu"))
    monkeypatch.setattr(gpu, "STEPS", 2)
    made = gpu.make_optimizers
    monkeypatch.setattr(gpu, "make_optimizers", lambda *given: models.append(given[0]) or made(*given))
    (tmp_path / "story.txt").write_text(made_up_text(), encoding="utf-8")
    corpus = prepare(tmp_path / "story.txt", tmp_path / "data", tokenizer="bytes")
    name, windows, speed, *_ = gpu.training(gpu.Size("modern-1m", 512, checkpointing=True), corpus, 1e12)
    assert name == "modern-1m, --checkpointing"
    assert windows.startswith("2 x 256, ")
    assert int(speed.replace(",", "")) > 0
    assert all(block.checkpointing for block in models[0].blocks)


def test_the_benchmark_of_a_gpu_covers_each_model_of_its_table(bench):
    gpu = bench["gpu"]
    assert {size.preset for size in gpu.SIZES} == {"gpt2-124m", "gpt2-355m", "gpt2-1558m"}
    assert any(size.checkpointing for size in gpu.SIZES)
    assert any(size.compile for size in gpu.SIZES)
    head, works = gpu.part_of("loss", 1e12, Path())
    assert len(works) == 2
    assert len(head) == 7
