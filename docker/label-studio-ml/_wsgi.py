"""The application for gunicorn: ``gunicorn --bind 127.0.0.1:9091 _wsgi:app``.

It answers those who know the backend's own credentials, for it calls the backend with them.
"""

import hmac
import os
from pathlib import Path

from flask import Response, abort, request
from label_studio_ml.api import init_app
from model import SaymaskModel

app = init_app(SaymaskModel, model_dir=str(Path.home() / ".saymask-label-studio-ml"))


@app.before_request
def check_credentials() -> None:
    """Demand the login, and for the webhook the secret, that the backend demands."""
    if request.path == "/webhook":
        given, expected = request.headers.get("X-Saymask-Secret"), "SAYMASK_WEBHOOK_SECRET"
        is_known = _is_equal(given, os.environ.get(expected))
    else:
        login = request.authorization
        is_known = _is_equal(
            login.username if login else None, os.environ.get("SAYMASK_BASIC_AUTH_USER")
        ) and _is_equal(
            login.password if login else None, os.environ.get("SAYMASK_BASIC_AUTH_PASSWORD")
        )
    if not is_known:
        abort(Response("Wrong or missing credentials.", 401))


def _is_equal(given: "str | None", expected: "str | None") -> bool:
    return hmac.compare_digest((given or "").encode(), (expected or "").encode())
