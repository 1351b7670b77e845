"""`lema push`: publish what was trained on the hub, only when told to."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source", metavar="ADAPTER_DIR|RUN", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--to", "repository", required=True, metavar="OWNER/NAME", help="The repository, made if need be."
)
@click.option("--arm", default="lema", show_default=True, help="Which arm, where a run is given.")
@click.option("--public", "is_public", is_flag=True, help="Make a new repository public [private].")
@click.option(
    "--yes", "is_told", is_flag=True, help="Upload. Without it, only what would be uploaded is listed."
)
def push(source: Path, repository: str, arm: str, is_public: bool, is_told: bool) -> None:
    """Publish an adapter (or a whole model) with its model card on the Hugging Face hub.

    Nothing leaves this machine without --yes. Read the card's licence note first.

    \b
    Example:
      lema push runs/quickstart --arm lema --to me/quickstart-lema
      lema push runs/quickstart --arm lema --to me/quickstart-lema --yes
    """
    from lema_local.training.publish import files_to_publish, publish

    adapter_dir, export_dir = _folders(source, arm)
    files = files_to_publish(adapter_dir, export_dir)
    if not list_upload(files, repository, is_told=is_told):
        return
    address = publish(files, repository, is_private=not is_public, message=f"{arm} by lema-local")
    click.echo(address)


def list_upload(files: dict[str, Path], repository: str, *, is_told: bool) -> bool:
    """Print what would be uploaded; return whether it shall be."""
    for name, path in files.items():
        click.echo(f"{path.stat().st_size:>14,}  {name}  ({path})")
    if not is_told:
        click.echo(f"Nothing was uploaded. To upload this to {repository}: the same command with --yes")
    return is_told


def _folders(source: Path, arm: str) -> tuple[Path, Path | None]:
    """Return the folder of what was trained, and its export's where there is one."""
    from lema_local.training.whole import find_trained

    if (source / "recipe.yaml").is_file():
        return find_trained(source / "6_train" / arm), source / "7_export" / arm
    return find_trained(source), None
