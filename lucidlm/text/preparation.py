"""Texts come in, a prepared folder goes out: token files of a training part and a held-out part.

The documents are staged in files beside the folder, split, searched for text that is in both parts, and
encoded in parallel, all in bounded memory. The folder appears under its name only when it is complete.
"""

import contextlib
import hashlib
import importlib.resources
import itertools
import json
import os
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lucidlm.errors import ConfigError, DataError, RunError
from lucidlm.runtime.files import replacing_folder
from lucidlm.runtime.locks import lock
from lucidlm.runtime.manifest import MANIFEST, sha256_of, write_manifest
from lucidlm.runtime.places import check_folder_place, path_text
from lucidlm.runtime.progress import SILENT, Progress
from lucidlm.runtime.signals import NOTHING_LOST, doing
from lucidlm.runtime.small_files import read_small_json
from lucidlm.runtime.wording import plural
from lucidlm.text.account import Account
from lucidlm.text.corpus import FEW_TOKENS, KIND, SHARDED, VERSION, Corpus, open_corpus
from lucidlm.text.formats.decoding import File, cannot_read
from lucidlm.text.gathering import Content, Gathered, Sources, gather
from lucidlm.text.kept import Kept
from lucidlm.text.leaks import LISTED, find_leaks
from lucidlm.text.made_by import made_by
from lucidlm.text.pipes import refuse_stdin_twice
from lucidlm.text.portions import PORTION
from lucidlm.text.processes import MOST_WORKERS, Processes, check_workers
from lucidlm.text.reading import READING, Reading
from lucidlm.text.sources import find_files
from lucidlm.text.split import Part, Pieces, Split, ranges, split
from lucidlm.text.staged_text import StagedText
from lucidlm.text.threads import cores
from lucidlm.text.token_writer import Encoder, write_part, write_places
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.text.vocabulary import bpe_size, suggest
from lucidlm.text.work import Work

Texts = str | Path | Sequence[str | Path]

GOES_ON = "while preparing; what is done is kept in {}: run the same command again, or delete that folder"
TRAINING_SAMPLE = 50_000_000
"""Bytes of text from which a vocabulary is learnt."""


def prepare(
    sources: Texts,
    out: str | os.PathLike,
    *,
    tokenizer: str | Tokenizer = "auto",
    validation: Texts | None = None,
    validation_fraction: float = 0.1,
    split: Split = "auto",
    reading: Reading = READING,
    workers: int = 1,
    progress: Progress = SILENT,
) -> Corpus:
    """The prepared folder `out` of these sources; reused if it exists with the same text and settings.

    Without sources the bundled story is used. The tokenizer "auto" is chosen by the amount of text, "auto:N"
    for a training that sees N characters. `validation` names other sources for the held-out part. Without it
    `split` decides what is held out: "documents" whole documents, chosen by a hash of their content; "pieces"
    a stratified sample of pieces of the text; "end" the last part of each document; "auto" is "documents" for
    20 or more of them, else "pieces". A validation document that is also in the training sources is removed
    from training, with a note.

    `workers` is the number of processes that read and encode (0: one for each core if the files have more
    than 64 MiB, else 1). It does not change the folder. If the files have more than 64 MiB, what was finished
    before a kill, or before a file that could not be used, is kept for the next call with the same arguments.
    """
    check_workers(workers)
    if not 0 < validation_fraction < 1:
        raise ConfigError(f"validation fraction {validation_fraction} is not between 0 and 1; try 0.1")
    automatic = isinstance(tokenizer, str) and tokenizer.partition(":")[0] == "auto"
    if isinstance(tokenizer, str) and not automatic and tokenizer != "bytes" and bpe_size(tokenizer) is None:
        tokenizer = Tokenizer.from_spec(tokenizer)  # a wrong spec then fails before the text is read
    refuse_stdin_twice([*_as_list(sources), *_as_list(validation)])
    check_folder_place(out, "--out", inputs=[*_as_list(sources), *_as_list(validation)])
    out, aliases = Path(out), {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(out))
        if not (texts := _as_list(sources)):
            texts += [stack.enter_context(bundled_story())]
            aliases[str(texts[0])] = "the bundled story"
        request = _Request(
            texts, _as_list(validation), tokenizer, validation_fraction, split, reading, aliases, PORTION
        )
        account = Account()
        parts = [
            _contents(find_files(sources, account, progress=progress))
            for sources in (request.texts, request.held_out)
        ]
        existing, status = _existing(out, request.settings, parts)
        if existing:
            _parts_beside(out).delete()  # left by a process that was killed at the very end
            return existing
        large = sum(content.size for part in parts for content in part) > request.portion
        kept = stack.enter_context(_kept_beside(out, large=large))
        count = workers or (min(cores(), MOST_WORKERS) if large else 1)
        processes = stack.enter_context(Processes(count, progress, resumable=large))
        folder = stack.enter_context(replacing_folder(out))
        described, read = _write_parts(folder, request, parts, account, Work(kept, processes))
        _check_unchanged(content for part in parts for content in part if content.file.path in read)
        made_from = _sources(parts, request.settings, read, aliases)
        write_manifest(folder, {"kind": KIND, "version": described.pop("version"), **made_from, **described})
    return replace(open_corpus(out), status=status)


