"""The set-up scripts, run as a user runs them. A stand-in interpreter takes the place of Python and pip and writes down
how it was called, so nothing is installed and no network is touched."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from declared import normalised, requirements
from run_processes import wait_for

SCRIPTS = [*sorted((ROOT / "ascend_scripts").glob("*.sh"))]
SCRIPTS += [ROOT / name for name in ("tests/run.sh", ".ci/run", ".ci/toolchains")]
NEEDED = ["ascend_scripts", "pyproject.toml", *(path.name for path in ROOT.glob("requirements*.txt"))]

STAND_IN = """#!{bash}
printf '%s\\n' "$*" >>"$CALLS"
case "$*" in
    *"-m venv "*) mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python"; : >"${{@: -1}}/pyvenv.cfg" ;;
    *"-m pip install"*"$PIP_KILLED"*) if [[ -n $PIP_KILLED ]]; then kill -9 $PPID $$; fi
        sleep "${{PIP_SECONDS:-0}}"
        until [[ -z $PIP_WAITS || -e $PIP_WAITS ]]; do sleep 0.05; done
        if [[ -n $PIP_FAILS && "$*" == *"$PIP_FAILS_ON"* ]]; then echo "ERROR: $PIP_FAILS"; exit 1; fi
        if [[ "$*" == *" -e "* ]]; then
            printf '%s' "$COMMAND" >"${{0%/*}}/ms-codegeex"
            chmod +x "${{0%/*}}/ms-codegeex"
        fi ;;
    *"-m pip"*) ;;
    *"import torch"*) exit "${{TORCH_FAILS:-0}}" ;;
    *) exec {python} "$@" ;;
esac
"""

COMPILERS = ("g++", "clang++", "c++")  # those that `kernels/compiling.py` looks for

# In place of the command that pip makes: prints its arguments and its Python.
COMMAND = '#!/bin/bash\nprintf "<%s>" "$@"\ncommand -v python\nexit 7\n'


class Checkout:
    """A copy of what the scripts need, in a path with a space, and the interpreter they are given."""

    def __init__(self, directory: Path):
        self.root = directory / "a checkout"
        self.root.mkdir()
        for name in NEEDED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.root / name)
        for name in ("tests/run.sh", "ms_codegeex/__init__.py", "ms_codegeex/base/host.py"):
            (self.root / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        self.venv = self.root / ".venv"
        self.calls = directory / "calls"
        stand_in = directory / "python"
        stand_in.write_text(STAND_IN.format(bash=shutil.which("bash"), python=sys.executable))
        stand_in.chmod(0o755)
        (directory / "compilers").mkdir()
        (directory / "compilers/c++").symlink_to(shutil.which("true"))
        self.environment = {
            "PATH": f"{directory / 'compilers'}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": str(stand_in),
            "CALLS": str(self.calls),
            "COMMAND": COMMAND,
            "MS_CODEGEEX_PREFLIGHT": "skip",
            **dict.fromkeys(("PIP_KILLED", "PIP_WAITS", "PIP_FAILS", "PIP_FAILS_ON"), ""),
        }

    def start(self, *arguments: str, script: str = "ascend_scripts/setup.sh", **environment: str) -> subprocess.Popen:
        words = ["bash", str(self.root / script), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(words, env=self.environment | environment, cwd=self.root.parent, text=True, **pipes)

    def run(self, *arguments: str, **keywords: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **keywords)
        output, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def installed(self, *arguments: str, **keywords: str) -> list[str]:
        """How pip was asked to install by a set-up that succeeds."""
        self.taken_calls()
        result = self.run(*arguments, **keywords)
        assert (result.returncode, result.stdout) == (0, f"{self.venv}\n"), result.stderr
        return self.taken_calls()

    def change(self, name: str) -> None:
        with open(self.root / name, "a") as file:
            file.write("# changed\n")

    def taken_calls(self) -> list[str]:
        """How pip was asked to install since the last time."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return [line for line in lines if "pip install" in line]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.fixture
