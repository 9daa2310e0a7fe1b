"""`mesh completion`: the script with which a shell completes commands, options, names and files."""

from __future__ import annotations

import click

from mesh.cli.bus_command import HELP

# click's scripts do not complete files if a command has nothing to offer, and not after the @ of `-d @FILE`. These are
# the parts of the scripts that are changed: each as it is in click, and as it is printed here.
BASH = (
    (
        """    local response

""",
        """    local response word="${COMP_WORDS[COMP_CWORD]}"

    # Where bash completes names of hosts, @ is a word of its own here, and yet part of what is replaced.
    if [[ $word == @* || $COMP_CWORD -gt 0 && ${COMP_WORDS[COMP_CWORD-1]} == @ ]]; then
        COMPREPLY=($(compgen -P @ -f -- "${word#@}"))
        return 0
    fi

""",
    ),
    ("complete -o nosort -F", "complete -o nosort -o default -F"),
)
ZSH = (
    """    if [ -n "$completions" ]; then
""",
    """    if [ -z "$completions$completions_with_descriptions" ]; then
        compset -P '@'
        _files
    fi

    if [ -n "$completions" ]; then
""",
)
FISH = (
    """    for completion in $response;
""",
    """    if test -z "$response";
        __fish_complete_path (commandline -t);
    end;

    for completion in $response;
""",
)
CHANGES = {"bash": BASH, "zsh": (ZSH,), "fish": (FISH,)}


@click.command("completion", context_settings=HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell, for mesh and mesh-tail.

    It completes commands, options, files, and the names of services and
    endpoints if NATS answers at once.

    \b
    Examples:
      eval "$(mesh completion bash)"         in ~/.bashrc
      eval "$(mesh completion zsh)"          in ~/.zshrc, after compinit
      mesh completion fish | source          in ~/.config/fish/config.fish
    """
    from mesh.cli.main import mesh
    from mesh.cli.tail import command as tail

    for program, root in (("mesh", mesh), ("mesh-tail", tail)):
        click.echo(script(shell, program, root))


def script(shell: str, program: str, root: click.Command) -> str:
    """The script for one program, which click answers when ``_<PROGRAM>_COMPLETE`` is set."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells that are offered"
    completion = kind(root, {}, program, f"_{program.replace('-', '_').upper()}_COMPLETE")
    # Not source(): for bash that runs the bash of this machine to look at its version.
    text = completion.source_template % completion.source_vars()
    for before, after in CHANGES[shell]:
        assert before in text, "click's script has changed"
        text = text.replace(before, after)
    return text
