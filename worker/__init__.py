"""The worker: turns (image, expression) into ranked masks.

It knows neither Label Studio nor HTTP nor the database, and may not import ``backend``: a job
comes in as a dict and leaves as a dict, in the shapes of ``saymask.contract``.
"""
