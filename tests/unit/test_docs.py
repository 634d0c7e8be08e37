"""What the documentation says, held against the code."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest

from mnist_ocr import __version__, cli
from mnist_ocr.digits.batch import BLANK, OK
from mnist_ocr.digits.classifier import NOT_A_DIGIT
from mnist_ocr.digits.decoding import DECODE_STATUSES
from mnist_ocr.digits.isolation import POISON
from mnist_ocr.labelling.predictions import SCHEMA
from mnist_ocr.labelling.redo import STATUSES
from mnist_ocr.training.config import RecipeOverrides

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("cluster/**/*.md")]
}


def shell_lines() -> list[str]:
    """Every line of the documents' shell blocks, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", "\n".join(DOCUMENTS.values()), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def commands() -> list[list[str]]:
    """The arguments of every use of the command, whether direct or as a job."""
    found = []
    for line in shell_lines():
        if match := re.search(r"(?:^|-- )mnist-ocr (.*)", line):
            found.append(shlex.split(match[1], comments=True))
        elif match := re.search(r"python jobs/(\w+)\.py(.*)", line):
            found.append([match[1], *shlex.split(match[2], comments=True)])
    return found


def test_there_are_commands_to_test() -> None:
    """The search above finds each of them at least once."""
    assert {command[0] for command in commands()} == set(cli.COMMANDS)


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_documented_command_parses(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sub-command, flags and values are what the command takes."""
    ran = []
    for name, (config_class, _) in list(cli.COMMANDS.items()):
        monkeypatch.setitem(cli.COMMANDS, name, (config_class, lambda c: ran.append(c) or 0))
    with pytest.raises(SystemExit) as caught:
        cli.main(command)
    assert caught.value.code == 0
    assert type(ran[0]) is cli.COMMANDS[command[0]][0]


@pytest.mark.parametrize("command", ["train", "label", "pack"])
def test_flags_table_lists_each_flag_with_its_default(command: str) -> None:
    """In the order of the help, and no flag that is not there."""
    table = README.partition(f"<!-- flags: {command} -->")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `--")]
    documented = {flag.strip(" `"): default.strip(" `") for flag, default in rows}
    config_class, _ = cli.COMMANDS[command]
    flags = {
        f"--{field.name.replace('_', '-')}": field.default
        for field in fields(config_class)
        if field.name not in {"input_uri", "output_uri", "override"}
    }
    assert list(documented) == list(flags)
    for flag, default in flags.items():
        if default not in (None, False, ()):
            assert documented[flag] == str(default)


def test_flags_of_the_recipe_are_listed() -> None:
    """Below the table, in the order of the help."""
    (listed,) = re.findall(r"in place of the recipe's own values: (.*)\.", README)
    names = [field.name.replace("_", "-") for field in fields(RecipeOverrides)]
    assert listed == ", ".join(f"`--{name}`" for name in names)


@pytest.mark.parametrize("target", sorted(set(re.findall("`make (\\w+)", str(DOCUMENTS)))))
def test_documented_target_exists(target: str) -> None:
    """`make X` is in the Makefile."""
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_file_tree_is_the_repository() -> None:
    """Every path in the tree exists, and every module and script is in the tree."""
    tree = README.partition("## Files\n\n```\n")[2].partition("```")[0]
    listed: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders[depth:] = [name]
        path = "".join(folders)
        assert (ROOT / path).exists(), path
        listed.add(path)
    wanted = [
        str(path.relative_to(ROOT))
        for folder in ("jobs", "mnist_ocr", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    ]
    wanted += [f"docs/{path.name}" for path in ROOT.glob("docs/*.md")]
    assert sorted(set(wanted) - listed) == []


@pytest.mark.parametrize("document", ["README.md", "docs/predictions.md"])
def test_schema_table_is_the_schema(document: str) -> None:
    """Columns, order, types and what may be null."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|`]+) \| .* \|$", DOCUMENTS[document], re.MULTILINE)
    documented = [(name, kind) for name, kind in rows if name in SCHEMA.names]
    assert documented == [(field.name, describe_type(field)) for field in SCHEMA]


def describe_type(field: pa.Field) -> str:
    """A field's type as the tables write it."""
    kind = field.type
    if pa.types.is_fixed_size_list(kind):
        name = f"fixed_size_list<{describe_float(kind.value_type)}>[{kind.list_size}]"
    elif pa.types.is_dictionary(kind):
        name = f"dictionary<{kind.value_type}>"
    else:
        name = describe_float(kind)
    return f"{name}, null" if field.nullable else name


def describe_float(kind: pa.DataType) -> str:
    return {"float": "float32"}.get(str(kind), str(kind))


def test_every_status_is_documented() -> None:
    """Those of decoding, those of reading, and no other."""
    table = DOCUMENTS["docs/predictions.md"].partition("## Statuses")[2]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    readers = [ROOT / "mnist_ocr/storage.py", *ROOT.glob("mnist_ocr/*_store.py")]
    readers += [*ROOT.glob("mnist_ocr/s3*.py"), *ROOT.glob("mnist_ocr/labelling/*.py")]
    sources = "".join(path.read_text() for path in readers)
    reading = re.findall(r'ObjectError\(\s*"(\w+)"', sources)
    assert sorted(documented) == sorted(
        {OK, BLANK, NOT_A_DIGIT, POISON, *DECODE_STATUSES, *reading}
    )
    assert sorted(documented) == sorted(STATUSES)


def test_links_lead_somewhere() -> None:
    """Every relative link in a document names a file."""
    for name, text in DOCUMENTS.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / name).parent.joinpath(target).exists(), f"{name}: {target}"


def test_changelog_has_an_entry_for_this_version() -> None:
    """And the package says the same version as pyproject.toml."""
    assert f"## {__version__} " in DOCUMENTS["CHANGELOG.md"]
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_every_dependency_is_explained_and_pinned() -> None:
    """CONTRIBUTING says what each is for; constraints.txt pins each exactly."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"\ndependencies = \[(.*?)\n\]", pyproject, re.DOTALL)
    dev = re.search(r"\ndev = \[(.*?)\n\]", pyproject, re.DOTALL)
    assert block
    assert dev
    names = re.findall(r'"([\w-]+)', block[1] + dev[1])
    pins = (ROOT / "constraints.txt").read_text().lower().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", pin) for pin in pins)
    for name in names:
        assert name in DOCUMENTS["CONTRIBUTING.md"], name
        assert any(pin.startswith(f"{name.lower()}==") for pin in pins), name
