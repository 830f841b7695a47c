"""The worker: turns (image, expression) into ranked masks.

It knows neither Label Studio nor HTTP nor the database, and may not import ``saymask_backend``: a
job comes in as a dict and leaves as a dict, in the shapes of ``saymask.contract``.
"""

import os

# PyTorch's threads wait for each other hundreds of times a photo. By default they spin meanwhile,
# and where another process wants the same processor, that takes several times as long as the work:
# an interactive and a background worker on two cores, or a worker and a browser. OpenMP reads this
# once, when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# oneDNN keeps its last 1,024 compiled operations, and PyTorch's layer above it the last 1,024 of
# each kind: one for every shape, some 0.3 MB each. Photos bring new shapes without end, so a worker
# grew by hundreds of megabytes a kind. Fewer suffice for the shapes that a network's layers repeat.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "64")