def no_compiler(tmp_path) -> dict[str, str]:
    """A PATH with all programs of this machine but its C++ compilers."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in os.environ["PATH"].split(os.pathsep):
        for program in Path(folder).glob("*"):
            if program.name not in COMPILERS and not (programs / program.name).is_symlink():
                (programs / program.name).symlink_to(program)
    return {"PATH": str(programs)}


def run_script(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", *words], capture_output=True, text=True, cwd=ROOT)


# --- every script ---


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


@pytest.mark.parametrize("script", ["ascend_scripts/run_distributed.sh", "ascend_scripts/setup.sh", "tests/run.sh"])
def test_help(script):
    result = run_script(script, "--help")
    assert result.returncode == 0 and result.stdout.startswith(f"usage: bash {script}")


@pytest.mark.parametrize("script", ["ascend_scripts/run_distributed.sh", "ascend_scripts/setup.sh"])
@pytest.mark.parametrize("words", [("--no-such-flag",), ("word",), ("--venv",)])
def test_wrong_arguments_are_one_line(script, words):
    result = run_script(script, *words)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert words[0] in result.stderr


def test_dry_run_prints_the_commands():
    words = ("--devices", "2", "training.steps=4", "--corpus", "/some where", "else", "output=x", "--resume=auto")
    result = run_script("ascend_scripts/run_distributed.sh", "--dry-run", *words)
    assert result.returncode == 0
    setup, train = result.stdout.splitlines()
    assert setup.endswith("ascend_scripts/setup.sh )")
    assert train.endswith(
        "configs/codegeex_tiny.yaml --devices 2 --resume=auto training.steps=4 output=x --corpus /some\\ where else"
    )


def test_run_distributed_forwards_arguments_and_status(checkout):
    assert checkout.run().returncode == 0
    result = checkout.run("--config", "my config.yaml", "a.b=c d", script="ascend_scripts/run_distributed.sh")
    assert result.returncode == 7
    assert result.stdout == f"<train><--config><my config.yaml><a.b=c d>{checkout.venv}/bin/python\n"


# --- .ci/run ---


@pytest.fixture
def ci(tmp_path):
    """Runs `.ci/run` with stand-ins that note their calls; `tests/run.sh` ends with the status of its kind of tests.

    With `system` the system's Python is another one than the first of PATH, and ends with that status when it is asked
    whether it can be used.
    """
    checkout = tmp_path / "checkout"
    for name in (".ci", "tests", "ascend_scripts", "../bin"):
        (checkout / name).mkdir(parents=True)
    shutil.copy(ROOT / ".ci/run", checkout / ".ci")

    def run(default=0, skipped=0, slow=0, toolchains=0, more="", system=None, **environment):
        note = 'echo "$(basename "$0") $*" >>"$(dirname "$0")/../calls"\n' + more
        (checkout / ".ci/toolchains").write_text(f"{note}exit {toolchains}\n")
        (checkout / "ascend_scripts/setup.sh").write_text(note)
        cases = f"*-before*) exit {skipped} ;; *slow*) exit {slow} ;; *) exit {default} ;;"
        (checkout / "tests/run.sh").write_text(f'{note}case "$*" in {cases} esac\n')
        for name in ("python3", "python-of-the-system"):
            script = f"case $* in --version) echo {name} ;; *) exit {system or 0} ;; esac\n"
            (tmp_path / "bin" / name).write_text("#!/bin/sh\n" + script)
            (tmp_path / "bin" / name).chmod(0o755)
        name = "python3" if system is None else "python-of-the-system"
        environment |= {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SYSTEM_PYTHON": f"{tmp_path}/bin/{name}"}
        environment = {**os.environ, **environment}
        result = subprocess.run([checkout / ".ci/run"], capture_output=True, text=True, env=environment)
        return result, [line.strip() for line in (checkout / "calls").read_text().splitlines()]

    return run


def test_ci_runs_the_readmes_command_before_it_installs_anything(ci):
    readme = (ROOT / "README.md").read_text()
    assert "\nbash tests/run.sh  " in readme
    _, calls = ci()
    slow, skipped = "run.sh -m slow --files-by none ", "run.sh --skipped-before -x"
    rehearsals = f"{slow}tests/extras/cluster/rehearsal -x"  # at the same time as all that follows
    assert calls[0] == "run.sh" and calls.pop(calls.index(rehearsals)) and len(calls) == 9
    assert calls[8] == "run.sh -m newest -rP tests/setup/test_dependencies.py tests/setup/test_wheel.py"
    assert calls[3] == skipped and calls[7].startswith(slow)
    several = "tests/extras/cluster/rehearsal/test_first_contact.py::test_a_rank_of_a_job_of_several_servers"
    assert calls[6] == f"run.sh -m slow {several} -x"
    assert calls[4].startswith("setup.sh --venv ") and calls[4].endswith("/.venv-2.10 --tests --mindspore 2.10")
    (first,), rest = {*calls[1:3]} - {"toolchains"}, [word.removeprefix("--ignore=") for word in calls[7].split()[5:]]
    assert first.startswith(slow) and [*first.split()[5:-1], "tests/extras/cluster/rehearsal", "-x"] == rest
    assert all((ROOT / path).exists() for path in (*rest[:-1], *calls[5].split()[1:-1]))


@pytest.mark.parametrize("system, installed_twice", [(0, True), (1, False)])
def test_ci_tries_the_systems_python_first_where_it_can(ci, system, installed_twice):
    more = 'echo "$(basename "$0") ${PYTHON-} ${MS_CODEGEEX_VENV-}"\n'
    result, calls = ci(system=system, more=more)
    first = next(line for line in result.stdout.splitlines() if line.startswith("run.sh "))
    assert calls[0] == "run.sh" and (calls[1] == "setup.sh --tests") == installed_twice
    assert ("/python-of-the-system" in first and first.endswith("/checkout/.venv-system")) == installed_twice


@pytest.mark.parametrize("named", ["", "elsewhere"])
@pytest.mark.parametrize("there", [False, True])
def test_ci_names_the_benchmarks_next_to_the_checkout(ci, tmp_path, there, named):
    if there:
        (tmp_path / "shared/data").mkdir(parents=True)
    result, calls = ci(more='echo "benchmarks ${MS_CODEGEEX_BENCHMARKS-}"\n', MS_CODEGEEX_BENCHMARKS=named)
    expected = named or (str(tmp_path / "checkout/../shared/data") if there else "")
    found = [line for line in result.stdout.splitlines() if line.startswith("benchmarks ")]
    assert found == [f"benchmarks {expected}"] * sum(not call.startswith("setup.sh") for call in calls)


@pytest.mark.parametrize(
    "statuses, expected, cut",
    [
        ({}, 0, 0),
        ({"default": 1}, 1, 0),
        ({"default": 5}, 0, 0),  # 5: pytest found no such test
        ({"default": 124}, 124, 1),  # 124: `timeout` ended it
        ({"toolchains": 1}, 0, 0),
        ({"skipped": 5, "slow": 5}, 0, 0),
        ({"skipped": 1}, 1, 0),
        ({"slow": 1}, 1, 0),
        ({"skipped": 124, "slow": 137}, 0, 5),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None,
)
def test_ci_status(ci, statuses, expected, cut):
    result, calls = ci(**statuses)
    assert result.returncode == expected, result.stdout
    assert result.stdout.count("did NOT run") == cut
    assert ("all tests ran" in result.stdout) == (expected == 0 and not cut)
    ends = {"default": 1, "slow": 4, "skipped": 5}
    assert len(calls) == (next(ends[name] for name in statuses) if expected else 10)


def test_where_time_runs_out_pytest_prints_what_it_has(tmp_path):
    """Also in the background of a script, where a shell makes all that it starts ignore SIGINT."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "tests").mkdir()
    for name in ("process_guard.py", "process_watcher.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests")
    for name, text in {
        "conftest.py": "pytest_plugins = ['process_guard']\n",
        "test_long.py": "import time\nfrom pathlib import Path\ndef test_short(): pass\n"
        "def test_long(): Path('began').touch(); time.sleep(5432)\n",
        "run.sh": f'exec "{sys.executable}" -m pytest -q tests/test_long.py\n',
    }.items():
        (tmp_path / "tests" / name).write_text(text)
    words = ["bash", "-c", '"$@" & wait $!', "bash", str(tmp_path / ".ci/run")]
    ci = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: (tmp_path / "began").exists() or ci.poll() is not None)
    (timer,) = [each for each in psutil.Process(ci.pid).children(recursive=True) if each.name() == "timeout"]
    timer.send_signal(signal.SIGALRM)  # as when its time is over
    output, _ = ci.communicate()
    assert ci.returncode == 124 and "1 passed" in output, output
    assert "were cut" in output.splitlines()[-1]


