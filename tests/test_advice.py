"""Advice is followed: each message that names a flag or a command is produced, then done as it says.

The last tests read lucidlm's own code, so that no message with new advice is there without such a test.
"""

import ast
import contextlib
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from models import BYTES, SMALLEST, made_up_text
from trainings import judge_little, measure_once

import lucidlm
from lucidlm.cli import app, main
from lucidlm.model.gpt import GPT
from lucidlm.runtime.locks import lock
from lucidlm.weights.huggingface import save_model

CODE, TESTS = Path(lucidlm.__file__).parent, Path(__file__).parent
TRAIN = "--from base --steps 1 --device cpu --threads 1"


class Advised(NamedTuple):
    """A command, what it says, and the command that does what that says."""

    command: str
    said: str
    """Part of the message, as the code has it: {} is any text."""
    then: str
    """Follows the advice: it ends well and does not say the same again."""


# ruff: noqa: E501
# fmt: off
FOLLOWED = [
    Advised("evaluate run run2", "to compare two models: lucidlm compare {} {0}", "compare run run2"),
    Advised("compare run run2 run3", "commas join the runs of one recipe: lucidlm compare {} {},{0}", "compare run run2,run3"),
    Advised(f"train base --out none {TRAIN}", "to start a new training from its weights: lucidlm train TEXT --from {0}", "train book.txt --from base --steps 1 --device cpu --threads 1 --out on-base"),
    Advised(f"train run --out none {TRAIN}", "to start a new one from its weights: lucidlm train TEXT --from {0}", "train book.txt --from run --steps 1 --device cpu --threads 1 --out on"),
    Advised("plan base --steps 1", "to plan a training from its weights: lucidlm plan TEXT --from {0}", "plan book.txt --from base --steps 1 --device cpu --threads 1"),
    Advised("plan --gpus 8 --params 7b --replicas 8", "leave --replicas out", "plan --gpus 8 --params 7b"),
    Advised("plan --gpus 8 --params 1k", "too few for two layers; give at least {}, or --preset", "plan --gpus 8 --params 150000"),
    Advised("plan --gpus 8", "give either --params, as in 7b, or --preset", "plan --gpus 8 --params 7b"),
    Advised("plan --gpus 8 --params 7b --shards 4 --replicas 4", "is not --gpus {}; leave one of the two out", "plan --gpus 8 --params 7b --shards 4"),
    Advised("plan --gpus 8 --params 7b --shards 3", "it does not divide --gpus {}; give {}", "plan --gpus 8 --params 7b --shards 4"),
    Advised("plan --params 7b", "only a plan with --gpus uses it; give --gpus N too, or leave it out", "plan --params 7b --gpus 8"),
    Advised("plan book.txt --gpus 8 --params 7b", "a plan with --gpus does not use it; leave it out", "plan --gpus 8 --params 7b"),
    Advised("train run2 --out none", "to continue that training: lucidlm train --resume --out {0}", "train --resume --out run2"),
    Advised("prepare book.txt --out p --tokenizer bytes", "tokenizer {}; lucidlm train {} trains on it", f"train p {TRAIN} --out of-p"),
    Advised(f"train book.txt {TRAIN} --out next", '    lucidlm generate {} "Once"', 'generate next "Once"'),
    Advised(f"train book.txt {TRAIN} --out next2", "    lucidlm evaluate {} OTHER_TEXT", "evaluate next2 more.txt"),
    Advised(f"train book.txt {TRAIN} --out next3", '    lucidlm explain {} "any sentence"', 'explain next3 "any sentence"'),
    Advised("train --resume --steps 3 --out run", "give --out and nothing else", "train --resume --out run"),
    Advised("train --config run/run.toml --verbose --out v", "and it is not made again; leave --verbose out", "train --config run/run.toml --out v"),
    Advised("train --resume", "--resume needs --out RUN", "train --resume --out run"),
    Advised("evaluate run more.txt --csv t.csv", "--csv needs --by document", "evaluate run more.txt --csv t.csv --by document"),
    Advised("explain run book --field x", "give it by --file, or leave them out", "explain run book"),
    Advised("explain run", "nothing to explain: give a text in quotes, or --file", "explain run --file more.txt"),
    Advised("generate run The --val more.txt", "it measures the cost of --dtype int8; give that, or leave --val out", "generate run The --val more.txt --dtype int8 --max-new-tokens 2"),
    Advised("runs nothing", "no runs in {}; lucidlm train BOOK makes one", "runs ."),
    Advised(f'train book.txt {TRAIN} --out c --config ""', "give a .toml file or leave it out", f"train book.txt {TRAIN} --out c"),
    Advised("compare run,run run2 more.txt", "give each run once (lucidlm train --seed N makes others)", "compare run,run3 run2 more.txt"),
    Advised("evaluate run --strid 5", "(lucidlm {} --help lists verbs and flags)", "evaluate --help"),
    Advised("compare run run2 more.txt", "compare recipes: lucidlm compare A1,A2 B1,B2 TEXT", "compare run,run3 run2,run4 more.txt"),
    Advised("evaluate run many.jsonl --by document", "... {} more: --csv FILE and --json have all", "evaluate run many.jsonl --by document --csv t.csv --json"),
    Advised("evaluate run more.txt --protocol lm-eval --stride 5", "leave --stride out", "evaluate run more.txt --protocol lm-eval"),
    Advised("evaluate run more.txt --protocol lm-eval --prefix none", "leave --prefix none out", "evaluate run more.txt --protocol lm-eval"),
    Advised("evaluate run more.txt --baseline no.json", "cannot be read ({}); store a result with: lucidlm evaluate MODEL TEXT --json > {}", "evaluate run more.txt --baseline stored.json"),
    Advised("evaluate run more.txt --baseline broken.json", "not a stored result ({}); make one with: lucidlm evaluate MODEL TEXT --json > FILE", "evaluate run more.txt --baseline stored.json"),
    Advised("evaluate run more.txt --baseline run2", "store its result first: lucidlm evaluate {0} TEXT --json > FILE", "evaluate run more.txt --baseline stored.json"),
    Advised("evaluate run more.txt --max-bits 9 --protocol hf-guide", "use --protocol lucid or lm-eval", "evaluate run more.txt --max-bits 99 --protocol lm-eval"),
    Advised("evaluate run more.txt --baseline more.txt", "evaluate MODEL TEXT --json > FILE", "evaluate run more.txt --baseline stored.json"),
    Advised("evaluate prepared", "lucidlm train {}", f"train prepared {TRAIN} --out from-prepared"),
    Advised("explain run more.txt", "a file or folder: --file {} reads it", "explain run --file more.txt"),
    Advised("train --config run --out a", "give its settings: --config {0}/{}", "train --config run/run.toml --out a"),
    Advised("train --resume --out bare", "no checkpoint was written yet; train again with --overwrite", f"train book.txt {TRAIN} --out bare --overwrite"),
    Advised("train --resume --out torn", "no checkpoint is whole: {}; train again with --overwrite", f"train book.txt {TRAIN} --out torn --overwrite"),
    Advised("train --resume --out reset", "begin a new run with it: lucidlm train --config {} --out NEW", "train --config reset/run.toml --out new"),
    Advised("evaluate run book.txt", "`lucidlm evaluate {}` without a text gives the held-out number", "evaluate run"),
    Advised("generate run a --num 100000", "another --seed gives more", "generate run a --seed 5 --max-new-tokens 3"),
    Advised('generate run a --stop ""', "leave it out", "generate run a --max-new-tokens 3"),
    Advised("evaluate run more.txt --device cuda", "use --device cpu", "evaluate run more.txt --device cpu"),
    Advised("prepare book.txt --out q --field x --tokenizer bytes", "without fields read whole: --field does not apply to it", "prepare book.txt --out q2 --tokenizer bytes"),
    Advised("prepare utf8.txt --out r --encoding cp1251 --tokenizer bytes", "omit --encoding to see which", "prepare utf8.txt --out r2 --tokenizer bytes"),
    Advised("prepare records --out s --tokenizer bytes", "without the field of the text (--field)", "prepare records --out s2 --tokenizer bytes --field content"),
    Advised("prepare lines.txt --out t --tokenizer bytes", "name it .jsonl or .json and give --field", "prepare content.jsonl --out t2 --tokenizer bytes --field content"),
    Advised("prepare table.txt --out t3 --tokenizer bytes", "name it .csv or .tsv and give --field", "prepare table.csv --out t4 --tokenizer bytes --field prose"),
    Advised("evaluate run table.csv", "choose one with --field NAME, or with --field NUMBER (1 to {})", "evaluate run table.csv --field 2"),
    Advised("evaluate run content.jsonl", "no field {}; choose one with --field: {}", "evaluate run content.jsonl --field content"),
    Advised("evaluate run content.jsonl --field number", "or choose another field with --field: {}", "evaluate run content.jsonl --field content"),
    Advised("evaluate run strings.json --field x", "a string, which has no field {}; omit --field", "evaluate run strings.json"),
    Advised("prepare book.txt --out nothing2 --tokenizer bytes", "it is not overwritten: choose another --out or move it away", "prepare book.txt --out elsewhere --tokenizer bytes"),
    Advised("prepare one.txt --out u --tokenizer bytes", "add text or give --val", "prepare one.txt --val more.txt --out u2 --tokenizer bytes"),
    Advised("prepare book.txt --out unsplit --tokenizer bytes --split documents", "use --split pieces or end, or give --val", "prepare book.txt --out v2 --tokenizer bytes --split pieces"),
    Advised("prepare alike.jsonl --out w --tokenizer bytes --split documents", "give a validation text with --val", "prepare alike.jsonl --val more.txt --out w2 --tokenizer bytes"),
    Advised("prepare book.txt --out x --tokenizer bytes --split end --val more.txt", "the validation text is given; leave one out", "prepare book.txt --out x2 --tokenizer bytes --split end"),
    Advised(f"train book.txt {TRAIN} --preset modern-1m --out y", "brings its own shape and tokenizer; leave --{} out", f"train book.txt {TRAIN} --out y"),
    Advised("train book.txt --preset modern-1m --steps 1 --batch-tokens 64 --out z --tokenizer bytes", "raise it or lower --context-length", "train book.txt --preset modern-1m --steps 1 --batch-tokens 64 --context-length 64 --out z --tokenizer bytes --device cpu --threads 1"),
    Advised(f"train book.txt {TRAIN} --out run4", "choose another --out, --resume or --overwrite", f"train book.txt {TRAIN} --out run4 --overwrite --seed 4"),
    Advised(f"train book.txt {TRAIN} --out nothing2", "choose another --out", f"train book.txt {TRAIN} --out nothing4"),
    Advised(f"train book.txt {TRAIN} --out nothing2 --overwrite", "--overwrite will not delete it; choose another --out", f"train book.txt {TRAIN} --out nothing3"),
    Advised("train --resume --out nothing", "lucidlm runs lists the runs below a folder", "runs"),
    Advised(f"train prepared {TRAIN} --tokenizer gpt2 --out k", "leave --{} out", f"train prepared {TRAIN} --out k"),
    Advised("train prepared --steps 1 --tokenizer gpt2 --out k2 --device cpu --threads 1", "or leave --tokenizer out", f"train prepared {TRAIN} --out k2"),
    Advised(f"train words {TRAIN} --out l", "prepare it with --tokenizer {}", f"train again {TRAIN} --out l"),
    Advised(f"train prepared {TRAIN} --val-fraction 0.3 --out m", "was chosen when it was prepared; ", f"train prepared {TRAIN} --out m"),
    Advised("export run --out nothing2", "it is not overwritten: choose another --out", "export run --out exported"),
    Advised("export run --kind f32 --out g", "only --format gguf has it; --dtype is the dtype of --format {}", "export run --dtype float32 --out g"),
    Advised("evaluate base more.txt --baselines", "--baselines: they need a run and --protocol lucid, not {}", "evaluate run more.txt --baselines"),
    Advised("report", "no run was given; lucidlm runs lists them", "runs ."),
    Advised("report run --html c.html --unit bits", "give --svg FILE, or leave --unit out", "report run --svg c.svg --unit bits"),
    Advised("report run", "nothing to write; give --svg FILE, --csv FILE or --html FILE", "report run --svg curves.svg --csv curves.csv --html curves.html"),
    Advised("evaluate changed", "lucidlm train --config {} --out NEW repeats the run", "train --config changed/run.toml --out repeated"),
]
"""One line each, so that they can be read as a table."""
# fmt: on


