"""Help, man page and completion: every verb and every flag of the parser, and no empty default."""

import io
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from lucidlm.cli import app, main
from lucidlm.cli.manual import man_page

VERBS = [verb for verb in app if not verb.startswith("-")]


@pytest.fixture(scope="module")
def page() -> str:
    return man_page()


@pytest.mark.parametrize("verb", VERBS)
def test_the_man_page_has_each_verb_with_its_flags(page, verb):
    section = page.partition(f'.SH "LUCIDLM {verb.upper()}"\n')[2].partition("\n.SH ")[0]
    assert f".B lucidlm {verb}" in section
    flags = re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*", section.replace(r"\-", "-"))
    named = {
        name
        for argument in app[verb].assemble_argument_collection()
        if argument.show and argument.parameter.parse is not False
        for name in argument.names
        if name.startswith("--") and name != "--optim"
    }
    assert named <= set(flags)


def test_help_looks_as_before_after_the_man_page_was_made(page, capsys):
    assert main(["info", "--help"]) == 0
    assert ".TP" not in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_its_lines_where_the_terminal_does_and_shows_no_empty_default(verb):
    stream = io.StringIO()
    app.help_print([verb], console=Console(file=stream, width=1000, color_system=None))
    rows = [line for line in stream.getvalue().splitlines() if line.startswith("│")]
    assert rows
    assert not [row for row in rows if re.match(r"│ {9}", row)]  # a row that goes on with the one before
    assert not re.search(r"default: (\(\)|False|None|\"\"|''|\])", stream.getvalue())


def test_the_man_page_shows_defaults_as_help_does(page):
    assert {"[default: auto]", r"[default: utf\-8]"} <= set(re.findall(r"\[default: [^]]*\]", page))
    assert not re.search(r"(?m)^ ", page)  # a line of roff that begins with a space is a new line on the page


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_groff_reads_the_man_page_without_a_warning(page):
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww"], input=page, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stderr == ""
    assert "--max-new-tokens" in re.sub("\x1b[^m]*m|.\x08", "", done.stdout)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ev"], ["evaluate"]),
        (["evaluate", "run", "--proto"], ["--protocol"]),
        (["evaluate", "run", "--protocol", "hf"], ["hf-guide"]),
        (["evaluate", "run", "boo"], []),
    ],
)
def test_bash_completes_verbs_flags_and_choices_and_leaves_the_rest_to_file_names(capsys, words, expected):
    assert main(["--completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = f"COMP_WORDS=(lucidlm {' '.join(words)}); COMP_CWORD={len(words)}; _lucidlm; complete -p lucidlm"
    done = subprocess.run(
        ["bash"], input=f'{script}\n{ask}\nprintf "%s\\n" "${{COMPREPLY[@]}}"', capture_output=True,
        encoding="utf-8", check=True,
    )  # fmt: skip
    how, *completed = done.stdout.splitlines()
    assert "-o default" in how
    assert [each for each in completed if each] == expected


def test_zsh_completes_file_names_where_a_text_or_a_file_is_expected(capsys):
    assert main(["--completion", "zsh"]) == 0
    script = capsys.readouterr().out
    evaluate = script[script.index("        evaluate)") : script.index("        explain)")]
    assert re.search(r"'\*:Files, folders.*:_files' \\", evaluate)
    assert re.search(r"--html\[.*\]:html:_files' \\", evaluate)
    assert "--protocol" in evaluate
    assert not re.search(r"'--json\[.*_files", evaluate)
