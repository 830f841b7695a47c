"""``python -m saymask_worker.cli``, which torchrun starts."""

from saymask_worker.cli import main

main()
