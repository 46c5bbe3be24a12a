#!/usr/bin/env bash
# One command from a fresh clone to a trained model: sets up, prepares the corpus, trains on all devices, converts, and
# generates a sample. On a cluster, the one command that every server runs. The work is `ms-codegeex train`; this script
# only sets up and passes the arguments on.
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}

usage() {
    cat <<'EOF'
usage: bash ascend_scripts/run_distributed.sh [--config FILE] [--devices N] [--corpus PATH ...] [--resume auto|DIR]
                                              [--from DIR] [--allow-change KEY]
                                              [--rank-table FILE | --nodes N] [--master-addr HOST:PORT] [--node-rank K]
                                              [--venv DIR] [--dry-run] [--help] [key=value ...]

  --config FILE        the run's YAML (default: configs/codegeex_tiny.yaml)
  --devices N          worker processes (default: the configuration decides)
  --corpus PATH ...    train on the source code in these files and folders (default: what this machine has)
  --resume auto|DIR    continue the run in `output`, or from the checkpoint or run in DIR
  --from DIR           start from the weights of a model directory, run or checkpoint
  --allow-change KEY   resume although this key differs from the checkpoint's; may be repeated
  --venv DIR           virtual environment to make or use (default: .venv of this checkout, or MS_CODEGEEX_VENV)
  --dry-run            print the commands instead of running them; on Ascend and GPU also each process of this server
  key=value            overrides a key of the configuration

on every server of a cluster (docs/cluster.md):
  --rank-table FILE    HCCL rank table of the job (Ascend; default: RANK_TABLE_FILE in the environment);
                       `ms-codegeex rank-table` makes and checks it
  --node-rank K        the number of this server, from 0
  --nodes N            how many servers there are, without a rank table: they are started through msrun
  --master-addr H:P    the address of server 0 at which all servers meet (default with a rank table: port 8118 there)

examples:
  bash ascend_scripts/run_distributed.sh
  bash ascend_scripts/run_distributed.sh --devices 2 training.steps=40
  bash ascend_scripts/run_distributed.sh output=runs/mine --corpus ~/my_project ~/another
  PYTHON=python3.11 bash ascend_scripts/run_distributed.sh --config configs/codegeex_tiny.yaml output=runs/first
  bash ascend_scripts/run_distributed.sh --config configs/codegeex_13b.yaml --rank-table cluster.json --node-rank 3
EOF
}

wrong() {
    printf 'run_distributed.sh: %s; see --help\n' "$*" >&2
    exit 2
}

needs_value() { if (($# < 2)) || [[ $2 == --* ]]; then wrong "$1 needs a value"; fi; }

is_override() { [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_.+-]*= ]]; }

config=$root/configs/codegeex_tiny.yaml
venv=${MS_CODEGEEX_VENV:-$root/.venv} # as in setup.sh
options=() overrides=() corpus=() setup=(bash "$here/setup.sh") cluster=${RANK_TABLE_FILE:+yes} dry_run=
while (($#)); do
    case $1 in
        --config) needs_value "$@"; config=$2; shift 2 ;;
        --config=*) config=${1#*=}; shift ;;
        --devices | --resume | --from | --allow-change) needs_value "$@"; options+=("$1" "$2"); shift 2 ;;
        --devices=* | --resume=* | --from=* | --allow-change=*) options+=("$1"); shift ;;
        --rank-table | --node-rank | --nodes | --master-addr)
            needs_value "$@"
            cluster=yes options+=("$1" "$2")
            shift 2 ;;
        --rank-table=* | --node-rank=* | --nodes=* | --master-addr=*) cluster=yes options+=("$1"); shift ;;
        --venv) needs_value "$@"; venv=$2; setup+=(--venv "$2"); shift 2 ;;
        --venv=*) venv=${1#*=}; setup+=("$1"); shift ;;
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

# All overrides go before --corpus, which takes every word that follows it.
train=(train --config "$config" ${options[@]+"${options[@]}"} ${overrides[@]+"${overrides[@]}"})
if ((${#corpus[@]})); then train+=(--corpus "${corpus[@]}"); fi

print_processes() {  # the processes of this server; for a CPU the line above is enough
    local python device='import sys
from ms_codegeex.config.loading import load_config
print(load_config(sys.argv[1], sys.argv[2:]).device)'
    export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
    python=$venv/bin/python
    if [[ ! -x $python ]]; then
        python=${PYTHON:-python3}
        if ! "$python" -c 'import ms_codegeex.runs.servers.node' 2>/dev/null; then
            [[ -z $cluster ]] || printf 'run_distributed.sh: run setup.sh to see the processes too\n' >&2
            return 0
        fi
        [[ -z $cluster ]] || printf 'run_distributed.sh: not set up yet; %s takes the place of its Python\n' "$python" >&2
    fi
    if [[ -z $cluster && $("$python" -c "$device" "$config" ${overrides[@]+"${overrides[@]}"} 2>&1) == cpu ]]; then
        return 0
    fi
    printf '\n# which starts on this server (as a shell script: ms-codegeex train … --dry-run --script):\n'
    "$python" -m ms_codegeex.cli "${train[@]}" --dry-run | while IFS= read -r line; do printf '# %s\n' "$line"; done
}

if [[ -n $dry_run ]]; then
    # shellcheck disable=SC2016 # lines to copy: the shell that runs them expands them
    printf 'venv=$(%s )\nPATH="$venv/bin:$PATH" "$venv/bin/ms-codegeex"%s\n' \
        "$(printf ' %q' "${setup[@]}")" "$(printf ' %q' "${train[@]}")"
    print_processes
    exit 0
fi

venv=$("${setup[@]}")
export PATH="$venv/bin:$PATH" # MindSpore's launcher is looked up on PATH
export MS_CODEGEEX_SETUP_SECONDS=$SECONDS # for the line at the end that says where the time went
exec "$venv/bin/ms-codegeex" "${train[@]}"
