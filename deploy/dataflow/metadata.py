"""Metadata and container specs of the flex templates, made of the commands' own flags.

python -m deploy.dataflow.metadata write                       # templates/COMMAND.json of each command
python -m deploy.dataflow.metadata spec COMMAND --image IMAGE  # what lies in a bucket and is launched
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.dataflow.launch import COMMANDS
from nnsparse_stream.pipelines.cli import COMMANDS as SUMMARIES
from nnsparse_stream.pipelines.cli import parser_for
from nnsparse_stream.pipelines.options import non_negative_int, positive_int

FOLDER = Path(__file__).parent / "templates"
#: What a command does without a job, or after it, which a template cannot.
_LEFT_OUT = {"train": {"metrics_file"}, "stream": {"compact", "metrics_file"}}
#: What a command can do without, and a template cannot.
_NEEDED = {"evaluate": {"json"}, "stream": {"source", "data", "model"}}
_REGEXES = {int: "^-?[0-9]+$", positive_int: "^[1-9][0-9]*$", non_negative_int: "^[0-9]+$"}


def metadata(command: str) -> dict[str, Any]:
    """A template's metadata, as JSON of Google's `TemplateMetadata`."""
    return {
        "name": f"nnsparse-stream {command}",
        "description": SUMMARIES[command],
        "streaming": command == "stream",
        **({"supportsExactlyOnce": True, "defaultStreamingMode": "EXACTLY_ONCE"} if command == "stream" else {}),
        "parameters": [
            {
                "name": "command",
                "label": "Command",
                "helpText": f"always {command}: all templates start one image, and this says what it does",
                "regexes": [f"^{command}$"],
                "defaultValue": command,
            },
            *_parameters(command),
            {
                "name": "sdk_container_image",
                "label": "Image of the workers",
                "helpText": "the image that the template starts, or with a GPU the one with CUDA",
            },
        ],
    }


def _parameters(command: str) -> list[dict[str, Any]]:
    """Of each flag of the command; what it needs comes first, as a console shows it."""
    parser = parser_for(command)
    groups = {id(action): group for group in parser._action_groups for action in group._group_actions}
    made = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.dest in _LEFT_OUT.get(command, ()):
            continue
        needed = action.required or action.dest in _NEEDED.get(command, ())
        made.append({**_parameter(parser, action, needed), **_group(groups[id(action)])})
    return sorted(made, key=lambda parameter: parameter["isOptional"])


def _parameter(parser: argparse.ArgumentParser, action: argparse.Action, needed: bool) -> dict[str, Any]:
    (flag,) = action.option_strings
    name = flag.removeprefix("--")
    told = (action.help or "") % {"prog": parser.prog, "default": action.default}
    parameter: dict[str, Any] = {
        "name": name,
        "label": name.replace("_", " ").capitalize(),
        "helpText": told,
        "isOptional": not needed,
    }
    if action.nargs == 0:
        parameter |= {"paramType": "BOOLEAN", "regexes": ["^(true|false)$"], "defaultValue": "false"}
    elif action.choices is not None:
        choices = [str(choice) for choice in action.choices]
        parameter |= {
            "paramType": "ENUM",
            "regexes": [f"^({'|'.join(choices)})$"],
            "enumOptions": [{"value": choice, "label": choice} for choice in choices],
        }
    elif action.type in (int, float, positive_int, non_negative_int):
        parameter["paramType"] = "NUMBER"
        if action.type in _REGEXES:
            parameter["regexes"] = [_REGEXES[action.type]]
    if isinstance(action.default, (str, int, float)) and not isinstance(action.default, bool) and action.default != "":
        parameter["defaultValue"] = str(action.default)
    return parameter


def _group(group: argparse._ArgumentGroup) -> dict[str, str]:
    return {} if group.title in (None, "options", "optional arguments") else {"groupName": str(group.title)}


def spec(command: str, image: str) -> dict[str, Any]:
    """What is launched, as JSON of Google's `ContainerSpec`."""
    return {"image": image, "sdkInfo": {"language": "PYTHON"}, "metadata": metadata(command)}


def text(made: dict[str, Any]) -> str:
    """JSON as it lies in files."""
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def main(argv: Sequence[str]) -> None:
    """Writes all metadata, or prints one spec."""
    parser = argparse.ArgumentParser(prog="python -m deploy.dataflow.metadata")
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("write", help="templates/COMMAND.json of each command")
    of_one = what.add_parser("spec", help="print the container spec of one command")
    of_one.add_argument("command", choices=COMMANDS)
    of_one.add_argument("--image", required=True)
    args = parser.parse_args(argv)
    if args.what == "spec":
        print(text(spec(args.command, args.image)), end="")
        return
    FOLDER.mkdir(exist_ok=True)
    for command in COMMANDS:
        (FOLDER / f"{command}.json").write_text(text(metadata(command)))


if __name__ == "__main__":
    main(sys.argv[1:])
