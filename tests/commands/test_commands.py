"""The command `jaxml`: its verbs, what they import, their names in help and errors, and completion in a shell."""

import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxml import commands
from jaxml.commands import completion, report, weights
from jaxml.errors import RunError
from tests.training.test_run import config, pictures, untrained  # noqa: F401

ROOT = Path(__file__).parents[2]


def called(*words, monkeypatch, capsys):
    """Exit code, output and errors of `jaxml` with these words, in this process."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/jaxml", *words])
    code = 0
    try:
        commands.main()
    except SystemExit as stopped:
        code = stopped.code or 0
    printed = capsys.readouterr()
    return (1, printed.out, code) if isinstance(code, str) else (code, printed.out, printed.err)


def test_help_names_every_verb_with_the_first_line_of_its_own_help(monkeypatch, capsys):
    code, said, _ = called("--help", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    for verb, (line, module) in commands.VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(line)}$", said, re.M)
        assert importlib.import_module(module).__doc__.splitlines()[0] == line
        assert callable(importlib.import_module(module).main)
    assert called(monkeypatch=monkeypatch, capsys=capsys)[:2] == (2, said)


@pytest.mark.parametrize("verb", commands.VERBS)
def test_help_of_a_verb_calls_it_by_its_name(verb, monkeypatch, capsys):
    code, said, _ = called(verb, "--help", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert said.startswith(f"usage: jaxml {verb} ")
    assert f"jaxml {verb} " in said.split("─ options ─")[0].split("\n", 1)[1], "an example"
    assert "experiments/" not in said


def test_an_unknown_verb_is_named(monkeypatch, capsys):
    code, _, said = called("trian", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert said == f"error: jaxml has no verb 'trian'; give one of {', '.join(commands.VERBS)}\n"


def test_an_error_calls_the_verb_by_its_name(monkeypatch, capsys):
    code, _, said = called("evaluate", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "jaxml evaluate --help" in said


IMPORTED = """
import json, sys
from jaxml.commands import main
sys.argv[1:] = sys.argv[2:]
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize(
    ("words", "light"),
    [
        (["--help"], {"numpy", "pydantic", "tyro", "jax"}),
        (["train", "--help"], {"jax", "flax", "matplotlib", "tensorflow", "sklearn"}),
        (["evaluate", "--help"], {"jax", "flax", "matplotlib", "tensorflow", "sklearn"}),
        (["cluster", "--help"], {"jax", "flax", "matplotlib", "tensorflow", "sklearn"}),
        (["plan", "--help"], {"jax", "flax", "matplotlib", "tensorflow", "sklearn"}),
    ],
)
def test_help_imports_nothing_slow(words, light):
    command = [sys.executable, "-c", IMPORTED, "jaxml", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not light & {*json.loads(done.stdout.splitlines()[-1])}


def test_python_m_jaxml_and_the_scripts_are_the_same_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxml", "--version"])
    runpy.run_module("jaxml", run_name="__main__")
    assert re.fullmatch(r"jaxml \d\S+\n", capsys.readouterr().out)
    for script in ("train", "evaluate", "cluster", "tune", "plan"):
        ran = []
        monkeypatch.setattr(commands, "run", ran.append)
        runpy.run_path(str(ROOT / f"experiments/{script}.py"), run_name="__main__")
        assert ran == [script]


def completions(shell_script, line):
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    ask = f"""
    source {shell_script}
    COMP_WORDS=({" ".join(words[:-1])} "{words[-1]}"); COMP_CWORD={len(words) - 1}
    $(complete -p jaxml | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", ask], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return {word.strip() for word in done.stdout.splitlines()}


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_verbs_options_and_choices(tmp_path, monkeypatch, capsys):
    _, script, _ = called("--print-completion", "bash", monkeypatch=monkeypatch, capsys=capsys)
    (tmp_path / "jaxml.bash").write_text(script)
    assert commands.VERBS.keys() <= completions(tmp_path / "jaxml.bash", "jaxml ")
    assert "--model.backbone" in completions(tmp_path / "jaxml.bash", "jaxml train --model.b")
    assert completions(tmp_path / "jaxml.bash", "jaxml evaluate --split ") == {"train", "val", "test"}
    assert weights.FUNCTIONS.keys() <= completions(tmp_path / "jaxml.bash", "jaxml weights ")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_there_is_a_script_for_every_shell(shell, monkeypatch, capsys):
    code, script, _ = called("--print-completion", shell, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert all(word in script for word in (*commands.VERBS, "clusters_per_class", "other_data"))


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "zsh"]])
def test_another_shell_is_one_line(words, monkeypatch, capsys):
    code, _, said = called("--print-completion", *words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert said.endswith("give one of bash, zsh, fish")


def test_the_report_is_written_again_with_the_scores_that_there_are(config, tmp_path, capsys):  # noqa: F811
    workdir = tmp_path / "run"
    with pytest.raises(RunError, match="holds no run"):
        report.main(["--workdir", str(workdir)])
    untrained(config, workdir, [3])
    with pytest.raises(RunError, match=r"has no results\.json, so the run is not finished; .*--resume"):
        report.main(["--workdir", str(workdir)])
    (workdir / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 3, "loss": 0.25}\n')
    scores = {"nmi": 0.98765, "f1": 0.5, "recall@1": 0.25, "purity": 0.75}
    results = {"step": 3, "test": scores, "baselines": {"raw pixels (8 x 8)": scores}}
    text = json.dumps(results)
    (workdir / "results.json").write_text(text)
    capsys.readouterr()
    report.main(["--workdir", str(workdir)])
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {workdir / 'report.html'}"
    assert "0.988" in (workdir / "report.html").read_text()
    assert (workdir / "results.json").read_text() == text
    (workdir / "results.json").write_text(json.dumps({**results, "step": 1}))
    with pytest.raises(RunError, match=r"results\.json is of step 1, but .* of step 3; finish the run with"):
        report.main(["--workdir", str(workdir)])
