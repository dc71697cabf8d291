# Runs a real node until it ends or until the pipe on stdin closes, which the kernel does when our parent dies.
# $BRIDGE: the name of the node's bridge and cgroups; $ADDRESS: the bridge's address with the length of its prefix. Stdout
# is not for output: as long as it is open, nobody else uses the name.
bridge=$BRIDGE address=$ADDRESS
exec 3<&0 </dev/null 9>&1 1>&2

# Cgroups are busy until the last killed process is gone. What a killed supervisor left behind goes this way too.
clean() {
    ip link delete "$bridge"
    for attempt in $(seq 100); do
        left=$(find /sys/fs/cgroup/"$bridge" /sys/fs/cgroup/*/"$bridge" -depth -type d ! -exec rmdir {} \; -print)
        [ -z "$left" ] && return
        sleep 0.05
    done
} 2>/dev/null

# The kubelet wants its root cgroup to exist, on cgroup v1 in every hierarchy.
prepare() {
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        # Where systemd runs, most are on already; they stay on.
        for controller in cpu cpuset hugetlb io memory pids; do
            echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
        done 2>/dev/null
        mkdir "/sys/fs/cgroup/$bridge"
    else
        while read -r _ folder type _; do
            if [ "$type" = cgroup ]; then mkdir -p "$folder/$bridge" || return; fi
        done </proc/self/mounts
    fi && ip link add "$bridge" type bridge && ip address add "$address" dev "$bridge" && ip link set "$bridge" up
}

clean
if ! prepare; then
    clean
    exit 1
fi
# Process 1 of a PID namespace takes all others along: kubelet, containerd, shims and containers.
unshare --mount --mount-proc --pid --fork --kill-child "$@" 3<&- 9>&- & child=$!
{ read -r _ <&3; kill -KILL "$child"; } 2>/dev/null & watcher=$!
exec 3<&-
wait "$child"; status=$?
kill -KILL "$watcher" 2>/dev/null
clean
exit "$status"
