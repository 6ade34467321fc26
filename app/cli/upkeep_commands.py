"""`flask backup`, `restore`, `doctor` and `capacity`: what an operator does with a whole installation."""

import json
import sys
from pathlib import Path

import click

from app.api.request.services import services
from app.cli.audit_command import record
from app.cli.model_choice import FILE, explain
from app.upkeep.backup import write_backup
from app.upkeep.backup_file import BackupManifest
from app.upkeep.capacity import describe_need, find_need, read_figures
from app.upkeep.installation_checks import check_installation
from app.upkeep.machine_checks import check_machine
from app.upkeep.restore import restore_backup


@click.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(file: Path) -> None:
    """Back up models, users, defaults and state to one FILE.

    A server may run meanwhile. FILE holds what the users file holds, so keep it as secret. An earlier FILE stays until
    the new one was read back.
    """
    with explain():
        written = write_backup(services().settings, file)
    for path in written.left_out:
        click.echo(f"left out: {path} is neither a file nor a folder, or its name cannot be kept", err=True)
    click.echo(f"backed up {describe(written.manifest)} to {file}: {file.stat().st_size} bytes, read back and verified")


@click.command("restore")
@click.argument("file", type=FILE)
def restore(file: Path) -> None:
    """Put a backup in the place of models, users, defaults and state.

    The server must be stopped. FILE is verified before anything is changed, and everything takes its place or nothing.
    Settings are not restored: those that differ are printed.
    """
    with explain():
        restored = restore_backup(services().settings, file)
        record("restored", f"backup of {restored.manifest.made}")
    for line in restored.other_settings:
        click.echo(f"set otherwise, here or there: {line}", err=True)
    click.echo(f"restored {describe(restored.manifest)} of {restored.manifest.made}")


@click.command("doctor")
@click.option("--json", "is_json", is_flag=True, help="Print JSON: a list of level, subject, text and advice.")
def doctor(is_json: bool) -> None:
    """Look for what keeps the service from working well, and say what to do.

    Each line begins with ok, warning or fault. The command ends with 1 if there is a fault. Run it as the service's
    user and with its settings. It changes nothing and prints no secret.
    """
    settings = services().settings
    findings = []
    for finding in (*check_machine(settings), *check_installation(settings)):
        findings.append(finding)
        if not is_json:
            click.echo(finding)
    if is_json:
        click.echo(json.dumps([finding.to_json() for finding in findings], indent=1))
    sys.exit(any(finding.level == "fault" for finding in findings))


@click.command("capacity")
@click.option("--per-day", type=click.IntRange(1), required=True, help="Predictions a day, one picture each.")
@click.option(
    "--p99-ms",
    type=click.FloatRange(0, min_open=True),
    default=100.0,
    show_default=True,
    help="Milliseconds within which 99 of 100 are to be answered, also at the peak.",
)
@click.option(
    "--peak-factor",
    type=click.FloatRange(1),
    default=3.0,
    show_default=True,
    help="The busiest rate of the day, by its mean rate.",
)
@click.option("--machine-cores", type=click.IntRange(1), default=2, show_default=True, help="Cores of one machine.")
def capacity(per_day: int, p99_ms: float, peak_factor: float, machine_cores: int) -> None:
    """Say how many machines a number of predictions needs, and which settings.

    The figures are those of benchmarks/capacity.md.
    """
    figures = read_figures()
    with explain():
        need = find_need(figures, per_day, p99_ms, peak_factor, machine_cores)
    click.echo(describe_need(figures, need, peak_factor, machine_cores))


def describe(manifest: BackupManifest) -> str:
    """Say what a backup holds."""
    versions = manifest.list_versions()
    parts = [f"{len(versions)} model version{'' if len(versions) == 1 else 's'}"]
    parts += [name for name, member in (("users", "instance/users"), ("state", "state.db")) if member in manifest.files]
    return ", ".join(parts)
