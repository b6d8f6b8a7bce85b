# Peers of scripts/bench compare: each is a set of functions NAME_up, NAME_remount
# and NAME_down over a folder of its own. Sourced, not run.
# shellcheck shell=bash

# The peers live in a network namespace: MooseFS refuses 127.0.0.1, and nothing
# of theirs is reachable from elsewhere or meets daemons that run on this machine.
peer_netns=''
peer_ip=10.77.0.1

# in_netns runs a command in the peers' network; mounts that it makes are seen
# outside, which `ip netns exec` would hide.
in_netns() { nsenter --net="/run/netns/$peer_netns" -- "$@"; }

netns_up() {
  peer_netns="dfs-bench-$$"
  ip netns add "$peer_netns"
  ip -n "$peer_netns" link set lo up
  ip -n "$peer_netns" link add veth-bench type veth peer name veth-peer
  ip -n "$peer_netns" addr add "$peer_ip/24" dev veth-bench
  ip -n "$peer_netns" link set veth-bench up
  ip -n "$peer_netns" link set veth-peer up
}

# netns_down ends what still runs in the namespace, which is ours alone, and
# removes it.
netns_down() {
  [[ -n "$peer_netns" ]] || return 0
  local pids
  for _ in 1 2 3; do
    pids=$(ip netns pids "$peer_netns" 2>/dev/null || true)
    [[ -n "$pids" ]] || break
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null || true
    sleep 0.5
  done
  ip netns del "$peer_netns" 2>/dev/null || true
  peer_netns=''
}

# wait_for SECONDS WHAT COMMAND... waits until the command succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { echo "scripts/bench: $what: not within the time allowed" >&2; return 1; }
    sleep 0.2
  done
}

# umount_wait unmounts, by force when it must, and waits for the mount's process.
umount_wait() {
  mountpoint -q "$1" || return 0
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    umount "$1" 2>/dev/null && return 0
    sleep 0.3
  done
  umount -l "$1"
}

# --- GlusterFS, replica 3: three bricks on this machine ----------------------

gluster_cli() { in_netns gluster --mode=script --glusterd-sock="$1/glusterd.socket" "${@:2}"; }

gluster_up() {
  local dir=$1
  mkdir -p "$dir"/{work,run,mnt,brick-1,brick-2,brick-3}
  cat >"$dir/glusterd.vol" <<VOL
volume management
    type mgmt/glusterd
    option working-directory $dir/work
    option run-directory $dir/run
    option transport-type socket
    option transport.socket.listen-port 24007
    option glusterd-sockfile $dir/glusterd.socket
    option event-threads 1
    option max-port 60999
end-volume
VOL
  in_netns glusterd -f "$dir/glusterd.vol" -p "$dir/glusterd.pid" -l "$dir/glusterd.log"
  wait_for 30 "glusterd answering" gluster_cli "$dir" volume list
  gluster_cli "$dir" volume create bench replica 3 \
    "$peer_ip:$dir/brick-1/b" "$peer_ip:$dir/brick-2/b" "$peer_ip:$dir/brick-3/b" force >/dev/null
  gluster_cli "$dir" volume start bench >/dev/null
  gluster_mount "$dir"
}

gluster_mount() {
  in_netns glusterfs --volfile-server="$peer_ip" --volfile-id=bench -l "$1/mount.log" "$1/mnt"
  wait_for 30 "the GlusterFS mount" mountpoint -q "$1/mnt"
  wait_for 30 "all GlusterFS bricks connected" gluster_connected "$1"
}

# A replica that is not connected yet would make the numbers better than they are.
gluster_connected() {
  local n=0 f
  rm -f "$1/mnt/.probe"
  : >"$1/mnt/.probe" || return 1
  for f in "$1"/brick-?/b/.probe; do [[ -e "$f" ]] && n=$((n + 1)); done
  rm -f "$1/mnt/.probe"
  ((n == 3))
}

gluster_remount() {
  umount_wait "$1/mnt"
  gluster_mount "$1"
}

gluster_down() { umount_wait "$1/mnt"; }

gluster_version() { glusterfs --version | sed -n '1s/^glusterfs \([^ ]*\).*/\1/p'; }

# --- MooseFS, goal 3: a master and three chunk servers -----------------------

moosefs_up() {
  local dir=$1 i
  mkdir -p "$dir"/{master,mnt}
  printf 'MFSM NEW' >"$dir/master/metadata.mfs"
  echo '* / rw,alldirs,maproot=0' >"$dir/mfsexports.cfg"
  : >"$dir/mfstopology.cfg"
  cat >"$dir/mfsmaster.cfg" <<CFG
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = $dir/master
EXPORTS_FILENAME = $dir/mfsexports.cfg
TOPOLOGY_FILENAME = $dir/mfstopology.cfg
NICE_LEVEL = 0
CFG
  in_netns mfsmaster -c "$dir/mfsmaster.cfg" start >"$dir/master.log" 2>&1
  for i in 1 2 3; do
    mkdir -p "$dir/chunk-$i/data" "$dir/chunk-$i/state"
    echo "$dir/chunk-$i/data" >"$dir/chunk-$i/mfshdd.cfg"
    cat >"$dir/chunk-$i/mfschunkserver.cfg" <<CFG
WORKING_USER = root
WORKING_GROUP = root
DATA_PATH = $dir/chunk-$i/state
HDD_CONF_FILENAME = $dir/chunk-$i/mfshdd.cfg
MASTER_HOST = $peer_ip
CSSERV_LISTEN_PORT = $((9500 + i))
NICE_LEVEL = 0
CFG
    in_netns mfschunkserver -c "$dir/chunk-$i/mfschunkserver.cfg" start >"$dir/chunk-$i.log" 2>&1
  done
  moosefs_mount "$dir"
  in_netns mfssetgoal -r 3 "$dir/mnt" >/dev/null
  wait_for 60 "MooseFS keeping three copies" moosefs_three "$dir"
}

# The master gives a chunk to a server some seconds after the server has come.
moosefs_three() {
  rm -f "$1/mnt/.probe"
  echo probe >"$1/mnt/.probe" || return 1
  local ok=1
  in_netns mfsfileinfo "$1/mnt/.probe" | grep -q 'copy 3' || ok=0
  rm -f "$1/mnt/.probe"
  ((ok))
}

moosefs_mount() {
  in_netns mfsmount "$1/mnt" -H "$peer_ip" -P 9421 >>"$1/mount.log" 2>&1
  wait_for 30 "the MooseFS mount" mountpoint -q "$1/mnt"
}

moosefs_remount() {
  umount_wait "$1/mnt"
  moosefs_mount "$1"
}

moosefs_down() {
  umount_wait "$1/mnt"
  local i
  for i in 1 2 3; do
    in_netns mfschunkserver -c "$1/chunk-$i/mfschunkserver.cfg" stop >/dev/null 2>&1 || true
  done
  in_netns mfsmaster -c "$1/mfsmaster.cfg" stop >/dev/null 2>&1 || true
}

moosefs_version() { mfsmaster -v 2>&1 | sed -n '1s/^version: \([^ ]*\).*/\1/p'; }
