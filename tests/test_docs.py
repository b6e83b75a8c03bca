"""The documents: their code runs, their commands parse, and their links and paths exist."""

import importlib
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jaxml import config as configs
from jaxml import losses, metrics
from jaxml.commands import VERBS, completion
from jaxml.commands.options import parse
from jaxml.config.presets import PRESETS
from jaxml.data.sources import SOURCES, tfds
from jaxml.models import BACKBONES

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if not {"_build", "generated"} & {*path.parts})
DOCUMENTS = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "BUILD_NOTES")), *PAGES]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
EXTRAS = {*tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]}


def name(path):
    return path.relative_to(ROOT).as_posix()


def blocks(path, language):
    """Code blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.S | re.M)


def commands(path):
    """Commands in the shell blocks of a document, without the variables before them."""
    lines = "\n".join(blocks(path, "sh")).replace("\\\n", " ").splitlines()
    found = [shlex.split(part) for line in lines for part in line.split("#")[0].split("&&") if part.strip()]
    return [[word for word in words if not re.match("[A-Z_]+=", word)] for words in found]


COMMANDS = sorted({tuple(words) for path in DOCUMENTS for words in commands(path)})


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.fixture
def small_run(tmp_path, monkeypatch):
    """A current folder that has what documents take for granted: a network in runs/mine, and pictures."""
    import jax
    from PIL import Image

    from jaxml import models
    from jaxml.inference import Model

    monkeypatch.chdir(tmp_path)
    config = configs.Config(data=configs.Data(stored_size=24, size=20), model=configs.Model(feature_size=8))
    variables = models.init(models.build(config.model), jax.random.key(0), 20)
    Model(config, variables, {}).save("runs/mine")
    (tmp_path / "pictures").mkdir()
    for picture in ("one.jpg", "two.png"):
        Image.linear_gradient("L").save(tmp_path / "pictures" / picture)


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "python")], ids=name)
def test_python_runs_as_printed(path, request):
    if path.name in ("README.md", "python.md"):
        request.getfixturevalue("small_run")
    space = {}
    for block in blocks(path, "python"):
        exec(compile(block, str(path), "exec"), space)


def test_there_are_commands_of_every_kind():
    assert {"make", "pip", "python", "uv", "jaxml"} <= {words[0] for words in COMMANDS}
    assert VERBS.keys() <= {words[1] for words in COMMANDS if words[0] == "jaxml"}


def test_every_verb_has_a_section_and_a_row():
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == re.findall(r"^## (\w+)$", text, re.M)
    assert {*re.findall(r"^## (\w+)$", text, re.M)} == {*VERBS}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_ones_that_there_are(words, tmp_path, monkeypatch):
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert rest[0] in targets
    elif program == "pip":
        assert rest[0] == "install"
        assert {*re.findall(r"[a-z0-9-]+", rest[-1].removeprefix("."))} <= EXTRAS
    elif program == "uv":
        assert rest[0] == "run"
        assert (ROOT / rest[1]).exists()
    elif program == "jaxml":
        monkeypatch.chdir(tmp_path)
        check_verb(rest[0], rest[1:])
    elif program == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1])
    elif program == "python":
        assert (ROOT / rest[0]).is_file()
        check_verb(Path(rest[0]).stem, rest[1:])
    else:
        assert (ROOT / program).is_file() or program.startswith(".venv/bin/"), program


def check_verb(verb, words):
    """The command `jaxml` has this verb, which takes these options; `--help` is printed by a process of its own."""
    if verb == "--print-completion":
        assert words[0] in completion.SHELLS
        return
    if "--help" in (verb, *words):
        command = [sys.executable, "-m", "jaxml", verb, *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert "--help" in done.stdout
        return
    module = importlib.import_module(VERBS[verb][1])
    if verb == "train":
        for word in words:
            if word.endswith(".json"):
                Path(word).parent.mkdir(parents=True)
                configs.save(word, PRESETS["glyphs_simple"])
        module.parse_train(words)
    elif verb == "plan":
        module.parse_plan(words)
    elif verb == "weights":
        assert words[0] in module.FUNCTIONS
    else:
        parse(module.Arguments, words, "")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_resolve(path):
    text = re.sub(r"^```(?!\{).*?^```$", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match("https?:", target):
            file, _, anchor = target.partition("#")
            found = path.parent / file
            assert found.exists(), target
            assert not anchor or found.suffix == ".md", target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_paths_and_modules_exist(path):
    text = path.read_text(encoding="utf-8")
    for found in re.findall(r"(?<![\w/.-])(?:jaxml|experiments|tests|docs|\.ci)/[\w./-]*[\w/]", text):
        if not found.startswith(("docs/_build", "docs/generated")):
            assert (ROOT / found).exists(), found
    for found in re.findall(r"python -m ((?:jaxml|experiments)[\w.]*\w)", text):
        assert importlib.util.find_spec(found), found
    for found in re.findall(r"`(jaxml\.[\w.]*\w)", text):
        assert resolves(found), found


def resolves(dotted):
    """Whether a dotted name is a module, or an attribute of one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def test_the_page_of_options_says_all_of_every_option(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    text = importlib.import_module("pages").options()
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `--"):
            option, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            rows[option.strip("`").removeprefix("--")] = cells
    wanted = {
        f"{section}.{key}" for section, part in configs.to_dict(configs.Config()).items() for key in part
    }
    assert rows.keys() == wanted
    assert all(all(cells) for cells in rows.values())
    assert rows["train.steps"][1] == "`1000`"
    assert rows["data.input"][0] == "`resident`, `tf_data`"


@pytest.mark.parametrize("name", [x for x in metrics.__all__ if x.islower()])
def test_every_metric_has_an_example(name):
    assert ">>> " in getattr(metrics, name).__doc__


def test_every_loss_is_on_the_page_of_losses():
    text = (ROOT / "docs/api/losses.md").read_text(encoding="utf-8")
    assert {*re.findall(r"^\.\. auto\w+:: (\w+)$", text, re.M)} == {*losses.__all__}


def test_help_names_every_data_set_and_backbone():
    words = {
        option: re.findall(r"\w+", schema["description"]) for option, schema in configs.options().items()
    }
    assert {*BACKBONES} <= {*words["model.backbone"]}
    assert {*SOURCES} <= {*words["data.source"], *tfds.LABELS}


def test_docstrings_become_restructured_text(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    converted = importlib.import_module("docstrings").converted
    docstring = """Distance |x - y|, of *all* rows x_ and `a * b`.

        |x - y|^2

    Args:
        x: float [B, D], |x| > 0.

    Example:
        >>> 2 * 3
        6
    """
    assert converted(inspect.cleandoc(docstring).splitlines()) == [
        r"Distance \|x - y\|, of \*all\* rows x\_ and `a * b`.",
        "",
        "",
        "::",
        "",
        "    |x - y|^2",
        "",
        "Args:",
        r"    x: float [B, D], \|x\| > 0.",
        "",
        "Example:",
        "    >>> 2 * 3",
        "    6",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=name)
def test_tutorials_run(path, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    if path.stem == "flax_loop":
        scores = re.findall(r"pixels ([\d.]+), embeddings ([\d.]+)", done.stdout)
        assert len(scores) == 3
        assert all(float(learned) > float(pixels) for pixels, learned in scores)
    else:
        assert float(re.search(r"NMI of the clusters: ([\d.]+)", done.stdout).group(1)) > 0.3
