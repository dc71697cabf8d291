# The real node: process 1 of its own PID namespace, in its own mount namespace. What it mounts goes with it.
# $1: the folder with the node's files; $2: the kubelet; $3: the folder with the CNI plugins; then the kubelet's flags.
set -eu
files=$1 kubelet=$2 plugins=$3
shift 3

# Short, fixed paths, whatever the machine's folders are called and whatever is covered below.
: >"$files/kubelet"
mkdir -p "$files/plugins"
mount --bind "$kubelet" "$files/kubelet"
mount --bind "$plugins" "$files/plugins"
mount --rbind "$files" /mnt

# Everything that containerd, its shims, CNI and the kubelet write lands in memory and is not the machine's.
for folder in /run /var/lib /var/log; do
    mount -t tmpfs -o mode=755 tmpfs "$folder"
done
# The kubelet and CNI set these for the whole machine; here they set a copy.
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes net/ipv4/ip_forward; do
    if [ -f "/proc/sys/$name" ]; then
        copy=/run/sysctl-$(echo "$name" | tr / -)
        cat "/proc/sys/$name" >"$copy"
        mount --bind "$copy" "/proc/sys/$name"
    fi
done

# The node ends with either of its servers, unless the kubelet was to be killed. Process 1 gets only signals that it has a
# trap for.
trap 'exit 1' TERM
{ containerd --config /mnt/containerd.toml || true; echo "containerd has ended"; kill -TERM 1; } &
attempt=0
until ctr version >/dev/null 2>&1; do
    attempt=$((attempt + 1))
    [ "$attempt" -lt 400 ]
    sleep 0.05
done
ctr --namespace k8s.io images import /mnt/images.tar
mkfifo /mnt/restart-kubelet
exec 5<>/mnt/restart-kubelet
{
    while true; do
        /mnt/kubelet "$@" 5>&- & echo $! >/mnt/kubelet.pid
        wait $! || true
        [ -e /run/restart-kubelet ] || break
        rm /run/restart-kubelet
    done
    echo "the kubelet has ended"
    kill -TERM 1
} &
# Each line that is written here kills the kubelet, which is then started again.
while read -r _ <&5; do
    touch /run/restart-kubelet
    kill -KILL "$(cat /mnt/kubelet.pid)" || true
done &
wait