# --- setup.sh ---


def test_second_run_installs_nothing(checkout):
    installed = checkout.installed("--tests")
    assert len(installed) == 5 and sum("--require-hashes" in call for call in installed) == 4
    assert all("--no-deps" in call for call in installed)
    for arguments in (("--tests",), ()):
        again = checkout.run(*arguments, PIP_INDEX_URL="http://127.0.0.1:9/nowhere")
        assert (again.returncode, again.stdout, again.stderr) == (0, f"{checkout.venv}\n", "")
    assert checkout.taken_calls() == []


@pytest.mark.parametrize(
    ("first", "home"),
    [
        *(("tests/run.sh", home) for home in (None, "nowhere", "a file")),
        ("ascend_scripts/run_distributed.sh", None),
        # no more than both of the above
        pytest.param("ascend_scripts/run_distributed.sh", "nowhere", marks=pytest.mark.slow),
        pytest.param("ascend_scripts/run_distributed.sh", "a file", marks=pytest.mark.slow),
    ],
)
def test_the_commands_of_the_readme_in_either_order_and_again(checkout, tmp_path, first, home):
    """Without a home too, or with one where nothing can be written."""
    (tmp_path / "a file").touch()
    environment = {} if home is None else {"HOME": str(tmp_path / home)}
    scripts = ["ascend_scripts/run_distributed.sh", "tests/run.sh"]
    installed = []
    for script in [first, *(other for other in scripts if other != first), *scripts]:
        train = script != "tests/run.sh"
        result = checkout.run(*([] if train else ["--version"]), script=script, **environment)
        assert result.returncode == (7 if train else 0), result.stderr
        assert ("<train>" if train else "pytest ") in result.stdout
        installed.append(len(checkout.taken_calls()))
    assert installed == ([5, 0, 0, 0] if first == "tests/run.sh" else [3, 2, 0, 0])
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-source.txt", "requirements-test.txt"])
def test_only_what_changed_is_installed(checkout, name):
    checkout.run("--tests")
    checkout.change(name)
    if "test" in name:
        assert checkout.installed() == []  # not asked for the tests
    (call,) = checkout.installed("--tests")
    assert call.endswith(f"/{name}")