def _parts_beside(out: Path) -> Kept:
    real = Path(os.path.realpath(out))
    return Kept(real.with_name(f".{real.name}.parts"))


@contextlib.contextmanager
def _kept_beside(out: Path, *, large: bool) -> Generator[Kept]:
    """A folder beside `out` for finished pieces of work. It is deleted when all is done.

    After a failure it stays if the text is large. Pieces of a small text are deleted and never used again.
    """
    kept = replace(_parts_beside(out), durable=large, made_by=made_by() if large else "")
    kept.folder.mkdir(parents=True, exist_ok=True)
    try:
        with doing(GOES_ON.format(path_text(kept.folder)) if large else NOTHING_LOST):
            yield kept
    except BaseException:
        if not large:
            kept.delete()
        raise
    kept.delete()


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
    """Names to show for sources whose paths mean nothing to a user."""
    portion: int
    """Bytes that one process reads at a time, about."""

    @property
    def settings(self) -> dict:
        spec = self.tokenizer if isinstance(self.tokenizer, str) else self.tokenizer.fingerprint()
        how = {"validation_fraction": self.fraction, "split": self.split}
        return {**self.reading.to_dict(), "tokenizer": spec, **how}


def _as_list(sources: Texts | None) -> list[str | Path]:
    if sources is None:
        return []
    return [sources] if isinstance(sources, str | Path) else list(sources)


def bundled_story() -> contextlib.AbstractContextManager[Path]:
    """The file of the story that comes with lucidlm, as long as the context is open."""
    return importlib.resources.as_file(importlib.resources.files("lucidlm.text") / "assets" / "story.txt")


def _contents(files: list[File]) -> list[Content]:
    found = []
    for file in files:
        try:
            status = file.path.stat()
            found.append(Content(file, status.st_size, status.st_mtime_ns, sha256_of(file.path)))
        except OSError as problem:
            if not file.source:
                raise cannot_read(file.name, problem) from problem
            found.append(Content(file, 0, 0, None))
    return found


def _check_unchanged(contents: Iterable[Content]) -> None:
    for content in contents:
        try:
            status = os.stat(content.file.path)
        except OSError as problem:
            raise cannot_read(content.file.name, problem) from problem
        if (status.st_size, status.st_mtime_ns) != (content.size, content.time):
            raise DataError(f"{content.file.name}: changed while it was read; run again when it is complete")


def _sources(
    parts: list[list[Content]], settings: dict, read: Collection[Path], aliases: dict[str, str]
) -> dict:
    """The part of the manifest on the files. The key and the lists contain only files that were read."""
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


def _key(settings: dict, parts: list[list[Content]]) -> str:
    """A hash of everything that the folder is made from."""
    contents = [[content.key for content in part] for part in parts]
    return hashlib.sha256(json.dumps([VERSION, settings, contents], sort_keys=True).encode()).hexdigest()


def _existing(out: Path, settings: dict, parts: list[list[Content]]) -> tuple[Corpus | None, str]:
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
    folder: Path,
    request: _Request,
    parts: list[list[Content]],
    account: Account,
    work: Work,
) -> tuple[dict, frozenset[Path]]:
    """Read, split, check, encode and write both parts.

    Returns their part of the manifest, and the files that were read. `account` has the files that the search
    skipped.
    """
    work.progress.stage("reading text")
    gathered = gather(Sources(parts, request.reading, request.aliases, request.portion), account, work)
    with contextlib.closing(gathered.staged):
        return _write_gathered(folder, request, gathered, work), gathered.read


