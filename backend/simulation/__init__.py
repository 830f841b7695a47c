"""How long annotators would wait, by simulation: no queue, no worker, no database."""