def test_the_libraries_of_a_gpu_are_installed_when_asked_for(checkout):
    checkout.run()
    (call,) = checkout.installed("--gpu")
    assert call.endswith("/requirements-gpu.txt") and "--require-hashes" in call and "--no-deps" in call
    assert checkout.installed("--gpu") == checkout.installed() == []


def test_kernels_are_translated_for_the_gpu_that_is_here_or_named(checkout):
    program = checkout.root / "ascend_scripts" / "translate_kernels.py"
    program.write_text("import sys; print('asked', *sys.argv[1:]); sys.exit(len(sys.argv) > 1)")
    assert "asked" not in checkout.run().stderr
    done = checkout.run("--gpu")
    assert "asked\n" in done.stderr and len(done.stdout.splitlines()) == 1
    done = checkout.run("--gpu", "--chip", "9.0")
    assert "asked --chip 9.0\n" in done.stderr and "were not translated; on a GPU that needs it" in done.stderr
    assert done.returncode == 0  # the driver can do it
    for words in (("--chip", "9.0"), ("--gpu", "--chip", "8.0")):
        done = checkout.run(*words)
        assert done.returncode == 2 and done.stderr.startswith(f"setup: --chip '{words[-1]}': expected 9.0")


def engine_lists(calls):
    """The two lists of the call that installs an engine of another version: what is kept of the first, and its own."""
    (call,) = [call for call in calls if "--require-hashes" in call and "jieba" not in call]
    kept, own = (Path(path).read_text() for path in re.findall(r"-r (.*?requirements[\w.-]*\.txt)", call))
    return tuple(dict(re.findall(r"^([a-z][\w.-]*)==(\S+) ", text, re.MULTILINE)) for text in (kept, own))


