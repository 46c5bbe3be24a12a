#!/usr/bin/env bash
# Makes the virtual environment that this checkout runs in, or does nothing when it is already right. Prints its path on
# standard output, everything else on standard error. run_distributed.sh and tests/run.sh start with it.
# Needs only bash, coreutils and Python 3.10-3.12.
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}

usage() {
    cat <<'EOF'
usage: bash ascend_scripts/setup.sh [--venv DIR] [--mindspore 2.7|2.8|2.9|2.10] [--gpu [--chip 9.0]] [--tests] [--help]

Installs what ms_codegeex needs into .venv of this checkout; a second run changes nothing and needs no network.
  --venv DIR   use this virtual environment instead (also: MS_CODEGEEX_VENV=DIR)
  --mindspore  the engine's version: the one that your CANN asks for (docs/hardware.md). A new environment gets 2.9;
               later runs keep what is there
  --gpu        also install NVIDIA's CUDA libraries, so that a GPU needs its driver only (1.7 GB to download), and
               translate MindSpore's kernels if the GPU is newer than they are (minutes; 0.8 GB)
  --chip       with --gpu: the compute capability to translate for, where the GPU is not there yet
  --tests      also install what the tests need
environment:
  PYTHON                        the Python 3.10-3.12 that makes the environment (default: python3, then python3.12 ... 3.10)
  MS_CODEGEEX_PREFLIGHT=skip    do not check disk, memory and libraries first
  PIP_INDEX_URL, PIP_PROXY ...  pip's own settings for mirrors, proxies and certificates are respected
EOF
}

say() { printf 'setup: %s\n' "$*" >&2; }

die() {  # die STATUS MESSAGE (2: for the user to change, 1: failed)
    local status=$1
    shift
    say "$*"
    exit "$status"
}

venv=${MS_CODEGEEX_VENV:-$root/.venv}
gpu=() tests=() engine='' chip=''
while (($#)); do
    case $1 in
        --venv) (($# > 1)) || die 2 "--venv needs a directory"; venv=$2; shift 2 ;;
        --venv=*) venv=${1#*=}; shift ;;
        --mindspore) (($# > 1)) || die 2 "--mindspore needs a version"; engine=$2; shift 2 ;;
        --mindspore=*) engine=${1#*=}; shift ;;
        --gpu) gpu=(gpu); shift ;;
        --chip) (($# > 1)) || die 2 "--chip needs a compute capability"; chip=$2; shift 2 ;;
        --tests) tests=(tests torch); shift ;;
        -h | --help) usage; exit 0 ;;
        *) die 2 "unknown argument '$1'; --help shows what there is" ;;
    esac
done
case $engine in
    '' | 2.7 | 2.8 | 2.9 | 2.10) ;;
    *) die 2 "--mindspore '$engine': expected 2.7, 2.8, 2.9 or 2.10" ;;
esac
[[ -z $chip || ( $chip == 9.0 && -n ${gpu[*]-} ) ]] ||
    die 2 "--chip '$chip': expected 9.0 (H100, H200), with --gpu; older GPUs need no translation, newer ones are not known"
