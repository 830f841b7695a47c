"""``saymask``: the backend's command line."""

from __future__ import annotations

from saymask.command_line import build_app, run_command_line
from saymask_backend.cli import export, import_, operate, project, propose, records, stats, train
from saymask_backend.label_studio.label_config import default_label_config

app = build_app(
    "saymask: the Label Studio ML backend. Settings come from SAYMASK_... variables, then from"
    " .saymask/settings.env, which `saymask up` writes."
)
app.command()(operate.serve)
app.command()(operate.status)
app.command()(operate.up)
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
app.command()(records.decisions)
app.command()(operate.backup)
app.command()(operate.restore)
app.add_typer(records.app, name="records")
app.add_typer(train.models, name="models")


@app.command("label-config")
def label_config() -> None:
    """Print the labelling config to paste into a project's settings."""
    print(default_label_config())


def main() -> None:
    """Run the command line."""
    run_command_line(app)
