# SPDX-License-Identifier: BSD-3-Clause
"""kickbench completion: what a shell completes commands, options and names with."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")

VARIABLE = "_KICKBENCH_COMPLETE"
"""By which click knows that a shell asks it to complete; its name follows from the command's."""


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete kickbench's commands, options and names.

    \b
    Examples:
      eval "$(kickbench completion bash)"       # in ~/.bashrc
      eval "$(kickbench completion zsh)"        # in ~/.zshrc, after compinit
      kickbench completion fish >~/.config/fish/completions/kickbench.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "kickbench", VARIABLE).source())
