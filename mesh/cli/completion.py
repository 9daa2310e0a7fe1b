"""`mesh completion`: what makes the shell complete commands and options."""

from __future__ import annotations

import click

from mesh.cli.view import HELP

VARIABLE = "_MESH_COMPLETE"


@click.command("completion", context_settings=HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      eval "$(mesh completion bash)"                                   in ~/.bashrc
      eval "$(mesh completion zsh)"                                    in ~/.zshrc
      mesh completion fish > ~/.config/fish/completions/mesh.fish
    """
    from click.shell_completion import get_completion_class

    from mesh.cli.main import mesh

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells that are offered"
    completion = kind(mesh, {}, "mesh", VARIABLE)
    # Not source(): for bash that runs the bash of this machine to look at its version.
    click.echo(completion.source_template % completion.source_vars())
