"""The heavy room: turns (photo, expression) into ranked masks.

Of ``backend`` it may import only ``contract``, ``masks`` and ``errors``. It knows
neither Label Studio nor HTTP nor the database: a job comes in as a dict and leaves
as a dict.
"""