@pytest.mark.parametrize(("engine", "version"), [("2.7", "2.7.2"), ("2.8", "2.8.0")])
def test_an_older_engine_is_locked_alone(checkout, engine, version):
    kept, own = engine_lists(checkout.installed("--mindspore", engine))
    assert own == {"mindspore": version} and "mindspore" not in kept


def test_another_engine_replaces_what_its_list_has_and_stays(checkout):
    kept, own = engine_lists(checkout.installed("--mindspore", "2.10"))
    assert own.keys() == {"mindspore", "mindformers"} and kept.keys() == pins("requirements.txt").keys() - own
    assert checkout.installed() == []
    (call,) = checkout.installed("--mindspore=2.9")
    assert call.endswith("-r " + str(checkout.root / "requirements.txt"))
    assert checkout.installed() == []
    result = checkout.run("--mindspore", "2.6")
    assert result.returncode == 2 and result.stderr == "setup: --mindspore '2.6': expected 2.7, 2.8, 2.9 or 2.10\n"


def test_a_compiler_is_installed_where_there_is_none(checkout, no_compiler):
    (call,) = [call for call in checkout.installed(**no_compiler) if call.endswith("compiler.txt")]
    assert "/requirements-compiler.txt" in call and "--require-hashes" in call and "--no-deps" in call
    assert checkout.run(**no_compiler).stderr == "" and checkout.run().stderr == ""  # nor is it missed, nor in the way
    assert checkout.taken_calls() == []
    checkout.change("requirements-compiler.txt")
    assert checkout.run().stderr == "" and checkout.taken_calls() == []
    assert len(checkout.installed(**no_compiler)) == 1


@pytest.mark.parametrize("name", COMPILERS)
def test_an_environment_made_with_a_compiler_gets_one_when_that_has_gone(checkout, no_compiler, tmp_path, name):
    own = tmp_path / "programs" / name
    own.symlink_to(shutil.which("true"))
    assert len(checkout.installed(**no_compiler)) == 3
    own.unlink()
    (call,) = checkout.installed(**no_compiler)
    assert call.endswith("/requirements-compiler.txt")


def test_set_up_goes_on_without_a_compiler_and_tries_it_again(checkout, no_compiler):
    broken = {"PIP_FAILS": "no matching distribution", "PIP_FAILS_ON": "requirements-compiler.txt"}
    for count in (4, 1):  # of all stages; of this one
        result = checkout.run(**no_compiler, **broken)
        assert (result.returncode, result.stdout) == (0, f"{checkout.venv}\n")
        assert [line for line in result.stderr.splitlines() if "twice" in line] == [
            "setup: no C++ compiler could be installed: training on a CPU takes twice as long, generating is slower; "
            "install g++ or clang++, or run this again"
        ]
        assert len(checkout.taken_calls()) == count
    assert checkout.run().stderr == ""  # with a compiler the environment is complete
    assert len(checkout.installed(**no_compiler)) == 1 and checkout.run(**no_compiler).stderr == ""


