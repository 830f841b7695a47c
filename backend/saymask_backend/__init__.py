"""The backend: Label Studio, annotators and the database.

It may not import torch, spaCy or ``worker``, and imports Pillow only to draw: it starts in under
two seconds and runs on machines without a GPU. Workers are reached through the queue alone, as
JSON in the shapes of ``saymask.contract``.
"""
