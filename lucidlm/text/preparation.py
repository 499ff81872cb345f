"""Texts come in, a prepared folder goes out: token files of a training part and a held-out part.

The documents are staged in one temporary file, split, compared for text that is in both parts, and encoded in
parallel, all in bounded memory. The folder appears under its name only when it is complete.
"""

import contextlib
import hashlib
import importlib.resources
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lucidlm.errors import ConfigError, DataError, RunError
from lucidlm.runtime.files import replacing_folder
from lucidlm.runtime.locks import lock
from lucidlm.runtime.manifest import MANIFEST, sha256_of, write_manifest
from lucidlm.runtime.places import check_folder_place
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.small_files import read_small_json
from lucidlm.runtime.wording import plural
from lucidlm.text.account import Account
from lucidlm.text.corpus import FEW_TOKENS, KIND, VERSION, Corpus, open_corpus
from lucidlm.text.formats.decoding import File, cannot_read
from lucidlm.text.leaks import LISTED, find_leaks
from lucidlm.text.pipes import refuse_stdin_twice
from lucidlm.text.reading import READING, Reading
from lucidlm.text.sources import find_files
from lucidlm.text.split import Part, Split, split
from lucidlm.text.staged_text import StagedText
from lucidlm.text.token_writer import write_part, write_places
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.text.vocabulary import bpe_size, suggest

Sources = str | Path | Sequence[str | Path]

TRAINING_SAMPLE = 50_000_000
"""Bytes of text from which a vocabulary is learnt."""


