"""The operator's guide in BUILD.md: every command of it, as far as it can be checked.

Launches run with --dry_run, which checks their meshes against their slices; plans are
not compiled.
"""

import re
import shlex
import string

import pytest

from launch import cli, plan
from launch.cloud import arguments
from launch.cloud.slices import parse_slice
from launch.cloud.tpu import PROJECT
from tests.launch.test_launch_commands import lint
from train import build
from train.config import load_config


def guide() -> str:
    text = (PROJECT / "BUILD.md").read_text()
    start = text.index("## On the cloud: the operator's guide")
    return text[start : text.index("\n## ", start)]


def commands() -> list[str]:
    """What is to be copied, with the variables that the guide exports."""
    found, variables = [], {"ROLE": "dataflow.worker"}
    code = re.findall(r"```\n(.*?)```|`([^`\n]+)`", guide(), flags=re.DOTALL)
    for block, span in code:
        for line in (block or span).replace("\\\n", " ").splitlines():
            line = line.strip()
            if line.startswith("export "):
                # As in a shell, none of a line knows another of the same line.
                words = string.Template(line).substitute(variables).split()[1:]
                variables |= dict(word.split("=", 1) for word in words)
            elif line.startswith(("podgcm ", "gcloud ", "kubectl ")):
                found.append(string.Template(line).substitute(variables))
    return found


COMMANDS = commands()
LAUNCHES = [c for c in COMMANDS if re.match(r"podgcm launch \w+ ", c)]
PLANS = [c for c in COMMANDS if c.startswith("podgcm plan --config")]


def test_it_has_every_action():
    places = {
        "tpu": arguments._TPU,
        "gke": arguments._GKE,
        "dataflow": arguments._DATAFLOW,
    }
    actions = {(place, a) for place, names in places.items() for a in names}
    assert {tuple(c.split()[2:4]) for c in LAUNCHES} == actions
    assert len(PLANS) >= 3
    assert "..." not in " ".join(LAUNCHES + PLANS)


@pytest.mark.parametrize("command", LAUNCHES)
def test_launches(command, capsys):
    words = shlex.split(command)[1:]
    end = words.index("--") if "--" in words else len(words)
    with pytest.raises(SystemExit) as exit_:
        cli.main([*words[:end], "--dry_run", *words[end:]])
    output = capsys.readouterr()
    assert exit_.value.code == 0, output.err
    assert output.out and not output.err


@pytest.mark.parametrize("command", PLANS)
def test_plans(command):
    """Not compiled, but their meshes fit."""
    args = cli.parse(shlex.split(command)[1:])
    config = load_config(args.config, args.overrides)
    chips = args.slices * parse_slice(args.topology).chips
    shape = plan.mesh_shape(config, args.mesh, chips)
    shape.check(build.build_spec(config, *plan.data_grid(config)), config.train.batch)
    assert shape.data % args.slices == 0


def test_other_commands_of_podgcm():
    others = [c for c in COMMANDS if re.match("podgcm (preprocess|inspect) ", c)]
    assert len(others) == 3
    for command in others:
        cli.parse(shlex.split(command)[1:])


def test_gcloud_understands_it(tmp_path):
    lines = [
        part.partition(" #")[0].strip()
        for command in COMMANDS
        if command.startswith("gcloud ")
        for part in command.split(" && ")
    ]
    assert len(lines) > 15
    lint(lines, tmp_path)
