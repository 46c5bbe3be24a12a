import subprocess

import pytest
from conftest import command

from ms_codegeex.cli import VERBS


def words_after(line: str, script: str) -> list[str]:
    """What bash offers at the end of `line`, which ends with the word to complete."""
    asked = f"""{script}
        COMP_WORDS=({line}) COMP_CWORD=$(({len(line.split())} - 1)) COMP_LINE={line!r} COMP_POINT={len(line)}
        _shtab_ms_codegeex; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", asked], capture_output=True, text=True, timeout=60)
    return done.stdout.split()


@pytest.fixture(scope="module")
def bash() -> str:
    return command("completion", "bash").stdout


@pytest.mark.parametrize(
    "line,offered",
    [
        ("ms-codegeex ra", ["rank-table"]),
        ("ms-codegeex convert --tens", ["--tensor-parallel"]),
        ("ms-codegeex convert --to m", ["megatron", "mindspore"]),
        ("ms-codegeex rank-table m", ["make", "merge"]),
        ("ms-codegeex evaluate mtpb --tur", ["--turns"]),
        ("ms-codegeex plan --config codegen_16b_910b_6", ["codegen_16b_910b_64"]),
    ],
)
def test_bash_completes_verbs_options_and_choices(bash, line, offered):
    assert sorted(words_after(line, bash)) == offered


def test_bash_completes_paths(bash, tmp_path):
    (tmp_path / "model.pt").touch()
    (tmp_path / "more").mkdir()
    offered = words_after(f"ms-codegeex convert --model {tmp_path}/mo", bash)
    assert sorted(offered) == [f"{tmp_path}/model.pt", f"{tmp_path}/more"]
    assert words_after(f"ms-codegeex generate --model {tmp_path}/mo", bash) == [f"{tmp_path}/more"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_name_every_verb(shell):
    script = command("completion", shell).stdout
    assert all(verb in script for verb in VERBS) and "--tensor-parallel" in script