def prepare(
    sources: Sources,
    out: str | os.PathLike,
    *,
    tokenizer: str | Tokenizer = "auto",
    validation: Sources | None = None,
    validation_fraction: float = 0.1,
    split: Split = "auto",
    reading: Reading = READING,
    progress: Progress = SILENT,
) -> Corpus:
    """The prepared folder `out` of these sources; reused if it exists with the same text and settings.

    Without sources the bundled story is used. The tokenizer "auto" is chosen by the amount of text, "auto:N"
    for a training that sees N characters. `validation` names other sources for the held-out part. Without it
    `split` decides what is held out: "documents" whole documents, chosen by a hash of their content; "pieces"
    a stratified sample of pieces of the text; "end" the last part of each document; "auto" is "documents" for
    20 or more of them, else "pieces". A validation document that is also in the training sources is removed
    from training, with a note.
    """
    if not 0 < validation_fraction < 1:
        raise ConfigError(f"validation fraction {validation_fraction} is not between 0 and 1; try 0.1")
    automatic = isinstance(tokenizer, str) and tokenizer.partition(":")[0] == "auto"
    if isinstance(tokenizer, str) and not automatic and tokenizer != "bytes" and bpe_size(tokenizer) is None:
        tokenizer = Tokenizer.from_spec(tokenizer)  # so a wrong spec fails before the text is read
    refuse_stdin_twice([*_as_list(sources), *_as_list(validation)])
    check_folder_place(out, "--out", inputs=[*_as_list(sources), *_as_list(validation)])
    out, aliases = Path(out), {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(out))
        if not (texts := _as_list(sources)):
            texts += [stack.enter_context(bundled_story())]
            aliases[str(texts[0])] = "the bundled story"
        request = _Request(
            texts, _as_list(validation), tokenizer, validation_fraction, split, reading, aliases
        )
        account = Account()
        parts = [
            _contents(find_files(sources, account, progress=progress))
            for sources in (request.texts, request.held_out)
        ]
        existing, status = _existing(out, request.settings, parts)
        if existing:
            return existing
        with replacing_folder(out) as folder:
            described, read = _write_parts(folder, request, parts, account, progress)
            _check_unchanged(content for part in parts for content in part if content.file.path in read)
            made_from = _sources(parts, request.settings, read, aliases)
            write_manifest(folder, {"kind": KIND, "version": VERSION, **made_from, **described})
    return replace(open_corpus(out), status=status)


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of `prepare`."""

    texts: list[str | Path]
    held_out: list[str | Path]
    tokenizer: str | Tokenizer
    fraction: float
    split: Split
    reading: Reading
    aliases: dict[str, str]
    """Names to show for sources whose path says nothing to a user."""

    @property
    def settings(self) -> dict:
        spec = self.tokenizer if isinstance(self.tokenizer, str) else self.tokenizer.fingerprint()
        how = {"validation_fraction": self.fraction, "split": self.split}
        return {**self.reading.to_dict(), "tokenizer": spec, **how}


def _as_list(sources: Sources | None) -> list[str | Path]:
    if sources is None:
        return []
    return [sources] if isinstance(sources, str | Path) else list(sources)


def bundled_story() -> contextlib.AbstractContextManager[Path]:
    """The file of the story that comes with lucidlm, as long as the context is open."""
    return importlib.resources.as_file(importlib.resources.files("lucidlm.text") / "assets" / "story.txt")


@dataclass(frozen=True, slots=True)
class _Content:
    """A file of the sources, and its content before it was read."""

    file: File
    size: int
    time: int
    sha256: str | None
    """None for a file of a folder that cannot be read: it will be skipped."""

    @property
    def key(self) -> list[str | None]:
        """What decides on the text: the name (its suffix) and the content, but not the folder."""
        return [Path(self.file.name).name, self.sha256]


def _contents(files: list[File]) -> list[_Content]:
    found = []
    for file in files:
        try:
            status = file.path.stat()
            found.append(_Content(file, status.st_size, status.st_mtime_ns, sha256_of(file.path)))
        except OSError as problem:
            if not file.source:
                raise cannot_read(file.name, problem) from problem
            found.append(_Content(file, 0, 0, None))
    return found


def _check_unchanged(contents: Iterable[_Content]) -> None:
    for content in contents:
        try:
            status = os.stat(content.file.path)
        except OSError as problem:
            raise cannot_read(content.file.name, problem) from problem
        if (status.st_size, status.st_mtime_ns) != (content.size, content.time):
            raise DataError(f"{content.file.name}: changed while it was read; run again when it is complete")


def _sources(parts: list[list[_Content]], settings: dict, read: set[Path], aliases: dict[str, str]) -> dict:
    """The part of the manifest on the files. Key and lists contain only files that were read."""
    taken = [[content for content in part if content.file.path in read] for part in parts]
    listed = [
        [
            {
                "path": aliases.get(content.file.name, content.file.name),
                "size": content.size,
                "sha256": content.sha256,
            }
            for content in part
        ]
        for part in taken
    ]
    refused = [content.key for part in parts for content in part if content.file.path not in read]
    return {
        "key": _key(settings, taken),
        "settings": settings,
        "sources": listed[0],
        "validation_sources": listed[1],
        "refused": refused,
    }


def _key(settings: dict, parts: list[list[_Content]]) -> str:
    """A hash of everything that the folder is made from."""
    contents = [[content.key for content in part] for part in parts]
    return hashlib.sha256(json.dumps([VERSION, settings, contents], sort_keys=True).encode()).hexdigest()


def _existing(out: Path, settings: dict, parts: list[list[_Content]]) -> tuple[Corpus | None, str]:
    """The corpus in `out` if it was made from these files, and the status that `Corpus` has."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None, "new"
    try:
        manifest = read_small_json(out / MANIFEST, DataError)
        ours = manifest["kind"] == KIND
        foreign = {path.name for path in out.iterdir()} - {*manifest["files"], MANIFEST}
    except (OSError, DataError, ValueError, KeyError, TypeError):
        ours, manifest, foreign = False, {}, set()
    if not ours or foreign:
        reason = f"holds another file, {min(foreign)}" if foreign else "is not a prepared folder"
        raise RunError(
            f"{out} exists and {reason}; it is not overwritten: choose another --out or move it away"
        )
    # A file that could not be used before cannot be used now if it has not changed.
    refused = manifest.get("refused")
    refused = refused if isinstance(refused, list) else []
    fitting = [[content for content in part if content.key not in refused] for part in parts]
    if manifest.get("key") != _key(settings, fitting):
        return None, "redone: the text or a setting has changed"
    try:
        return open_corpus(out), "reused"
    except DataError as error:
        return None, f"redone: {error}"


def _write_parts(
    folder: Path, request: _Request, parts: list[list[_Content]], account: Account, progress: Progress
) -> tuple[dict, set[Path]]:
    """Read, split, check, encode and write both parts.

    Returns their part of the manifest, and the files that were read. `account` has what was skipped when the
    files were searched.
    """
    with contextlib.closing(StagedText(folder / "staged", progress, request.aliases)) as staged:
        staged.account.add(account)
        progress.stage("reading text")
        for part in parts:
            staged.fill([content.file for content in part], request.reading)
        staged.notes += staged.account.lines()
        return _write_staged(folder, request, staged), staged.read


