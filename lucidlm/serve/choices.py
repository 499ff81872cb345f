"""Events of a request's jobs come in, the choices of OpenAI's answers go out: whole, or part by part."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lucidlm.measure.explanation import Explanation
from lucidlm.measure.protocol import Protocol
from lucidlm.serve.jobs import Completion, Event, Job, Scores
from lucidlm.serve.orders import Order
from lucidlm.serve.ticket import Ticket
from lucidlm.serve.transcript import Piece, Transcript, Written, spelled

PROMPT = Protocol(prefix="none")
"""How the tokens of a prompt are scored: as `explain --prefix none`, where nothing predicts the first one."""
LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class Choices:
    """The texts of one order. Their parts join to the whole answer, so that a stream says the same."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.generated = [0] * (len(order.prompts) * len(order.wanted))
        """Tokens that the model has generated, by choice."""
        self._scores: dict[int, Explanation] = {}
        self._held: list[tuple[int, Piece]] = []
        """Parts whose prompt has not been scored yet."""

    def jobs(self, ticket: Ticket) -> list[Job]:
        """What the model has to do; a text of no new token needs no job."""
        order, jobs = self.order, list[Job]()
        for number, prompt in enumerate(order.prompts):
            if order.reads_prompts and len(prompt) > 1:
                deliver, top_k = ticket.deliver(("prompt", number)), order.logprobs or 0
                ids = np.asarray(prompt, np.int64)
                jobs.append(Scores(order.served, deliver, [ids], top_k=top_k, protocol=PROMPT))
            for copy, wanted in enumerate(order.wanted if order.max_tokens else ()):
                deliver = ticket.deliver(("text", number * len(order.wanted) + copy))
                jobs.append(Completion(order.served, deliver, prompt, wanted))
        return jobs

    def echoes(self) -> Iterator[dict[str, Any]]:
        """The choices of an order without new tokens whose prompts need no scores or have them."""
        for index in range(len(self.generated)) if self.order.max_tokens == 0 else ():
            transcript = Transcript(self.order.served.tokenizer)
            transcript.echo(self.order.prompts[index // len(self.order.wanted)])
            transcript.close()
            yield self._part(index, Piece(*transcript.release(), "length"))

    def take(self, key: tuple[str, int], event: Event) -> list[dict[str, Any]]:
        """The parts of choices that an event completes."""
        kind, number = key
        if isinstance(event, Explanation):
            self._scores[number] = event
            ready = [each for each in self._held if self._is_scored(each[0])]
            self._held = [each for each in self._held if not self._is_scored(each[0])]
            return [self._part(*each) for each in ready]
        assert isinstance(event, Piece), kind
        self.generated[number] = event.generated
        if self._is_scored(number):
            return [self._part(number, event)]
        self._held.append((number, event))
        return []

    def usage(self) -> dict[str, int]:
        """Tokens of the prompts, each once, and tokens that the model generated."""
        prompt, new = sum(map(len, self.order.prompts)), sum(self.generated)
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}

    def _is_scored(self, index: int) -> bool:
        number = index // len(self.order.wanted)
        return not self.order.reads_prompts or number in self._scores or len(self.order.prompts[number]) == 1

    def _part(self, index: int, piece: Piece) -> dict[str, Any]:
        logprobs = None
        if self.order.logprobs is not None:
            rows = [self._row(index, token) for token in piece.tokens]
            logprobs = {name: [row[place] for row in rows] for place, name in enumerate(LISTS)}
        return {
            "text": piece.text,
            "index": index,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
        }

    def _row(self, index: int, token: Written) -> tuple[str, float | None, dict[str, float] | None, int]:
        """A token's entry in each of the four lists."""
        tokenizer, number = self.order.served.tokenizer, index // len(self.order.wanted)
        log_probability, top = token.log_probability, token.top
        if self.order.echo and token.place < len(self.order.prompts[number]):
            if token.place == 0:
                return spelled(tokenizer, token.id), None, None, token.start
            columns = self._scores[number].texts[0].tokens.columns
            row = token.place - 1
            log_probability = columns["log_probability"][row].item()
            # Of explain's probabilities; one that float32 rounds to 0 is left out.
            best = zip(
                columns["alternative_ids"][row], columns["alternative_probabilities"][row], strict=True
            )
            top = tuple((int(id), math.log(share)) for id, share in best if share > 0)
        named = {spelled(tokenizer, id): value for id, value in (*top, (token.id, log_probability))}
        # A token that the model forbids has no place in JSON.
        finite = {name: value for name, value in named.items() if value is not None and value > -math.inf}
        return spelled(tokenizer, token.id), log_probability, finite, token.start


def joined(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whole choices, in order, from their parts."""
    whole: dict[int, dict[str, Any]] = {}
    for part in parts:
        choice = whole.setdefault(
            part["index"],
            part
            | {"text": "", "logprobs": None if part["logprobs"] is None else {name: [] for name in LISTS}},
        )
        choice["text"] += part["text"]
        choice["finish_reason"] = part["finish_reason"]
        for name in LISTS if part["logprobs"] is not None else ():
            choice["logprobs"][name] += part["logprobs"][name]
    return [whole[index] for index in sorted(whole)]
