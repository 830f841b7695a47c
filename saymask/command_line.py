"""How the command lines of backend and worker end: with words, and without secrets."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from saymask.errors import SaymaskError
from saymask.image_files import to_printable
from saymask.redaction import hide


def run_command_line(app: Callable[[], object], console: Console) -> None:
    """Run a command line; an error is printed as cause and cure, with exit status 2.

    Args:
        app: parses the arguments and runs a command.
        console: prints errors.
    """
    try:
        app()
    except SaymaskError as error:
        # Either may name a file, whose name may not be text.
        console.print(f"[red]error:[/red] {escape(to_printable(error.cause))}", highlight=False)
        if error.cure:
            console.print(to_printable(error.cure), highlight=False, markup=False)
        sys.exit(2)
    except Exception:  # noqa: BLE001
        # A bug: its trace, without the secrets that libraries quote.
        sys.stderr.write(hide(traceback.format_exc()))
        sys.exit(1)