def _write_staged(folder: Path, request: _Request, staged: StagedText) -> dict:
    """Split, check and encode the staged text; the part of the manifest on the result."""
    divided = split(staged, request.fraction, request.split)
    train, validation = divided.train, divided.validation
    for name, part in (("training", train), ("validation", validation)):
        if not part.bytes:
            size = plural(train.characters + validation.characters, "character")
            raise DataError(f"a text of {size} leaves no {name} text; add text or give --val")
    staged.notes.append(divided.sentence)
    leaks = find_leaks(staged, train, validation)
    tokenizer, reason = _tokenizer_for(staged, train, request.tokenizer)
    tokenizer.save(folder)
    counts, starts = {}, {}
    for name, part in (("train", train), ("validation", validation)):
        in_pieces = divided.design == "strata" and name == "validation"
        tokens, starts[name] = write_part(folder, name, staged, part, tokenizer, in_pieces=in_pieces)
        counts[name] = {
            "documents": part.n_documents,
            "characters": part.characters,
            "bytes": part.bytes,
            "tokens": tokens,
        }
    if divided.design == "strata":
        write_places(folder, train, validation, [*starts["train"], counts["train"]["tokens"]])
    marks = len(starts["validation"]) if tokenizer.end_of_text is not None else 0
    if (tokens := counts["validation"]["tokens"] - marks) < FEW_TOKENS:
        staged.notes.append(f"the held-out text is only {plural(tokens, 'token')}: its loss is uncertain")
    described = {"name": tokenizer.name, "vocab_size": tokenizer.vocab_size, "reason": reason}
    return {
        "tokenizer": {**described, "fingerprint": tokenizer.fingerprint()},
        **counts,
        "split": {"design": divided.design, "stretches": len(validation.documents)},
        "documents": _listed(staged, train, validation),
        "read": staged.account.to_dict(),
        "leaks": leaks,
        "notes": staged.notes,
    }


def _listed(staged: StagedText, train: Part, validation: Part) -> list[dict]:
    """The bytes of each document in both parts, for the first thousand documents."""
    bytes_of: list[dict[int, int]] = [{}, {}]
    for of_part, part in zip(bytes_of, (train, validation)):
        for document, start, end in part.ranges():
            if document < LISTED:
                of_part[document] = of_part.get(document, 0) + end - start
    return [
        {
            "source": name,
            "train_bytes": bytes_of[0].get(number, 0),
            "validation_bytes": bytes_of[1].get(number, 0),
        }
        for number, name in staged.names(range(min(LISTED, sum(staged.parts)))).items()
    ]


def _tokenizer_for(staged: StagedText, train: Part, tokenizer: str | Tokenizer) -> tuple[Tokenizer, str]:
    """The tokenizer, and why it was chosen. A vocabulary is learnt from the training part only."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer, "given"
    spec, reason = tokenizer, "given"
    kind, _, most = tokenizer.partition(":")
    if kind == "auto":
        spec, reason = suggest(min(train.characters, int(most)) if most else train.characters)
    if (asked := bpe_size(spec)) is None:
        chosen = Tokenizer.from_spec(spec)
    else:
        staged.progress.stage("training the tokenizer", min(TRAINING_SAMPLE, train.characters))
        chosen = Tokenizer.train(_sample(staged, train), asked, staged.progress)
    if asked is not None and chosen.vocab_size < asked:
        staged.notes.append(
            f"the text is too small for {asked} tokens: the vocabulary has {chosen.vocab_size}"
        )
    if not chosen.lossless:
        staged.notes.append(
            "this tokenizer may change how a text is written (é as one character or two, a space in front); "
            "losses are of the text that its tokens spell"
        )
    if chosen.end_of_text is None:
        staged.notes.append("the tokenizer has no end-of-text token: documents follow each other without it")
    return chosen, reason


def _sample(staged: StagedText, part: Part) -> Iterator[str]:
    """At most 50 MB of a part, spread evenly over it."""
    share = min(1.0, TRAINING_SAMPLE / part.bytes)
    seen = taken = 0
    for _, start, end in part.ranges():
        for text in staged.text(start, end):
            if taken <= seen * share:
                yield text
                taken += len(text)
            seen += len(text)
