#!/bin/bash
#SBATCH --job-name=<name>
#SBATCH --nodes=<servers>
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --output=<name>-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@<seconds>
# Submit it in this folder, on a file system that all servers share, from a shell in which `ms-codegeex` runs: the job
# inherits its variables. A requeued job resumes from its newest checkpoint. Before its time limit the job gets SIGTERM
# and saves; submit it again to continue.
# The servers of the rank table must be those of the job, in the same order: server K of the table is the K-th host,  #only table
# both from 0 (see "scontrol show hostnames").  #only table
set -euo pipefail

train=(<command>)
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")  #only address
train+=(--nodes <servers> --master-addr "${hosts[0]}:<port>")  #only address
# One task per server, with all its cores; server 0 may still export long after the others have ended (--wait=0).
srun --kill-on-bad-exit=1 --wait=0 --cpu-bind=none bash -c 'exec "$@" --node-rank "$SLURM_NODEID"' task "${train[@]}"
