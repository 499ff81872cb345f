"""The command line about itself: its verbs come in, completion scripts for shells and a man page go out."""

import io
import re
from typing import TYPE_CHECKING, Any, Literal

from lucidlm import __version__
from lucidlm.cli.options import app
from lucidlm.runtime.console import show

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel


@app.command(name="--completion")
def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the script that completes verbs, flags, their choices and file names in a shell.

    bash: lucidlm --completion bash > ~/.local/share/bash-completion/completions/lucidlm
    zsh: lucidlm --completion zsh > FOLDER_OF_FPATH/_lucidlm
    fish: lucidlm --completion fish > ~/.config/fish/completions/lucidlm.fish

    Parameters
    ----------
    shell
        The shell to print the script for.
    """
    script = app.generate_completion(shell=shell)
    # cyclopts completes file names for the type Path alone. Here a text may be a URL too, so they are str.
    if shell == "bash":
        script = script.replace("complete -F ", "complete -o default -F ")
    if shell == "zsh":  # a position or a flag whose line names no action
        script = re.sub(r"(?m)^(\s+'(?:(?:\d+|\*):.*|\*?-.*\]:[\w.-]+))' \\$", r"\1:_files' \\", script)
    show(script)


@app.command(name="--man")
def man() -> None:
    """Print the man page: lucidlm --man > lucidlm.1; man ./lucidlm.1."""
    show(man_page())


def man_page() -> str:
    """The man page of all verbs, in the language of roff, made from what --help shows."""
    from rich.console import Console

    page, before = _Roff(), app.help_formatter
    app.help_formatter = page
    try:
        for verb in [[], *([name] for name in app if not name.startswith("-"))]:
            page.lines += [f'.SH "{" ".join(["lucidlm", *verb]).upper()}"'] if verb else []
            app.help_print(verb, console=Console(file=io.StringIO()))
    finally:
        app.help_formatter = before
    title = [
        f'.TH LUCIDLM 1 "" "lucidlm {__version__}"',
        ".SH NAME",
        f"lucidlm \\- {_escaped(str(app.help))}",
    ]
    return "\n".join([*title, ".SH SYNOPSIS", *page.lines])


class _Roff:
    """Takes the parts of each help page from cyclopts, and keeps them as lines of roff."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        self.lines += [".B " + _text(usage).removeprefix("Usage: "), ".PP"]

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        for paragraph in _text(description).split("\n\n"):
            self.lines += [*paragraph.splitlines(), ".PP"]

    def __call__(self, console: Any, options: Any, panel: "HelpPanel") -> None:
        if panel.entries:
            self.lines.append(f'.SS "{panel.title}"')
        for entry in panel.entries:
            notes = [f"default: {entry.default}"] if entry.default else []
            notes += [f"choices: {', '.join(entry.choices)}"] if entry.choices else []
            about = [*_text(entry.description).split(), *(f"[{_escaped(note)}]" for note in notes)]
            self.lines += [
                ".TP",
                ".B " + _escaped(" ".join(entry.display_labels_with_metavar)),
                " ".join(about),
            ]


def _text(part: Any) -> str:
    """A part of a help page as plain text, each paragraph on one line."""
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=10_000, color_system=None).print(part, end="")
    return _escaped(stream.getvalue().rstrip())


def _escaped(text: str) -> str:
    """The text without what roff would obey: backslashes, and a dot or a quote that begins a line."""
    return re.sub(r"(?m)^([.'])", r"\\&\1", text.replace("\\", r"\e").replace("-", r"\-"))