def _write_gathered(folder: Path, request: _Request, gathered: Gathered, work: Work) -> dict:
    """Split, check and encode the staged text; the part of the manifest on the result."""
    staged = gathered.staged
    divided = split(staged, request.fraction, request.split)
    train, validation = divided.train, divided.validation
    for name, part in (("training", train), ("validation", validation)):
        if not part.bytes:
            size = plural(train.characters + validation.characters, "character")
            raise DataError(f"a text of {size} leaves no {name} text; add text or give --val")
    key = f"{gathered.key} {divided.design} {request.fraction}"
    leaks, leak_notes = find_leaks(staged, divided, key, work)
    tokenizer, reason, tokenizer_notes = _tokenizer_for(staged, train, request.tokenizer, work.progress)
    tokenizer.save(folder)
    counts, written = {}, {}
    for name, part in (("train", train), ("validation", validation)):
        in_pieces = divided.design == "strata" and name == "validation"
        encoder = Encoder.of(tokenizer, folder, in_pieces=in_pieces)
        written[name] = write_part(folder, name, staged, part, encoder, key, work)
        counts[name] = {
            "documents": part.n_documents,
            "characters": part.characters,
            "bytes": part.bytes,
            "tokens": written[name].tokens,
        }
        if len(written[name].files) > 1:
            counts[name]["shards"] = list(written[name].files)
    if isinstance(train, Pieces) and isinstance(validation, Pieces) and divided.design == "strata":
        write_places(folder, train, validation, [*written["train"].starts, written["train"].tokens])
    marks = written["validation"].marks
    notes = [*gathered.account.lines(), *divided.notes, *leak_notes, *tokenizer_notes]
    heldout = counts["validation"]["tokens"] - (marks if tokenizer.end_of_text is not None else 0)
    if heldout < FEW_TOKENS:
        notes.append(f"the held-out text is only {plural(heldout, 'token')}: its loss is uncertain")
    described = {"name": tokenizer.name, "vocab_size": tokenizer.vocab_size, "reason": reason}
    return {
        "version": SHARDED if any("shards" in count for count in counts.values()) else VERSION,
        "tokenizer": {**described, "fingerprint": tokenizer.fingerprint()},
        **counts,
        "split": {"design": divided.design, "stretches": marks},
        "documents": _listed(staged, train, validation),
        "read": gathered.account.to_dict(),
        "leaks": leaks,
        "notes": notes,
    }


def _listed(staged: StagedText, train: Part, validation: Part) -> list[dict]:
    """The bytes of each document in both parts, for the first thousand documents."""
    bytes_of: list[dict[int, int]] = [{}, {}]
    for of_part, part in zip(bytes_of, (train, validation)):
        for document, start, end in itertools.takewhile(lambda each: each[0] < LISTED, ranges(part)):
            of_part[document] = of_part.get(document, 0) + end - start
    return [
        {
            "source": name,
            "train_bytes": bytes_of[0].get(number, 0),
            "validation_bytes": bytes_of[1].get(number, 0),
        }
        for number, name in staged.names(range(min(LISTED, staged.documents))).items()
    ]


def _tokenizer_for(
    staged: StagedText, train: Part, tokenizer: str | Tokenizer, progress: Progress
) -> tuple[Tokenizer, str, list[str]]:
    """The tokenizer, why it was chosen, and notes. A vocabulary is learnt from the training part only."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer, "given", []
    spec, reason, notes = tokenizer, "given", list[str]()
    kind, _, most = tokenizer.partition(":")
    if kind == "auto":
        spec, reason = suggest(min(train.characters, int(most)) if most else train.characters)
    if (asked := bpe_size(spec)) is None:
        chosen = Tokenizer.from_spec(spec)
    else:
        progress.stage("training the tokenizer", min(TRAINING_SAMPLE, train.characters))
        chosen = Tokenizer.train(_sample(staged, train), asked, progress)
    if asked is not None and chosen.vocab_size < asked:
        notes.append(f"the text is too small for {asked} tokens: the vocabulary has {chosen.vocab_size}")
    if not chosen.lossless:
        notes.append(
            "this tokenizer may change how a text is written (é as one character or two, a space in front); "
            "losses are of the text that its tokens spell"
        )
    if chosen.end_of_text is None:
        notes.append("the tokenizer has no end-of-text token: documents follow each other without it")
    return chosen, reason, notes


def _sample(staged: StagedText, part: Part) -> Iterator[str]:
    """At most 50 MB of a part, spread evenly over it."""
    share = min(1.0, TRAINING_SAMPLE / part.bytes)
    seen = taken = 0
    for _, start, end in ranges(part):
        for text in staged.text(start, end):
            if taken <= seen * share:
                yield text
                taken += len(text)
            seen += len(text)
