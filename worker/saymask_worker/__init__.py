"""The worker: turns (image, expression) into ranked masks.

It knows neither Label Studio nor HTTP nor the database, and may not import ``backend``: a job
comes in as a dict and leaves as a dict, in the shapes of ``saymask.contract``.
"""

import os

# PyTorch's threads wait for each other hundreds of times a photo. By default they spin meanwhile,
# and where another process wants the same processor, that takes several times as long as the work:
# an interactive and a background worker on two cores, or a browser beside one. OpenMP reads this
# once, when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# oneDNN keeps the code of its last 1,024 products, one for every shape, and photos bring new shapes
# without end: that was half of what a worker grew by over its first dozen photos. Fewer suffice for
# those that the layers of a network repeat.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
