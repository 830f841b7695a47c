"""The application for gunicorn: ``gunicorn --bind :9091 _wsgi:app``."""

from pathlib import Path

from label_studio_ml.api import init_app
from model import SaymaskModel

app = init_app(SaymaskModel, model_dir=str(Path.home() / ".saymask-label-studio-ml"))
