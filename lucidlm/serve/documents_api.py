"""Routes of the view Data: texts come in, what lucidlm reads of them goes out."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from lucidlm.serve.document_view import Question
from lucidlm.serve.documents import Documents
from lucidlm.serve.faults import Answer
from lucidlm.serve.forms import FAULTS
from lucidlm.text.reading import READING, Reading

PATH = "/api/documents"
KINDS = ("application/octet-stream", "text/plain")
"""Content types of a text that is uploaded; what it is, its name and its first bytes say."""


class QuestionQuery(BaseModel):
    """How a text is to be read."""

    model_config = ConfigDict(extra="forbid")

    tokenizer: str = Field("auto", pattern="^(auto|gpt2|bytes|bpe:[0-9]{1,6})$")
    encoding: str = Field(READING.encoding, pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")
    field: str = Field(READING.field, min_length=1, max_length=100)
    raw: bool = Field(READING.raw, description="Keep Project Gutenberg's header and footer.")
    window: int = Field(16, ge=1, le=256, description="Tokens of the window that is shown.")

    def question(self) -> Question:
        """The same as `view_of` takes it."""
        return Question(self.tokenizer, Reading(self.encoding, self.field, self.raw), self.window)


class UploadQuery(QuestionQuery):
    """POST /api/documents?name=book.txt."""

    name: str = Field(min_length=1, max_length=200, description="Shown, and never used as a path.")


def documents_routes(documents: Documents) -> APIRouter:
    """The routes of the view Data."""
    router = APIRouter(tags=["The lens"], responses=FAULTS)
    limits = documents.limits

    @router.get(PATH)
    async def listed() -> Response:
        """The texts of this server, the latest first, and how many more it takes."""
        return Answer({
            "documents": [each.to_dict() for each in documents.listed()],
            "bytes": documents.size,
            "most_documents": limits.documents,
            "most_bytes": limits.documents_bytes,
            "most_bytes_of_one": limits.document_bytes,
        })  # fmt: skip

    @router.post(
        PATH,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in KINDS},
            }
        },
    )
    async def upload(query: Annotated[UploadQuery, Query()], request: Request) -> Response:
        """Keeps a text until the server ends: what was read and removed, tokens, split, leaks, first window.

        The body is the file as it is, of any format that lucidlm reads.
        """
        stored = await documents.add(query.name, request.stream(), query.question())
        return Answer(stored.to_dict())

    @router.get(PATH + "/{id}")
    async def look(id: str, query: Annotated[QuestionQuery, Query()]) -> Response:
        """A text again, by another tokenizer or read in another way."""
        stored = await documents.look(id, query.question())
        return Answer(stored.to_dict())

    @router.delete(PATH + "/{id}")
    async def delete(id: str) -> Response:
        """Forgets a text."""
        documents.delete(id)
        return Answer({"deleted": id})

    return router
