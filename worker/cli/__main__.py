"""``python -m worker.cli``, which torchrun starts."""

from worker.cli import main

main()
