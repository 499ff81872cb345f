import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lucidlm

PACKAGE = Path(lucidlm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

PUBLIC = {
    *("Decoding", "GPT", "GPTConfig", "LucidError", "Protocol", "Reading", "Tokenizer", "TrainConfig"),
    *("binary_cross_entropy", "compare", "cross_entropy", "inputs_and_targets", "perplexity"),
    *("evaluate", "explain", "export", "generate", "load", "prepare", "stream", "train"),
}
VERBS = {"train", "evaluate", "explain", "generate", "compare", "compress", "decompress"}
VERBS |= {"import", "export", "prepare", "info", "runs", "report", "doctor", "learn", "serve", "plan"}

# A file imports only files before it: of the rooms above its own, and before it in its own room.
ROOMS = {
    "errors": "",
    "runtime": (
        "wording device interpreter progress leavings memory ranges run_out signals console process places "
        "small_files probes files locks manifest part_file web stores fetch ranks distributed"
    ),
    "text": (
        "reasons byte_level hashing excerpts token_file reading formats own_folders formats.guesses "
        "formats.labels formats.signatures pipes split_patterns threads account gpt2_ranks tokenizer_files "
        "vocabulary letters windows formats.hints tokenizer_json formats.packed formats.page_source "
        "gutenberg sightings passages copies repetition tokenizer formats.decoding formats.bin_files "
        "formats.ds_files formats.whole_files formats.kinds formats.markup formats.office formats.pdf "
        "formats.records formats.parquet formats.archives sources formats.epub formats.subtitles documents "
        "made_by kept messages processes work portions staged_text gathering split chunks described leaks "
        "corpus token_writer preparation"
    ),
    "pages": "page charts tokens",
    "model": (
        "config decoding loss linear_loss dropout norm attention presets sampling gpt reader generation "
        "linear"
    ),
    "weights": (
        "gguf header published tf_bundle shards tensor_files openai hf_config names whole huggingface "
        "export load"
    ),
    "measure": (
        "baseline baseline_texts quantiles coder seen protocol windows copies diagnosis document_scores "
        "explained skewness ngram_counts compressors clusters scoring near_copies ngrams intervals atoms "
        "compressed_file continuation explanation ngram_order shortening evaluated spans compression "
        "memorized baselines counts gate compared memorization shares evaluation comparison rounding"
    ),
    "runs": "curves data records settings trend run_toml history lineage checkpoints folder listing metrics",
    "report": "course ladder curves memorization verdict assessment card run_page",
    "training": (
        "validation footprint given_text schedule muon optim shapes prediction spread gradient step workers "
        "pace speed snapshot state gpus sizes layouts alternatives cluster cluster_outline plan saving "
        "setup tracking outline finish follow resume start preview loop seeds"
    ),
    "serve": (
        "limits transcript slots jobs engine forms faults streams orders ticket choices openai_api own_api "
        "page_jobs page_api document_view documents documents_api run_forms run_processes run_view "
        "planning runs_folder run_events run_models run_baselines runs_api docs_page guards app "
        "connection listening"
    ),
    "doctor": "",
    "learn": "workshop questions path",
    "display": "",
    "edge": "",
    "cli": (
        "options inputs learning manual entry evaluation judging listing models planning reporting serving "
        "training writing __init__"
    ),
    "__main__": "",
}
ORDER = [
    f"lucidlm.{room}.{name}".removesuffix(".__init__")
    for room, files in ROOMS.items()
    for name in (files.split() if "__init__" in files else ("__init__", *files.split()))
]


def module_of(file: Path) -> str:
    """lucidlm.text.windows for lucidlm/text/windows.py, lucidlm.text for its __init__.py."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imported(tree: ast.Module) -> set[str]:
    """What a file imports anywhere, for types only or inside a function too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{ast.unparse(node)}: imports are written in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports_of(file: Path) -> set[str]:
    """The modules of lucidlm that a file imports."""
    found = imported(ast.parse(file.read_text(encoding="utf-8")))
    # What follows `import` is a module (`from lucidlm.text import windows`) or a name in one.
    found = {name for name in found if name.split(".")[0] == "lucidlm"}
    return {name if name in MODULES else name.rpartition(".")[0] for name in found}


def top_level_imports(file: Path) -> set[str]:
    """First parts of what is imported when the file is, what stands under TYPE_CHECKING left out."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def run_python(program: str) -> dict:
    """What the program prints last, a line of JSON, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_public_names_are_these():
    assert set(lucidlm.__all__) == PUBLIC
    assert len(lucidlm.__all__) == len(PUBLIC)
    assert PUBLIC | {"__version__"} == set(dir(lucidlm))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_resolves_to_something_described(name):
    thing = getattr(lucidlm, name)
    assert thing.__name__ == name
    assert thing.__module__.startswith("lucidlm.")
    assert thing.__doc__


def test_a_name_that_is_not_public_is_an_attribute_error_that_lists_those_that_are():
    with pytest.raises(AttributeError, match=r"'trane'.*evaluate.*train"):
        lucidlm.trane  # noqa: B018


def test_importing_the_library_its_texts_and_its_files_loads_no_torch():
    light = ["lucidlm", "lucidlm.errors", "lucidlm.cli", "lucidlm.model.config", "lucidlm.runs.settings"]
    light += [
        "lucidlm.runtime.files",
        "lucidlm.runtime.fetch",
        "lucidlm.runs.history",
    ]
    light += [module for module in MODULES if room_of(module) == "text"]
    program = f"""
import importlib, json, sys
guilty = []
for module in {light}:
    importlib.import_module(module)
    if "torch" in sys.modules and not guilty:
        guilty.append(module)
print(json.dumps(guilty))
"""
    assert run_python(program) == []


def test_help_of_each_verb_exits_with_0_and_loads_neither_torch_nor_a_server():
    program = """
import contextlib, io, json, sys
from lucidlm.cli import app, main
seen = {}
verbs = sorted(name for name in app if not name.startswith("-"))
for arguments in [["--help"], *([verb, "--help"] for verb in verbs)]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code or 0
    loaded = sorted({"torch", "fastapi", "uvicorn"} & set(sys.modules))
    seen[" ".join(arguments)] = [code, out.getvalue(), loaded]
print(json.dumps(seen))
"""
    seen = run_python(program)
    assert {arguments.split()[0] for arguments in seen} - {"--help"} >= VERBS
    for arguments, (code, text, loaded) in seen.items():
        assert code == 0, arguments
        assert "Usage: lucidlm" in text, arguments
        assert loaded == [], arguments
    for verb in VERBS:
        assert verb in seen["--help"][1]


def test_each_file_has_its_place_in_the_order():
    assert sorted(ORDER) == sorted(set(MODULES) - {"lucidlm"})


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"lucidlm"}))
def test_a_file_imports_only_files_before_it(module):
    before = {"lucidlm", *ORDER[: ORDER.index(module)]}
    assert imports_of(MODULES[module]) - {module} <= before


