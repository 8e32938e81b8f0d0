"""README and documentation against the code: commands, options, links, the gate's test command."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

from arguments import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "documentation").rglob("*.md"))]
UNIVERSAL = {"-h", "--help", "--version", "-d", "-c", "-f", "--raw", "--preprocessed", "--results"}


def parser(name):
    return importlib.import_module(f"gdmnet.commands.{name}").build_parser()


def options(name):
    own = parser(name)
    parsers = [own, *own.commands.values()]
    return {text for one in parsers for action in one._actions for text in action.option_strings}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def command_lines():
    """Every gdm_ command in a bash block."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for part in re.split(r"&&|\n", block):
                if part.strip().startswith("gdm_"):
                    yield page.relative_to(ROOT), part.strip()


def test_every_command_of_the_documentation_is_understood():
    refused = []
    for page, line in command_lines():
        program, *arguments = shlex.split(line)
        try:
            parser(program.removeprefix("gdm_")).parse_args(arguments)
        except SystemExit:
            refused.append(f"{page}: {line}")
    assert refused == []


def test_every_option_in_a_sentence_exists():
    for page in PAGES:
        for name, rest in re.findall(r"`gdm_([a-z_]+) ([^`]*)`", page.read_text("utf-8")):
            assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= options(name), page


def test_the_reference_of_commands_lists_all_options_and_no_others():
    page = (ROOT / "documentation/reference/commands.md").read_text("utf-8")
    for name in COMMANDS:
        section = page.split(f"## gdm_{name}\n")[1].split("\n## ")[0]
        cells = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
        listed = set(re.findall(r"`(--?[a-z-]+)", " ".join(cells)))
        assert listed - UNIVERSAL == options(name) - UNIVERSAL, name


def test_links_lead_somewhere():
    dead = [
        f"{page}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
        if not target.startswith("http") and not (page.parent / target.split("#")[0]).exists()
    ]
    assert dead == []


def test_every_page_can_be_reached_from_the_readme():
    linked = {
        (README.parent / target).resolve()
        for target in re.findall(r"\]\(([^)\s]+\.md)\)", README.read_text("utf-8"))
    }
    assert {page.resolve() for page in PAGES[1:]} == linked


def test_the_gate_runs_the_readmes_test_command():
    (command,) = [
        line for block in blocks(README, "bash") for line in block.splitlines() if "pytest" in line
    ]
    gate = [line.strip() for line in (ROOT / ".ci/run").read_text("utf-8").splitlines()]
    assert command in gate


def test_the_method_page_names_code_that_exists():
    page = (ROOT / "documentation/explanation/the-method.md").read_text("utf-8")
    for code in re.findall(r"`(\w+/\w+\.py(?:: [\w, ]+)?)`", page):
        file, _, names = code.partition(": ")
        text = (ROOT / "gdmnet" / file).read_text("utf-8")
        for name in filter(None, names.split(", ")):
            assert re.search(rf"^(def |class |){name}\b", text, re.M), code


def test_the_plan_page_lists_the_keys_of_the_plan():
    from dataclasses import fields

    from gdmnet.plan import Configuration, Plan

    page = (ROOT / "documentation/reference/plan.md").read_text("utf-8")
    tables = page.split("A configuration:")
    for kind, table in zip((Plan, Configuration), tables, strict=True):
        keys = {
            key
            for line in table.splitlines()
            if line.startswith("| `")
            for key in re.findall(r"`(\w+)`", line.split(" | ")[0])
        }
        assert keys == {field.name for field in fields(kind)}
