"""The bodies of requests as forms that are checked, and those of answers, as /openapi.json documents them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lucidlm.serve.limits import LIMITS


class Form(BaseModel):
    """A body: no field that is not listed, no number that is infinite, no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[TokenId], Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=LIMITS.stop_characters)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Stops = Stop | Annotated[list[Stop], Field(max_length=LIMITS.stop)]
Neutral = Annotated[float, Field(ge=0, le=0)]


class StreamOptions(Form):
    """What a stream brings beside the text."""

    include_usage: bool = Field(False, description="A last part has the usage.")


class Sampling(Form):
    """How the next token is drawn."""

    temperature: float | None = Field(1.0, ge=0, le=1e6, description="0 takes the likeliest token.")
    top_p: float | None = Field(1.0, gt=0, le=1)
    top_k: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        None, description="An extension: only the k likeliest tokens."
    )
    min_p: float | None = Field(
        0.0, ge=0, le=1, description="An extension: tokens of at least this share of the likeliest one."
    )
    seed: Seed | None = Field(
        None, description="The same text for the same request, alone or among others, in float32 on a CPU."
    )


class CompletionForm(Sampling):
    """POST /v1/completions."""

    model: str = Field(description="A name of GET /v1/models.")
    prompt: str | Annotated[list[str], Field(min_length=1)] | Ids | Annotated[list[Ids], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        16, description="With the prompt at most the context; 0 only with echo."
    )
    n: Annotated[int, Field(ge=1, le=LIMITS.n)] | None = 1
    stop: Stops | None = None
    logprobs: Annotated[int, Field(ge=0, le=LIMITS.logprobs)] | None = Field(
        None, description="So many alternatives of each token, and the token itself."
    )
    echo: bool | None = Field(False, description="Puts the prompt before the text.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=LIMITS.logit_bias),
        ]
        | None
    ) = Field(None, description="Token ids as text, with what is added to their logits.")
    best_of: int | None = Field(None, description="Refused unless it equals n.")
    suffix: Literal[""] | None = Field(None, description="Refused unless it is empty.")
    presence_penalty: Neutral | None = Field(None, description="Refused unless it is 0.")
    frequency_penalty: Neutral | None = Field(None, description="Refused unless it is 0.")
    user: None = Field(None, description="Refused: nothing is recorded.")


class ModelOfOurs(Form):
    """What the routes of our own take."""

    model: str | None = Field(None, description="A name of /api/models; the first one if it is left out.")


class ExplainForm(ModelOfOurs):
    """POST /api/explain: what `lucidlm explain MODEL TEXT ... --json` prints."""

    texts: Annotated[list[str], Field(min_length=1, max_length=LIMITS.explain_texts)]
    top_k: int = Field(5, ge=0, le=LIMITS.logprobs)
    prefix: Literal["auto", "none"] = "auto"
    context_length: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    stride: Annotated[int, Field(ge=1, lt=2**31)] | None = None


class TokenizeForm(ModelOfOurs):
    """POST /api/tokenize."""

    text: str


class GenerateForm(ModelOfOurs, Sampling):
    """POST /api/generate: a stream of tokens, each with the distribution that it was drawn from."""

    prompt: str | Ids = ""
    max_new_tokens: int = Field(16, ge=1, lt=2**31)
    stop: Annotated[list[Stop], Field(max_length=LIMITS.stop)] = []


class Fault(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """OpenAI's error object."""

    error: Fault


class Logprobs(BaseModel):
    """The tokens of a text: four lists of one length."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class ChoiceAnswer(BaseModel):
    """One text."""

    text: str
    index: int
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class Usage(BaseModel):
    """Tokens of the prompts, each once, and tokens that the model generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionAnswer(BaseModel):
    """The answer of /v1/completions; in a stream, each part is one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[ChoiceAnswer]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """One model of /v1/models."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The answer of /v1/models."""

    object: Literal["list"]
    data: list[ModelCard]


FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in {
        400: "A field is wrong, or the request does not fit into the context.",
        401: "The API key is missing or wrong.",
        403: "The Host or the Origin is not this server.",
        404: "No model has this name.",
        408: "The request took too long.",
        413: "The body is too large.",
        415: "The body is not JSON.",
        429: "All places are taken; try again later.",
        500: "Our fault, or a damaged model.",
        503: "The server is stopping.",
    }.items()
}
