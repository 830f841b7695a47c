"""``saymask``: the backend's command line."""

from __future__ import annotations

import typer

from saymask.command_line import run_command_line
from saymask_backend.cli import (
    backup,
    decisions,
    export,
    import_,
    project,
    propose,
    records,
    serve,
    stats,
    train,
    up,
)
from saymask_backend.cli.context import console
from saymask_backend.label_studio.label_config import default_label_config

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="saymask: the Label Studio ML backend. Settings come from SAYMASK_... variables, then from"
    " .saymask/settings.env, which `saymask up` writes.",
)
app.command()(serve.serve)
app.command()(serve.status)
app.command()(up.up)
app.command()(project.connect)
app.command()(project.doctor)
app.command("preannotate")(project.preannotate_project)
app.command()(project.prepare)
app.command()(propose.propose)
app.command()(propose.verify)
app.command()(stats.stats)
app.command()(stats.sync)
app.command()(export.export)
app.command()(train.train)
app.command("import")(import_.import_)
app.command()(decisions.decisions)
app.command()(backup.backup)
app.command()(backup.restore)
app.add_typer(records.app, name="records")
app.add_typer(train.models, name="models")


@app.command("label-config")
def label_config() -> None:
    """Print the labelling config to paste into a project's settings."""
    print(default_label_config())


def main() -> None:
    """Run the command line."""
    run_command_line(app, console)