def test_a_full_disk_costs_the_compiler_only(checkout, no_compiler):
    """What pip leaves half-written would make the next set-up begin afresh."""
    checkout.installed()
    (checkout.root / "ascend_scripts/preflight.py").write_text("raise SystemExit(2)\n")
    result = checkout.run(**no_compiler, MS_CODEGEEX_PREFLIGHT="")
    assert result.returncode == 0 and "no C++ compiler could be installed" in result.stderr
    assert checkout.taken_calls() == [] and checkout.run().stderr == ""


def test_set_up_goes_on_without_the_source_package_and_tries_it_again(checkout):
    broken = {"PIP_FAILS": "no matching distribution", "PIP_FAILS_ON": "requirements-source.txt"}
    result = checkout.run(**broken)
    assert (result.returncode, result.stdout) == (0, f"{checkout.venv}\n")
    assert [line for line in result.stderr.splitlines() if "Trainer" in line] == [
        "setup: jieba could not be installed: mindformers' Trainer will not be available, everything else will"
    ]
    assert [call.rsplit("/")[-1] for call in checkout.taken_calls()][-2:] == ["requirements-source.txt", "a checkout"]
    result = checkout.run("a=1", script="ascend_scripts/run_distributed.sh", **broken)
    config = checkout.root / "configs/codegeex_tiny.yaml"
    assert result.returncode == 7
    assert result.stdout == f"<train><--config><{config}><a=1>{checkout.venv}/bin/python\n"
    assert all(line.startswith("setup: ") for line in result.stderr.splitlines())
    (call,) = checkout.taken_calls()
    assert "--no-binary jieba" in call and call.endswith("requirements-source.txt")
    assert len(checkout.installed()) == 1
    assert checkout.run().stderr == "" and checkout.taken_calls() == []


def test_a_torch_that_cannot_be_imported_is_removed(checkout):
    result = checkout.run("--tests", TORCH_FAILS="1")
    assert result.returncode == 0 and "skipped" in result.stderr
    assert "pip uninstall --yes torch" in checkout.calls.read_text()
    checkout.taken_calls()
    assert checkout.run("--tests").stderr == "" and checkout.taken_calls() == []


def test_failed_download_shows_the_log_and_goes_on_next_time(checkout):
    result = checkout.run(PIP_FAILS="no route to host")
    assert result.returncode == 1
    assert "ERROR: no route to host" in result.stderr and "run again" in result.stderr.splitlines()[-1]
    assert len(checkout.installed()) == 3


def test_killed_installation_is_repaired(checkout):
    checkout.run()
    (checkout.venv / "lib").mkdir()
    (checkout.venv / "lib/half_written").touch()
    assert checkout.run("--tests", PIP_KILLED="requirements-test.txt").returncode != 0
    assert len(checkout.installed()) == 3  # all of it again, in a clean environment
    assert not (checkout.venv / "lib/half_written").exists()


