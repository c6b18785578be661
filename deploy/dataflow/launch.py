"""What the launcher of a flex template starts in the image: a template's parameters to a command of ours.

The launcher gives each parameter, and what the environment of the launch says, as `--name=value`. Of our flags and
Beam's some are switches without a value; a console may send a parameter that nobody filled in.

    python launch.py --command=prepare --input=gs://... --overwrite=true --runner=DataflowRunner --template_location=...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

#: The commands that have a template.
COMMANDS = ("prepare", "train", "blend", "evaluate", "score", "stream")
#: The image holds the package and Beam: workers neither install a release once more nor take this module's names.
_OF_THE_IMAGE = ("--sdk_location=container", "--no_save_main_session")


def command_line(parameters: Sequence[str]) -> list[str]:
    """The arguments of `nnsparse-stream` for the arguments that the launcher gives.

    Args:
        parameters: each `--name=value`, one of them `--command=NAME`; or a switch, `--name`.

    Raises:
        ValueError: there is no such command, or a switch is neither true nor false.
    """
    given = [(name, value) for name, _, value in (text.partition("=") for text in parameters)]
    (command,) = [value for name, value in given if name == "--command"] or [""]
    if command not in COMMANDS:
        raise ValueError(f"parameter command: {command or 'nothing'!r} is none of {', '.join(COMMANDS)}")
    switches = _switches(command)
    flags = [command]
    for text, (name, value) in zip(parameters, given, strict=True):
        if name == "--command" or text == f"{name}=":
            continue
        if name in switches and value:
            if value.lower() not in ("true", "false"):
                raise ValueError(f"parameter {name[2:]}: {value!r} is neither true nor false")
            flags += [name] if value.lower() == "true" else []
        else:
            flags.append(text)
    return [*flags, *_OF_THE_IMAGE]


def _switches(command: str) -> set[str]:
    """Flags without a value, of the command and of Beam."""
    from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

    from nnsparse_stream.pipelines.cli import parser_for

    beam = _BeamArgumentParser(allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(beam)
    actions = [*parser_for(command)._actions, *beam._actions]
    return {name for action in actions if _is_switch(action) for name in action.option_strings}


def _is_switch(action: argparse.Action) -> bool:
    return action.nargs == 0 and not isinstance(action, argparse._HelpAction)


def main(parameters: Sequence[str]) -> int:
    """Runs the command, and returns its exit code."""
    from nnsparse_stream.pipelines import cli

    try:
        flags = command_line(parameters)
    except ValueError as error:
        print(f"launch: {error}", file=sys.stderr)
        return 2
    return cli.main(flags)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
