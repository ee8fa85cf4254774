#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, for tests: munged, slurmctld and slurmd, all in a folder
# of their own, all on the loopback interface. Run it as root, with Debian's slurm-wlm and munge.
#
#   deploy/test/slurm.sh start FOLDER [CORES]   # then: export SLURM_CONF=FOLDER/slurm.conf
#   deploy/test/slurm.sh stop FOLDER
set -euo pipefail
die() { echo "slurm.sh: $1" >&2; exit 2; }
[ $# -ge 2 ] || die 'usage: slurm.sh start|stop FOLDER [CORES]'
verb=$1 folder=$(realpath -m "$2") cores=${3:-$(env -u OMP_NUM_THREADS nproc)}
export SLURM_CONF=$folder/slurm.conf

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

stop() {
  [ -d "$folder" ] || return 0
  # The node first: it ends the jobs' processes when it is asked to end with its steps.
  [ -e "$SLURM_CONF" ] && timeout 10 scancel --quiet --user="$(id -un)" || true
  for name in slurmd slurmctld munged; do
    [ -s "$folder/$name.pid" ] || continue
    pid=$(<"$folder/$name.pid")
    kill "$pid" 2>&1 || true
    for _ in $(seq 100); do kill -0 "$pid" 2>&1 || break; sleep 0.1; done
    rm -f "$folder/$name.pid"
  done >"$folder/stop.log"
}

start() {
  for program in munged slurmctld slurmd; do
    command -v "$program" >"${TMPDIR:-/tmp}/.which.$$" || die "$program is not installed: apt install slurm-wlm munge"
    rm -f "${TMPDIR:-/tmp}/.which.$$"
  done
  [ "$(id -u)" = 0 ] || die 'slurmd starts as root only'
  # The path of a socket has at most 108 characters, and spool/node1_JOB.STEP is one.
  [ ${#folder} -le 75 ] || die "$folder: the path is too long for sockets. Choose a shorter one"
  mkdir -p "$folder"/{state,spool,munge}
  chmod 711 "$folder/munge"
  [ -e "$folder/munge/key" ] || head -c 128 /dev/urandom >"$folder/munge/key"
  chmod 600 "$folder/munge/key"
  cat >"$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# A container has no control groups to give away: processes are found by their parents, and cores are
# bound by affinity.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# A job that loses its node is queued again (sbatch --requeue).
JobRequeue=1
ReturnToService=2
SlurmdTimeout=5
KillWait=2
MinJobAge=10
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
MpiDefault=none
NodeName=node1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  # --force: the parents of the folder may be closed to other users.
  munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  slurmctld -c
  slurmd -N node1
  for _ in $(seq 150); do
    [ "$(timeout 5 sinfo --noheader --format=%T 2>&1)" = idle ] && return
    sleep 0.2
  done
  tail -n 5 "$folder/slurmctld.log" "$folder/slurmd.log" >&2
  stop
  die 'the node did not become idle within 30 s'
}

case $verb in
  start) start ;;
  stop) stop ;;
  *) die "unknown: $verb" ;;
esac
