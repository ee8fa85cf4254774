#!/usr/bin/env bash
# Submit the missing shards of a plan to SLURM, at most AT_ONCE (100) at the same time. Once they have
# ended, run it again: it submits what is still missing, and nothing if that is nothing.
#
#   deploy/slurm.sh PLAN [AT_ONCE] [SBATCH OPTION...]
set -euo pipefail
plan=$1 at_once=${2:-100}
shift $(($# > 2 ? 2 : $#))
# SLURM numbers the tasks of an array from 0 to MaxArraySize - 1, by default 1,000.
most=$(scontrol show config | awk '$1 == "MaxArraySize" { print $3 }')
missing=$(stallscan status "$plan" --missing)
for first in $(awk -v most="$most" 'NF { print int($1 / most) * most }' <<<"$missing" | sort -nu); do
  tasks=$(awk -v first="$first" -v most="$most" \
    'NF && $1 >= first && $1 < first + most { print $1 - first }' <<<"$missing" | paste -sd,)
  sbatch --array="$tasks%$at_once" --export="ALL,PLAN=$plan,FIRST=$first" "$@" \
    "$(dirname "$0")/slurm.sbatch"
done
