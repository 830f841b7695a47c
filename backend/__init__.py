"""The light room: Label Studio, people and the database.

Nothing here may import torch, spaCy, Pillow or ``worker``: the backend starts in
under two seconds and runs where no GPU is. What crosses to the worker crosses as
JSON through Redis, in the shapes of ``backend.contract``.
"""