# Whether a compiler is needed is decided by today's PATH. One that was installed stays when another has come; where the
# one that was there has gone, the next set-up installs one, and goes on without it if it cannot.
compiler=()
command -v g++ clang++ c++ >/dev/null || compiler=(compiler)
stages=(runtime source package ${compiler[@]+"${compiler[@]}"} ${gpu[@]+"${gpu[@]}"} ${tests[@]+"${tests[@]}"})
[[ $venv == /* ]] || venv=$PWD/$venv
venv=${venv%/}
python=$venv/bin/python
state=$venv/.ms_codegeex # location, mindspore, made, installing, lock, pip.log, and one file per finished stage

# Keep the caller's Python settings out of the installation, and pip settings that change what is installed or where.
# Mirrors, proxies, certificates and the cache stay as they are. The exported ones also win over a pip.conf.
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP PIP_TARGET PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_REQUIREMENT PIP_EDITABLE \
    PIP_DRY_RUN PIP_PYTHON PIP_NO_BINARY PIP_ONLY_BINARY PIP_PLATFORM PIP_UPGRADE PIP_FORCE_REINSTALL PIP_PRE \
    PIP_IGNORE_INSTALLED PIP_QUIET PIP_VERBOSE PIP_LOG PIP_REPORT PIP_NO_DEPS PIP_NO_COMPILE PIP_NO_BUILD_ISOLATION
export PIP_USER=0 PIP_REQUIRE_HASHES=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# --- what is there ---

read_file() { [[ -f $1 ]] && printf '%s' "$(<"$1")"; }

engine=${engine:-$(read_file "$state/mindspore" || echo 2.9)}
other_engine=$root/requirements-mindspore-$engine.txt # what it replaces in requirements.txt, which is for 2.9

key() {  # what a stage depends on; when it changes, the stage is done again
    printf 'Python %s ' "$version"
    case $1 in
        runtime) cksum <"$root/requirements.txt"; [[ $engine == 2.9 ]] || cksum <"$other_engine" ;;
        source) cksum <"$root/requirements-source.txt" ;;
        package) printf '%s ' "$root"; cksum <"$root/pyproject.toml" ;;
        compiler) cksum <"$root/requirements-compiler.txt" ;;
        gpu) cksum <"$root/requirements-gpu.txt" ;;
        tests) cksum <"$root/requirements-test.txt" ;;
        torch) cksum <"$root/requirements-test-torch.txt" ;;
    esac
}

finished() { [[ $(read_file "$state/$1") == "$(key "$1")" ]]; }

sound() {  # a working environment at the place it was made for, with no installation broken off in it
    version=$("$python" -I -S -c 'import sys; print(*sys.version_info[:3], sep=".")' 2>/dev/null) &&
        [[ ! -e $state/installing && $(read_file "$state/location") == "$venv" ]]
}

complete() {
    local stage
    sound || return
    for stage in "${stages[@]}"; do finished "$stage" || return; done
}

# --- one set-up at a time ---

lock() {  # a symbolic link is made in one step together with its content: process@host
    local owner announced=
    until ln -s "$$@${HOSTNAME:-}" "$state/lock" 2>/dev/null; do
        owner=$(readlink "$state/lock") || owner=
        if [[ $owner == *"@${HOSTNAME:-}" && ! -e /proc/${owner%%@*} ]] && ! kill -0 "${owner%%@*}" 2>/dev/null; then
            # Its process is gone. The lock is renamed before it is removed, so that only one of two waiting set-ups
            # removes it.
            mv "$state/lock" "$state/lock.$$" 2>/dev/null || continue
            [[ $(readlink "$state/lock.$$") == "$owner" ]] || mv "$state/lock.$$" "$state/lock"
            rm -f "$state/lock.$$"
            continue
        fi
        [[ -w $state ]] || die 1 "cannot write to $state"
        [[ -n $announced ]] ||
            say "another set-up is at work (process ${owner:-unknown}); waiting. If it is gone, remove $state/lock"
        announced=1
        sleep 1
    done
    # Leave nothing half-made: rmdir removes only what is still empty.
    trap 'rm -f "$state/lock"; rmdir "$state" "$venv" 2>/dev/null || true' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# --- making the environment ---

find_python() {  # prints the first interpreter that fits, else the one that comes nearest, for preflight.py to judge
    local name path status near='' far='' judge='
import importlib.util, sys
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(4 if sys.version_info >= (3, 7) else 5)
sys.exit(0 if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip") else 3)'
    if [[ -n ${PYTHON:-} ]]; then
        command -v -- "$PYTHON" || die 2 "PYTHON=$PYTHON was not found; name a Python 3.10, 3.11 or 3.12"
        return
    fi
    # python3 first: it is the one the user has chosen (an active environment, a version manager).
    for name in python3 python3.12 python3.11 python3.10 python; do
        path=$(command -v "$name") || continue
        status=0
        "$path" -I -c "$judge" >/dev/null 2>&1 || status=$?
        case $status in
            0) printf '%s\n' "$path"; return ;;
            3) near=${near:-$path} ;; # the right version, without the modules that make an environment
            4) far=${far:-$path} ;;   # another version, but new enough to run preflight.py
        esac
    done
    [[ -n $near$far ]] || die 2 'no Python 3.10-3.12 was found: install one (apt install python3.11 python3.11-venv, or' \
        'python.org), or name it with PYTHON=/path/to/python3.11'
    printf '%s\n' "${near:-$far}"
}

preflight() {  # preflight PYTHON [arguments]
    local interpreter=$1
    shift
    [[ ${MS_CODEGEEX_PREFLIGHT:-} != skip ]] || return 0
    "$interpreter" -I -B "$here/preflight.py" "$venv" "$@" ||
        die 2 "nothing was installed; get the above and run the same command again (MS_CODEGEEX_PREFLIGHT=skip tries anyway)"
}

make_venv() {
    local interpreter other
    other=$(read_file "$state/location") || other=
    if [[ -L $venv && $other != "$venv" && $other -ef $venv ]]; then
        die 2 "$venv is a link to $other, which serves another checkout; remove the link, or set MS_CODEGEEX_VENV=$other"
    fi
    if [[ -e $state/made ]]; then  # ours: broken off, moved, or its Python has gone
        say "the environment in $venv is unfinished or was moved; making it anew"
        rm -rf -- "${venv:?}"/{bin,include,lib,lib64,share,etc,pyvenv.cfg} "$state"/{runtime,source,package,compiler,gpu,tests,torch}
    elif [[ -n $version ]]; then  # somebody else's: used as it is; an installation broken off in it is written again
        preflight "$python"
        if [[ -e $state/location ]]; then again=--ignore-installed; fi
        rm -f -- "$state"/{runtime,source,package,compiler,gpu,tests,torch}
        printf '%s\n' "$venv" >"$state/location"
        return
    elif [[ -e $venv/pyvenv.cfg ]]; then
        die 2 "the Python of $venv does not work; remove that directory and run again"
    fi
    interpreter=$(find_python)
    preflight "$interpreter" --new
    say "making a virtual environment in $venv with $interpreter"
    : >"$state/made"
    : >"$state/installing"
    printf '%s\n' "$venv" >"$state/location"
    "$interpreter" -I -m venv "$venv" >"$state/pip.log" 2>&1 || failed "the virtual environment could not be made"
    sound || [[ -n $version ]] || die 1 "$python does not run"
}

failed() {  # failed MESSAGE: the log's last lines, then one line
    tail -n 12 "$state/pip.log" >&2 || true
    die 1 "$1 (the whole log: $state/pip.log)"
}

pip_install() {  # pip_install ARGUMENTS: pip's words to the log; of them only the long downloads to the terminal
    local line
    "$python" -I -m pip install --progress-bar off "$@" 2>&1 | while IFS= read -r line; do
        printf '%s\n' "$line" >>"$state/pip.log"
        if [[ $line =~ Downloading\ ([^\ ]+)\ \(([0-9.]+)\ (MB|GB)\) ]]; then
            [[ ${BASH_REMATCH[3]} == MB && ${BASH_REMATCH[2]%%.*} -lt 20 ]] ||
                say "  downloading ${BASH_REMATCH[1]##*/}, ${BASH_REMATCH[2]} ${BASH_REMATCH[3]}"
        elif [[ $line == 'Installing collected packages'* ]]; then
            say '  unpacking'
        fi
    done
}

without_replaced() {  # requirements.txt without the packages that another engine's list has
    local line keeps=yes others
    others=$(<"$other_engine")
    while IFS= read -r line; do
        if [[ $line == [a-z]* ]]; then
            if [[ $others == *$'\n'"${line%%==*}=="* ]]; then keeps=; else keeps=yes; fi
        fi
        [[ -z $keeps ]] || printf '%s\n' "$line"
    done <"$root/requirements.txt"
}

install() {  # install STAGE
    local sources=()
    case $1 in
        runtime)
            say 'installing MindSpore and the other requirements: about 1 GB to download, takes a few minutes'
            if [[ $engine == 2.9 ]]; then
                sources=(-r "$root/requirements.txt")
            else
                without_replaced >"$state/requirements.txt"
                sources=(-r "$state/requirements.txt" -r "$other_engine")
            fi
            pip_install $again --no-deps --require-hashes --only-binary :all: "${sources[@]}" &&
                printf '%s\n' "$engine" >"$state/mindspore" ;;
        source)
            # By pip's newer way of building, which every pip that comes with Python 3.10 has but not all take unasked.
            say 'installing jieba, which mindformers imports and which has to be built'
            pip_install $again --no-deps --no-build-isolation --use-pep517 --require-hashes --no-binary jieba \
                -r "$root/requirements-source.txt" ;;
        package)
            say 'installing ms_codegeex from this checkout'
            pip_install $again --no-deps --no-build-isolation --no-index -e "$root" ;;
        compiler)
            say 'installing a C++ compiler (ziglang), since there is none: 0.1 GB to download, 0.4 GB unpacked'
            # A full disk would break pip off in the middle, and this stage must not spoil the environment.
            { [[ ${MS_CODEGEEX_PREFLIGHT:-} == skip ]] ||
                "$python" -I -B "$here/preflight.py" "$venv" --disk 1 --memory 0 >>"$state/pip.log" 2>&1; } &&
                pip_install $again --no-deps --require-hashes --only-binary :all: -r "$root/requirements-compiler.txt" ;;
        gpu)
            say "installing NVIDIA's CUDA libraries: about 1.7 GB to download, 2.8 GB unpacked"
            pip_install $again --no-deps --require-hashes --only-binary :all: -r "$root/requirements-gpu.txt" ;;
        tests)
            say 'installing the requirements of the tests'
            pip_install $again --no-deps --require-hashes --only-binary :all: -r "$root/requirements-test.txt" ;;
        torch)
            # Without an index of the user's own, PyTorch's CPU builds are looked at too: 0.2 GB instead of 0.9.
            [[ $OSTYPE != linux* || $("$python" -I -m pip config list) =~ (index-url|find-links|no-index) ]] ||
                sources=(--extra-index-url https://download.pytorch.org/whl/cpu)
            say 'installing PyTorch for the tests that compare with it'
            pip_install $again --no-deps --require-hashes --only-binary :all: ${sources[@]+"${sources[@]}"} \
                -r "$root/requirements-test-torch.txt" &&
                drop_unusable_torch ;;
    esac
}

drop_unusable_torch() {  # a package that is there but cannot be imported would fail tests instead of skipping them
    if "$python" -I -c 'import torch' >>"$state/pip.log" 2>&1; then return; fi
    "$python" -I -m pip uninstall --yes torch >>"$state/pip.log" 2>&1
    say 'this build of PyTorch cannot be imported (CUDA without its libraries?) and was removed; the tests that need it'
    say 'will be skipped. requirements-test-torch.txt says how to get the CPU build'
}

setup() {
    local stage
    version='' again=''
    rm -rf "$state/tmp" # what a killed set-up unpacked
    if ! sound; then make_venv
    elif ! finished runtime; then preflight "$python"
    elif [[ ${stages[*]} == *gpu* ]] && ! finished gpu; then preflight "$python" --disk 6
    elif [[ ${stages[*]} == *tests* ]]; then preflight "$python" --disk 3
    fi
    "$python" -I -m pip --version >/dev/null 2>&1 || "$python" -I -m ensurepip >"$state/pip.log" 2>&1 ||
        failed 'pip could not be installed'
    # Wheels are unpacked next to the environment: /tmp is often too small for MindSpore.
    export TMPDIR=$state/tmp
    mkdir -p "$TMPDIR"
    for stage in "${stages[@]}"; do
        if finished "$stage"; then continue; fi
        rm -f "$state/$stage"
        : >"$state/installing"
        : >"$state/pip.log"
        if install "$stage"; then
            key "$stage" >"$state/$stage"
            continue
        fi
        # As long as pip was only downloading, nothing is broken and the next run just goes on.
        [[ $(<"$state/pip.log") == *'Installing collected packages'* ]] || rm -f "$state/installing"
        [[ $stage == @(source|compiler|torch) && ! -e $state/installing ]] ||
            failed "pip could not install; check the network or the package index (pip config list) and run again"
        case $stage in # nothing else needs these; the next run tries again
            source) say "jieba could not be installed: mindformers' Trainer will not be available, everything else will" ;;
            compiler)
                say 'no C++ compiler could be installed: training on a CPU takes twice as long, generating is slower;' \
                    'install g++ or clang++, or run this again' ;;
            torch) say 'PyTorch could not be installed; the tests that need it will be skipped' ;;
        esac
    done
    rm -rf "$state/installing" "$TMPDIR"
    say "ready: $venv (${SECONDS} s)"
}

if ! complete; then
    if [[ -e $venv && ! -d $venv ]]; then die 2 "$venv is not a directory"; fi
    if [[ -d $venv && ! -e $venv/pyvenv.cfg && ! -e $state && -n $(ls -A -- "$venv") ]]; then
        die 2 "$venv is neither empty nor a virtual environment; name another directory"
    fi
    mkdir -p -- "$state" || die 2 "cannot write to $venv"
    lock
    complete || setup # another set-up may have done it while we waited
fi
if [[ -n ${gpu[*]-} ]]; then  # a translation that was broken off goes on
    "$python" -B "$here/translate_kernels.py" ${chip:+--chip "$chip"} >&2 ||
        say "MindSpore's kernels were not translated; on a GPU that needs it, the driver does so at the first start"
fi
printf '%s\n' "$venv"