def test_no_import_goes_in_a_circle():
    graph = {module: imports_of(file) - {"lucidlm"} for module, file in MODULES.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_the_errors_import_nothing():
    assert top_level_imports(PACKAGE / "errors.py") == set()


def test_nothing_is_called_utils():
    vague = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc", "core"}
    assert not [file for file in FILES if file.stem.lower() in vague or file.parent.name.lower() in vague]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_file_opens_with_what_it_is_about(module):
    opening = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    assert opening


PICKLE = {"torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler"}
# Messages of a command to the processes that it started, on pipes that no other program has an end of.
# They hold functions of the package, arguments and errors, which no safe format has. No file holds one.
OWN_PIPES = {"lucidlm.text.messages": {"pickle.loads"}}


def test_nothing_reads_pickle_but_pipes_between_own_processes():
    for module, file in MODULES.items():
        tree, allowed = ast.parse(file.read_text(encoding="utf-8")), OWN_PIPES.get(module, set())
        pickles = {"dill", "cloudpickle", "joblib"} | ({"pickle"} if not allowed else set())
        assert not {name.split(".")[0] for name in imported(tree)} & pickles, module
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in PICKLE - allowed, f"{module}:{node.lineno}"
            if called in {"np.load", "numpy.load"}:
                given = [word.value.value for word in node.keywords if word.arg == "allow_pickle"]
                assert given in ([], [False]), f"{module}:{node.lineno}"
    reading = {module for module, file in MODULES.items() if "pickle.loads" in file.read_text("utf-8")}
    assert reading == {*OWN_PIPES}
