"""The description of the HTTP interface: bodies are read by hand, so they are described here."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from saymask_backend.label_studio.events import EVENT
from saymask_backend.label_studio.schema import PredictBody

_REF = "#/components/schemas/{model}"
_BODIES: dict[str, TypeAdapter[Any]] = {"/predict": TypeAdapter(PredictBody), "/webhook": EVENT}


def describe_api(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the bodies of ``/predict`` and ``/webhook``."""
    document = app.openapi()
    components = document.setdefault("components", {}).setdefault("schemas", {})
    for path, adapter in _BODIES.items():
        schema = adapter.json_schema(ref_template=_REF)
        components.update(schema.pop("$defs", {}))
        content = {"application/json": {"schema": schema}}
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    return document