class Answer(NamedTuple):
    """What a command did."""

    code: int
    said: str


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of many kinds, a tiny model of random weights, four runs from it, one whose config changed, a result."""
    here = tmp_path_factory.mktemp("advice")
    _write_texts(here)
    torch.manual_seed(0)
    save_model(GPT(SMALLEST.changed(context_length=32)), BYTES, here / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        _make_quick(patch)
        for seed in range(1, 5):
            name = "run" if seed == 1 else f"run{seed}"
            assert main(["train", "book.txt", *shlex.split(TRAIN), "--seed", f"{seed}", "--out", name]) == 0
        assert main(["train", "book.txt", *shlex.split(TRAIN), "--out", "changed"]) == 0
        for tokenizer, folder in (("bytes", "prepared"), ("bpe:300", "words"), ("base", "again")):
            assert main(["prepare", "book.txt", "--out", folder, "--tokenizer", tokenizer]) == 0
        with contextlib.redirect_stdout(io.StringIO()) as stored:
            assert main(["evaluate", "run", "more.txt", "--json", "--threads", "1"]) == 0
        (here / "stored.json").write_text(stored.getvalue())
    for name in ("bare", "torn", "reset"):
        shutil.copytree(here / "run", here / name)
    shutil.rmtree(here / "bare" / "checkpoints")
    for file in (here / "torn" / "checkpoints").glob("*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    settings = here / "reset" / "run.toml"
    settings.write_text(settings.read_text().replace("seed = 1\n", "seed = 9\n", 1))
    config = json.loads((here / "changed" / "config.json").read_text())
    for folder in (here / "changed", *(here / "changed" / "checkpoints").iterdir()):  # no copy is left
        (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    return here


def _write_texts(here: Path) -> None:
    texts = {
        "book.txt": made_up_text(seed=1),
        "more.txt": made_up_text(seed=2, sentences=8),
        "one.txt": "a",
        "utf8.txt": "Größe und Güte, und übermäßig viele Töne. " * 60,
        "table.csv": "name,prose\n"
        + "".join(f"{n},{made_up_text(seed=n, sentences=2).replace(',', ' ')!r}\n" for n in range(5)),
        "content.jsonl": "".join(
            json.dumps({"content": made_up_text(seed=n, sentences=3), "number": n}) + "\n" for n in range(4)
        ),
        "many.jsonl": "".join(
            json.dumps({"text": made_up_text(seed=n, sentences=1)}) + "\n" for n in range(30)
        ),
        "alike.jsonl": json.dumps({"text": made_up_text(seed=3)})
        + "\n"
        + json.dumps({"text": made_up_text(seed=3)})
        + "\n",
        "strings.json": json.dumps([made_up_text(seed=4, sentences=5)]),
        "broken.json": "{}",
    }
    texts["lines.txt"] = texts["content.jsonl"]
    texts["table.txt"] = texts["table.csv"]
    for name, text in texts.items():
        (here / name).write_text(text, encoding="utf-8")
    (here / "records").mkdir()
    (here / "records" / "a.jsonl").write_text(texts["content.jsonl"])
    (here / "records" / "b.jsonl").write_text(
        '{"text": "' + "A river ran past. " * 40 + '", "content": "It was late. "}\n'
    )
    for name in ("nothing", "nothing2"):
        (here / name).mkdir()
    (here / "nothing2" / "mine.txt").write_text("mine")


def _make_quick(patch: pytest.MonkeyPatch) -> None:
    from lucidlm.training import start

    patch.setattr(start, "fastest_exact_float32", lambda device: ("stock", "float32: stock"))
    judge_little(patch)
    measure_once(patch)


@pytest.fixture
def do(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[[str], Answer]:
    """do("evaluate run more.txt"): the command in this process, in the house."""
    monkeypatch.chdir(house)
    monkeypatch.setenv("COLUMNS", "200")
    _make_quick(monkeypatch)

    def run(command: str) -> Answer:
        capsys.readouterr()
        words = shlex.split(command)
        if words[0] in ("evaluate", "explain", "generate", "compare"):
            words += ["--threads", "1"]
        try:
            code = main(words)
        except SystemExit as stopped:
            code = stopped.code or 0
        torch.set_num_threads(1)
        captured = capsys.readouterr()
        return Answer(code, captured.out + captured.err)

    return run


@pytest.mark.parametrize("advised", FOLLOWED, ids=lambda advised: advised.command)
def test_what_a_message_advises_works(do, advised):
    said = do(advised.command).said
    assert re.search(_pattern(advised.said), said), said
    code, after = do(advised.then)
    assert code == 0, after
    assert "brings" in said or not re.search(_pattern(advised.said), after) or advised.said.startswith("    ")


def _pattern(said: str) -> str:
    return ".+?".join(re.escape(part) for part in re.split(r"\{\d*\}", said))


ELSEWHERE = {
    "--nproc-per-node N -m lucidlm train ..., or leave them out": "runtime/test_distributed.py::test_what_shares_a_run_among_processes_is_refused_without_torchrun",
    "--replicas, --shards and --patience are for the processes of torchrun": "runtime/test_distributed.py::test_what_shares_a_run_among_processes_is_refused_without_torchrun",
    "--out is needed under torchrun": "training/test_spread.py::test_under_torchrun_a_run_needs_a_name_and_seeds_come_one_by_one",
    "torchrun trains one run at a time; leave --seeds out, and give --seed": "training/test_spread.py::test_under_torchrun_a_run_needs_a_name_and_seeds_come_one_by_one",
    "start {} (--nproc-per-node), or choose --batch-tokens": "runtime/test_distributed.py::test_rows_are_divided_equally_or_the_nearest_numbers_of_processes_are_named",
    "start {}{} (--nproc-per-node), or choose --batch-tokens": "runtime/test_distributed.py::test_rows_are_divided_equally_or_the_nearest_numbers_of_processes_are_named",
    "or start as many (--nproc-per-node)": "runtime/test_distributed.py::test_a_layout_that_torchruns_processes_do_not_make_up_is_refused",
    "start the same command again, or let torchrun do that (--max-restarts)": "runtime/test_distributed.py::test_a_process_that_is_lost_is_named_within_the_patience",
    "leave --open or --api-key out": "cli/test_serving.py::test_what_cannot_be_is_refused_before_a_model_is_loaded",
    "train one, or serve one: lucidlm serve gpt2": "cli/test_serving.py::test_without_a_model_or_a_run_it_shows_where_to_train_one",
    "other machines can reach this address; give --api-key too, or use --host 127.0.0.1": "cli/test_serving.py::test_an_address_of_others_needs_a_key",
    "another program uses it; give another --port, or 0 for any free one": "cli/test_serving.py::test_a_port_in_use_is_an_error_with_a_way_out",
    "learn/page": "test_learn.py::test_the_command_of_a_step_is_one_that_the_program_takes",
    'lucidlm explain lecture "{}"': "test_learn.py::test_the_command_of_a_step_is_one_that_the_program_takes",
    "# Learn in twelve steps": "test_learn.py::test_the_page_tells_the_steps",
    "Answer it with `lucidlm learn {}`": "test_learn.py::test_the_page_tells_the_steps",
    "--json needs a step and --answer": "test_learn.py::test_the_verb_asks_checks_and_remembers",
    "give the step that it answers": "test_learn.py::test_the_verb_asks_checks_and_remembers",
    "Answer with: lucidlm learn {}": "test_learn.py::test_the_verb_asks_checks_and_remembers",
    "lucidlm learn lists them": "test_learn.py::test_the_verb_asks_checks_and_remembers",
    "Next: lucidlm learn {}": "test_learn.py::test_progress_is_kept_and_a_damaged_file_is_no_progress",
    "lucidlm train --resume --out {} evaluates it": "training/test_saving.py::test_memory_that_runs_out_while_judging_costs_no_run_and_resuming_judges",
    "then lucidlm train --resume --out {} goes on from it": "test_advice.py::test_where_memory_ran_out_in_a_step_both_ways_out_work",
    ", or start over with smaller batches: lucidlm train --config {} --micro-batch 1 --out NEW": "test_advice.py::test_where_memory_ran_out_in_a_step_both_ways_out_work",
    "interrupted at step {}{}; go on with: lucidlm train --resume": "training/test_signals.py::test_signals_end_the_command_with_their_code_and_a_checkpoint_and_resuming_is_bitwise",
    "lucidlm train --resume --out {} goes on with it": "training/test_signals.py::test_signals_end_the_command_with_their_code_and_a_checkpoint_and_resuming_is_bitwise",
    "lucidlm train --resume --out {} begins again where it was": "training/test_saving.py::test_a_signal_in_a_validation_ends_it_and_resuming_begins_with_it",
    "lucidlm train --resume --out {} goes on from step {}": "training/test_finish.py::test_after_a_last_save_that_fails_the_result_is_told_then_what_is_lost_and_the_advice_works",
    "lucidlm train --resume --out {} evaluates the run again and writes it": "training/test_saving.py::test_a_signal_while_judging_ends_it_and_resuming_judges",
    "hidden at this width: {}; --csv FILE and --json have all columns": "cli/test_listing.py",
    "lucidlm train --config run.toml --out NEW repeats it": "cli/test_training.py::test_a_run_is_repeated_by_its_run_toml_and_changed_by_a_flag_over_it",
    "omit --encoding": "text/formats/test_hints.py::test_the_advised_encoding_reads_what_was_written",
    "add --encoding {}": "text/formats/test_hints.py::test_the_advised_encoding_reads_what_was_written",
    "--encoding does not apply": "text/formats/test_kinds.py",
    "--field does not apply": "text/formats/test_kinds.py",
    "--checkpointing --micro-batch {} fits": "training/test_footprint.py::test_where_not_one_window_fits_blocks_are_computed_again_and_the_advice_fits",
    "no column {}; choose one with --field: {}": "text/formats/test_parquet.py::test_a_column_that_is_not_there_or_holds_no_strings_is_refused_with_those_that_do",
    "not strings; choose another with --field: {}": "text/formats/test_parquet.py::test_a_column_that_is_not_there_or_holds_no_strings_is_refused_with_those_that_do",
    "use --workers 1, which needs no other process": "text/test_processes.py::test_a_message_that_cannot_be_read_ends_the_work_and_what_is_advised_works",
    "run the same command again, with fewer --workers": "text/test_killed_preparations.py::test_a_worker_that_is_killed_is_named_and_the_advice_works",
    "--micro-batch {} fits": "training/test_footprint.py::test_windows_that_do_not_fit_at_once_are_refused_and_the_number_that_is_advised_fits",
    "--context-length {} --micro-batch 1 fits": "training/test_footprint.py::test_a_context_that_is_too_long_is_halved_until_it_fits",
    "--preset {} --micro-batch 1 fits": "training/test_footprint.py::test_the_preset_that_is_advised_is_the_largest_that_fits_and_passes_both_checks",
    'lucidlm generate {} "..."': "test_examples.py",
}
"""Advice that a test of its module follows: the file, and the test where it is one."""

UNTRIED = {
    "--host {}: {}; use --host 127.0.0.1": "an address that is not this machine's: serve/test_guards.py",
    # What only another machine, a broken one or a full disk makes it say. The flags are those that exist.
    "use --device cpu --dtype float32, and report it to PyTorch": "a device that computes wrong numbers",
    "start {} (--nproc-per-node)": "more processes than the machine has GPUs",
    "int8 weights are for CPUs; use --dtype bfloat16": "a GPU: model/test_linear.py",
    "PyTorch has no int8 kernel for this CPU; use --dtype bfloat16": "another CPU: model/test_linear.py",
    "no text to measure the cost of int8 on; give one with --val": "an empty held-out text: measure/test_rounding.py",
    "use --device cpu": "a machine without that device; followed for cuda above",
    "try --threads 1, 2, ...": "a file of a former version",
    "leave out --threads": "other kernels: measure/test_compression.py",
    "so a dtype overflows: try --dtype float32": "float16",
    "give --prefix none, or the model's own tokenizer": "a model and a tokenizer of two folders, in Python alone",
    "counts no bytes, so there are no bits per byte": "followed below for max-bits",
    "or --max-bits X": "measure/test_gate.py has both",
    "out of memory{}": "memory that runs out: the flags are named where the command has them",
    "start from a smaller model (--from)": "memory that runs out",
    "its --encoding if you know it": "nobody knows it",
    "save its sheet as .csv first": "another program writes it; --field is followed above",
    "make room or choose another --out": "a full disk: training/test_saving.py",
    "give another --out": "a full disk",
    "choose another --out, or run this again then": "a full disk: training/test_saving.py",
    "{}: {}; choose another --out": "a place that cannot be made",
    "{} cannot be made ({}); choose another --out": "a place that cannot be made",
    "raise the limit (ulimit -f unlimited)": "a limit: training/test_saving.py",
    "--tensorboard needs the package tensorboard": "the package is there",
    "Train again with a lower --optim.lr": "a gradient that is no number: training/test_step.py",
    "wait for it or choose another --out": "followed below",
    "or --tokenizer bytes": "training/test_validation.py",
    "context length {} is under 1; raise --context-length": "in Python alone: the flag has its own limit",
    "name a revision that has them": "the hub",
    "{} has no plan: the run never began": "a run of a former version",
    "hold out more (--val-fraction 0.2)": "more of a text is another text: text/test_split.py",
    "or pieces (--split pieces)": "followed above where documents cannot be split",
    "its local-completions model": "what the harness does",
}
"""Advice that is not followed here, and why."""

NO_ADVICE = {
    "--replicas {} --shards {}{}": "the flags of a layout: training/test_layouts.py",
    " --checkpointing": "one of them",
    "--dtype int8 --device {}": "the beginning of two messages above",
    "faster than float32 here (--dtype float32 is more accurate)": "a result",
    "--seed chooses the first": "what another flag does",
    "give --out as in the command to go on with": "training/test_seeds.py",
    "lucidlm has no public name": "no command",
    "shows the traceback": "--debug: test_edge.py",
    "no file of `lucidlm compress`": "what it is not",
    "--protocol lm-eval: the harness puts end-of-text first, ": "the first half of a message that is followed above",
    "which the harness then scores as if it were text; use lucid": "a protocol",
    "{} bits per byte, {} --max-bits {}": "a result",
    "decoded as --encoding says": "a count",
    "continue a run later (--resume)": "a limit's reason",
    "there is no --minutes": "what was not given",
    "fixed without --minutes": "what was not given",
    " (--minutes {})": "what was given",
    "lucidlm runs no code of a model folder": "no command",
    "lucidlm evaluate {}": "in the card of a run: as above",
}
"""Words that look like a flag or a command, and what they are."""


def _strings() -> Iterator[tuple[str, str]]:
    """Where, and each string of the code that is no docstring; {} for what is put in."""
    for path in sorted(CODE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        seen = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            text = None
            if isinstance(node, ast.JoinedStr):
                text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                seen.update(id(part) for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in seen:
                text = node.value
            if text is not None:
                yield f"{path.relative_to(CODE)}:{node.lineno}", text


def _advice() -> Iterator[tuple[str, str]]:
    """The strings that name a flag or a command for more than to say which value is wrong."""
    for place, text in _strings():
        rest = re.sub(r"^--[a-z.{}-]+( (\{\}|\"\"))?(: |$)", "", text)
        if re.search(r"--[a-z]|\blucidlm (" + "|".join(VERBS) + r")\b", rest) and " " in rest:
            yield place, text


VERBS = [name for name in app if not name.startswith("-")]


def test_a_place_in_use_can_be_left_for_another(do):
    with lock("run"):
        assert (
            "wait for it or choose another --out" in do(f"train book.txt {TRAIN} --out run --overwrite").said
        )
    assert do(f"train book.txt {TRAIN} --out another").code == 0


def test_where_memory_ran_out_in_a_step_both_ways_out_work(do, monkeypatch):
    def failing(*arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr("lucidlm.training.loop.train_step", failing)
        code, said = do(f"train book.txt {TRAIN} --out narrow")
    assert code == 2
    ways = re.search(
        r"^lucidlm: out of memory.*, then (lucidlm .*--out narrow) goes on .*: (lucidlm .*NEW)$", said, re.M
    )
    for way in ways.groups():
        assert do(way.removeprefix("lucidlm ")).code == 0


def test_each_advice_of_the_code_is_followed_by_a_test():
    known = [*(advised.said for advised in FOLLOWED), *ELSEWHERE, *UNTRIED, *NO_ADVICE]
    open_ends = [f"{place}: {text}" for place, text in _advice() if not any(each in text for each in known)]
    assert open_ends == []


def test_each_flag_that_a_message_names_is_one():
    flags = {
        name
        for verb in VERBS
        for argument in app[verb].assemble_argument_collection()
        for name in argument.names
    }
    named = {
        (place, flag)
        for place, text in _strings()
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z.-]*[a-z]", text)
    }
    assert {(place, flag) for place, flag in named if flag not in flags | OTHERS} == set()


OTHERS = {"--help", "--version", "--debug", "--completion", "--man", "--nproc-per-node", "--max-restarts"}
"""Flags of the command itself, and of torchrun."""


@pytest.mark.parametrize("place", sorted(set(ELSEWHERE.values())))
def test_the_tests_that_follow_advice_elsewhere_are_there(place):
    file, _, name = place.partition("::")
    assert f"def {name}(" in (TESTS / file).read_text(encoding="utf-8") or not name
