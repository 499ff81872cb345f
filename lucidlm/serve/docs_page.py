"""The OpenAPI document of the server in, a plain page that lists its routes and limits out: /docs."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from lucidlm.pages.page import render
from lucidlm.serve.limits import Limits

BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "maxItems": "at most {} of them",
    "maxProperties": "at most {} of them",
    "maxLength": "at most {} characters",
}


def docs_page(document: dict[str, Any], models: Iterable[str], limits: Limits) -> str:
    """The page. FastAPI's own would fetch scripts from another host."""
    return render(
        "server_docs.html",
        title=document["info"]["title"],
        models=list(models),
        routes=list(_routes(document)),
        limits=asdict(limits),
    )


def _routes(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            content = route.get("requestBody", {}).get("content", {})
            form = _resolved(content.get("application/json", {}).get("schema", {}), document)
            yield {
                "method": method.upper(),
                "path": path,
                "description": route.get("description", "").split("\n\n"),
                "fields": [_field(*each, form) for each in form.get("properties", {}).items()],
            }


def _field(name: str, schema: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    kinds = [schema, *schema.get("anyOf", ())]
    bounds = [text.format(f"{kind[key]:,}") for kind in kinds for key, text in BOUNDS.items() if key in kind]
    default = "required" if name in form.get("required", ()) else schema.get("default", "")
    return {
        "name": name,
        "default": "" if default is None else default,
        "limits": ", ".join(dict.fromkeys(bounds)),
        "description": schema.get("description", ""),
    }


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema
