#!/usr/bin/env bash
# One command from a fresh clone to a trained model: sets up, prepares the corpus, trains on all devices, converts, and
# generates a sample. The work is `ms-codegeex train`; this script only sets up and hands the arguments on.
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}

usage() {
    cat <<'EOF'
usage: bash ascend_scripts/run_distributed.sh [--config FILE] [--devices N] [--corpus PATH ...] [--resume auto|DIR]
                                              [--venv DIR] [--dry-run] [--help] [key=value ...]

  --config FILE        the run's YAML (default: configs/codegeex_tiny.yaml)
  --devices N          worker processes (default: the configuration decides)
  --corpus PATH ...    train on the source code in these files and folders (default: what is on this machine)
  --resume auto|DIR    continue the run in `output`, or from the checkpoint or run in DIR
  --venv DIR           virtual environment to make or use (default: .venv of this checkout, or MS_CODEGEEX_VENV)
  --dry-run            print the commands instead of running them
  key=value            overrides a key of the configuration

examples:
  bash ascend_scripts/run_distributed.sh
  bash ascend_scripts/run_distributed.sh --devices 2 training.steps=40
  bash ascend_scripts/run_distributed.sh output=runs/mine --corpus ~/my_project ~/another
  PYTHON=python3.11 bash ascend_scripts/run_distributed.sh --config configs/codegeex_tiny.yaml output=runs/first
EOF
}

wrong() {
    printf 'run_distributed.sh: %s; --help shows what there is\n' "$*" >&2
    exit 2
}

needs_value() { if (($# < 2)) || [[ $2 == --* ]]; then wrong "$1 needs a value"; fi; }

is_override() { [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_.]*= ]]; }

config=$root/configs/codegeex_tiny.yaml
options=() overrides=() corpus=() setup=(bash "$here/setup.sh") dry_run=
while (($#)); do
    case $1 in
        --config) needs_value "$@"; config=$2; shift 2 ;;
        --config=*) config=${1#*=}; shift ;;
        --devices | --resume) needs_value "$@"; options+=("$1" "$2"); shift 2 ;;
        --devices=* | --resume=*) options+=("$1"); shift ;;
        --venv) needs_value "$@"; setup+=(--venv "$2"); shift 2 ;;
        --venv=*) setup+=("$1"); shift ;;
        --corpus)
            needs_value "$@"
            shift
            while (($#)) && [[ $1 != --* ]] && ! is_override "$1"; do corpus+=("$1"); shift; done ;;
        --corpus=*) corpus+=("${1#*=}"); shift ;;
        --dry-run) dry_run=yes; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) wrong "unknown flag '$1'" ;;
        *) is_override "$1" || wrong "'$1' is neither a flag nor key=value"; overrides+=("$1"); shift ;;
    esac
done

# The overrides stand together and before --corpus, which takes every word that follows it.
train=(train --config "$config" ${options[@]+"${options[@]}"} ${overrides[@]+"${overrides[@]}"})
if ((${#corpus[@]})); then train+=(--corpus "${corpus[@]}"); fi

if [[ -n $dry_run ]]; then
    # shellcheck disable=SC2016 # lines to copy: the shell they are given to expands them
    printf 'venv=$(%s )\nPATH="$venv/bin:$PATH" "$venv/bin/ms-codegeex"%s\n' \
        "$(printf ' %q' "${setup[@]}")" "$(printf ' %q' "${train[@]}")"
    exit 0
fi

venv=$("${setup[@]}")
export PATH="$venv/bin:$PATH" # MindSpore's launcher is looked up there
exec "$venv/bin/ms-codegeex" "${train[@]}"
