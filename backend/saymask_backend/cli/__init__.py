"""The command line ``saymask``: one module per group of commands, one shared context."""