def test_two_at_once_install_once(checkout):
    both = [checkout.start(PIP_SECONDS="0.2") for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(checkout.taken_calls()) == 3
    assert not (checkout.venv / ".ms_codegeex/lock").is_symlink()


def test_lock_of_a_dead_process_is_taken_over(checkout):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    state = checkout.venv / ".ms_codegeex"
    state.mkdir(parents=True)
    host = subprocess.run(["bash", "-c", "printf %s $HOSTNAME"], capture_output=True, text=True, env={}).stdout
    (state / "lock").symlink_to(f"{gone.pid}@{host}")
    assert checkout.run().returncode == 0


def test_interrupt_ends_with_130_and_releases_the_lock(checkout, tmp_path):
    process, calls = checkout.start(PIP_WAITS=str(tmp_path / "go on")), checkout.calls
    wait_for(lambda: process.poll() is not None or (calls.exists() and "pip install" in calls.read_text()))
    process.send_signal(signal.SIGINT)
    (tmp_path / "go on").touch()  # bash acts once the program it waits for has ended
    process.communicate()
    assert process.returncode == 130
    assert not (checkout.venv / ".ms_codegeex/lock").is_symlink()
    assert checkout.run().returncode == 0


def test_a_link_to_another_checkouts_environment_is_left_alone(checkout, tmp_path):
    other = tmp_path / "other" / ".venv"
    (other / ".ms_codegeex").mkdir(parents=True)
    (other / "bin").mkdir()
    (other / ".ms_codegeex/made").touch()
    (other / ".ms_codegeex/location").write_text(f"{other}\n")
    checkout.venv.symlink_to(other)
    result = checkout.run()
    assert result.returncode == 2 and f"is a link to {other}, which serves another checkout" in result.stderr
    assert (other / "bin").is_dir() and (other / ".ms_codegeex/made").is_file()


def test_moved_checkout_is_set_up_anew(checkout):
    checkout.run()
    checkout.root = checkout.root.rename(checkout.root.with_name("elsewhere"))
    checkout.venv = checkout.root / ".venv"
    assert len(checkout.installed()) == 3


def test_directory_that_is_no_environment_is_left_alone(checkout, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/data").touch()
    result = checkout.run("--venv", "mine")
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert os.listdir(tmp_path / "mine") == ["data"]


def test_wrong_python_is_one_line_and_leaves_nothing(checkout, tmp_path):
    result = checkout.run(PYTHON="no-such-python")
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    (tmp_path / "bin").mkdir()
    for tool in ("dirname", "mkdir", "ln", "rm", "rmdir", "ls", "cksum", "bash"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    (tmp_path / "bin/python3").write_text("#!/bin/bash\nexit 9\n")
    (tmp_path / "bin/python3").chmod(0o755)
    result = checkout.run(PYTHON="", PATH=str(tmp_path / "bin"))
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and "no Python 3.10-3.12" in result.stderr
    assert not checkout.venv.exists()


# --- requirements ---


def pins(name: str) -> dict[str, str]:
    """Every requirement of a file with all that belongs to it, by its normalised name."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        package = normalised(re.match(r"[A-Za-z0-9._-]+", line)[0])
        found[package] = found.get(package, "") + line
    return found


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_every_pin_has_a_hash(name):
    for line in pins(name).values():
        assert "==" in line and "--hash=sha256:" in line, line
    text = (ROOT / name).read_text()
    assert not re.search(r"^\s*(-|--\w+-url|--find-links)\s", text, flags=re.MULTILINE) and "://" not in text


def test_the_lists_agree():
    """Each is installed over the one before, so a package in two of them has one version."""
    runtime, source, tests = (
        {package: set(re.findall(r"==([^ ;]+)", line)) for package, line in pins(name).items()}
        for name in ("requirements.txt", "requirements-source.txt", "requirements-test.txt")
    )
    assert pins("requirements-compiler.txt").items() <= pins("requirements-test.txt").items()
    assert list(source) == ["jieba"] and not source.keys() & (runtime.keys() | tests.keys())
    shared = runtime.keys() & tests.keys()
    assert len(shared) > 5 and [package for package in shared if runtime[package] != tests[package]] == []
    assert "torch" not in runtime


@pytest.mark.parametrize(
    "extra, lists", [("", ""), ("all", ""), ("mindformers", ""), ("gpu", "-gpu"), ("test", "-test -test-torch")]
)
def test_every_dependency_is_pinned(extra, lists):
    """Those of the package and of its extras."""
    names = {*requirements(extra)}
    assert len(names) > 1
    assert names <= set().union(*(pins(f"requirements{name}.txt") for name in lists.split(" ")))


def test_no_machine_paths_in_tracked_files():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone, to know which files are tracked")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    machine_path = re.compile(rb"(?<![\w.~-])/(?:root|home/\w+|Users/\w+|work)/[\w.]")
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file():
            found = machine_path.search(path.read_bytes())
            assert found is None, f"{name} names {found[0]!r}"
