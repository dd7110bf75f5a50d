# SPDX-License-Identifier: BSD-3-Clause
"""kickbench completion: the script by which a shell completes commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")

VARIABLE = "_KICKBENCH_COMPLETE"
"""The variable in which the script passes its request to click, which derives the variable's name
from the command's."""


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes kickbench in a shell.

    It completes commands, options, and names of scenarios, requests, guest images and kernels.

    \b
    Examples:
      eval "$(kickbench completion bash)"       # in ~/.bashrc
      eval "$(kickbench completion zsh)"        # in ~/.zshrc, after compinit
      kickbench completion fish >~/.config/fish/completions/kickbench.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "kickbench", VARIABLE).source())
