#!/usr/bin/env bash
# A Slurm of one machine, of its own and on loopback, to try things on: real daemons, nothing of the system's touched.
#
#     scripts/slurm/loopback.sh start FOLDER [CPUS]     munged, slurmctld, slurmd with all their files below FOLDER
#     export SLURM_CONF=FOLDER/slurm.conf               now sbatch, srun, squeue, sacct-free status work
#     scripts/slurm/loopback.sh stop FOLDER             end them; the folder stays
#
# Debian's packages slurm-wlm and munge are enough; the daemons run as whoever starts them, in tests root.
set -euo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
what=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
cpus=${3:-2}
PATH=$PATH:/usr/sbin:/sbin

end() { # a daemon by its own pid file
    local file=$folder/$1.pid pid
    [ -s "$file" ] || return 0
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

case $what in
stop)
    for daemon in slurmd slurmctld munged; do end "$daemon"; done
    ;;
start)
    for program in munged slurmctld slurmd sbatch srun; do
        command -v "$program" >/dev/null || {
            echo "loopback: $program is missing (Debian: apt-get install --no-install-recommends slurm-wlm munge)" >&2
            exit 1
        }
    done
    user=$(id -un)
    host=$(hostname -s)
    # The keys are of this folder alone.
    umask 077
    mkdir -p "$folder"/{state,spool,log,munge}
    chmod 0755 "$folder" "$folder/munge"
    head -c 1024 /dev/urandom >"$folder/munge.key"
    chmod 0400 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge/socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed" --num-threads=2
    umask 022
    cat >"$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
# So many cores as said, whatever the machine has.
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
MinJobAge=600
KillWait=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
    export SLURM_CONF=$folder/slurm.conf
    slurmctld -c
    slurmd -c
    for _ in $(seq 300); do
        sinfo --noheader --format=%t 2>/dev/null | grep -q '^idle$' && exit 0
        sleep 0.1
    done
    echo "loopback: the node does not come up; see $folder/log" >&2
    tail -n 20 "$folder/log"/slurm*.log >&2 || true
    exit 1
    ;;
*) usage ;;
esac
