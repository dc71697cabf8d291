#!/usr/bin/env bash
# The story of the project on a fresh devcluster. `make demo` builds what this needs and calls it.
#
#   BIN    folder with the binaries devcluster and sidecarset-operator (default target/release)
#   NODE   real: one node that runs containers, instead of simulated ones; devcluster/README.md says what it needs
#   KEEP   not empty: leave the cluster and the operator running at the end
#
# With a real node an agent's log shows more: it reads what the application writes, before and after its upgrade.
# Every wait has a deadline; any step that does not happen ends the demo with a message and a non-zero status.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

BIN=$(realpath "${BIN:-target/release}")
NODE=${NODE:-}
KEEP=${KEEP:-}
SAMPLE=config/samples/fluentd-logs.yaml
SET=log-agent
PODS=20
BUDGET=4 # maxUnavailable: 20% of 20 pods
OLD_IMAGE=fluent/fluentd:v1.17-1
NEW_IMAGE=fluent/fluentd:v1.18-1
BAD_IMAGE=fluent/fluentd:nopull # the simulated kubelets answer ErrImagePull to this tag
APP_IMAGE=nginx:1.27
KUBELETS="simulated kubelets"
LOG=/var/log/nginx/access.log

# What the sample's manifests get below `image:` of the agent and `spec:` of the pods.
AGENT=
PLACE=
real() { [[ $NODE == real ]]; }
if real; then
    # There is no registry to ask: these images come with the node. Their program is told by a variable what to follow.
    OLD_IMAGE=devcluster.test/sidecar:v1
    NEW_IMAGE=devcluster.test/sidecar:v2
    BAD_IMAGE=devcluster.test/sidecar:missing
    APP_IMAGE=devcluster.test/app:v1
    KUBELETS="a real kubelet with containerd"
    AGENT="\n      command: [sh, -c, touch $LOG; exec run]\n      env: [{name: TAIL, value: $LOG}]"
    PLACE='\n      nodeSelector: {devcluster.sidecarset.dev/real: "true"}'
    PLACE+='\n      tolerations: [{key: devcluster.sidecarset.dev/real, operator: Exists}]'
fi

WORK=$(mktemp -d "${TMPDIR:-/tmp}/sidecarset-demo.XXXXXX")
export KUBECONFIG=$WORK/kubeconfig # nothing of the user's is touched
OPERATOR=                         # its process id

# ---------------------------------------------------------------------------------------------- output and waiting

title() { printf '\n\e[1m%s\e[0m\n' "$*"; }
say() { printf '   %s\n' "$*"; }
shown() { printf '   $ %s\n' "$*"; "$@" | sed 's/^/     /'; }
fail() {
    printf '\nThe demo stopped: %s\n' "$*" >&2
    exit 1
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local end=$((SECONDS + $1)) seconds=$1 what=$2
    shift 2
    until "$@"; do
        alive
        ((SECONDS < end)) || fail "$what: not within $seconds s. $(message)"
        sleep 0.5
    done
}

alive() { [[ -z $OPERATOR ]] || kill -0 "$OPERATOR" 2>/dev/null || fail "the operator ended by itself"; }

# ------------------------------------------------------------------------------------------------------- cleaning up

clean_up() {
    local status=$?
    trap - EXIT INT TERM HUP
    if ((status != 0)) && [[ -s $WORK/operator.log ]]; then
        printf '\nThe end of the operator'\''s log:\n' >&2
        tail -n 25 "$WORK/operator.log" >&2
    fi
    if ((status == 0)) && [[ -n $KEEP ]]; then
        keep_message
        exit 0
    fi
    if [[ -n $OPERATOR ]] && kill "$OPERATOR" 2>/dev/null; then
        for ((i = 0; i < 100; i++)); do
            kill -0 "$OPERATOR" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$OPERATOR" 2>/dev/null || true
    fi
    "$BIN/devcluster" down --kubeconfig "$KUBECONFIG" || true
    rm -rf "$WORK"
    exit "$status"
}

keep_message() {
    title "The cluster and the operator keep running (KEEP=$KEEP)"
    say "use it:  export KUBECONFIG=$KUBECONFIG"
    say "         kubectl get sidecarset,pods"
    say "log:     $WORK/operator.log"
    say "stop it: kill $OPERATOR; $BIN/devcluster down --kubeconfig $KUBECONFIG; rm -r $WORK"
}

trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# --------------------------------------------------------------------------------------------- what the cluster says

# The sample holds the set and the application; the set goes first, with the image that is asked for.
the_set() { sed -e '/^---$/,$d' -e "s|image: fluent/fluentd:.*|image: $1$AGENT|" "$SAMPLE"; }
the_app() {
    sed -e '1,/^---$/d' -e "s|replicas: .*|replicas: $PODS|" -e "s|image: nginx:.*|image: $APP_IMAGE|" \
        -e "s|^    spec:$|&$PLACE|" "$SAMPLE"
}
apply_image() {
    say "kubectl apply: image $1"
    the_set "$1" | kubectl apply -f - | sed 's/^/     /'
}
# strategy JSON: merged into the update strategy.
strategy() { shown kubectl patch sidecarset "$SET" --type merge --patch "{\"spec\":{\"updateStrategy\":$1}}"; }

field() { kubectl get sidecarset "$SET" --output "jsonpath={$1}"; }
message() { field .status.message 2>/dev/null || true; }
condition() { field ".status.conditions[?(@.type==\"$1\")].status"; }
reason() { field ".status.conditions[?(@.type==\"$1\")].reason"; }
observed() { [[ $(field .metadata.generation) == "$(field .status.observedGeneration)" ]]; }
is() { observed && [[ $(condition "$1") == "$2" ]]; }

pods() { kubectl get pods --selector app=nginx --sort-by .metadata.name --output "jsonpath={range .items[*]}$1{'\n'}{end}"; }
# Pods whose spec names the image: the API server's word, not the operator's.
with_image() { pods "{.spec.containers[?(@.name=='fluentd')].image}" | grep --count --fixed-strings --line-regexp "$1" || true; }
ready() { pods "{.status.conditions[?(@.type=='Ready')].status}" | grep --count True || true; }
identities() { pods "{.metadata.name} {.metadata.uid} {.status.containerStatuses[?(@.name=='nginx')].containerID}"; }
agents() { pods "{.metadata.name} {.status.containerStatuses[?(@.name=='fluentd')].containerID}"; }

all_ready() { [[ $(ready) == "$PODS" ]]; }
injected() { [[ $(with_image "$OLD_IMAGE") == "$PODS" ]]; }
rolled_out() {
    observed && [[ $(field .status.updatedPods)/$(field .status.updatedReadyPods) == "$PODS/$PODS" ]] &&
        [[ $(condition Ready) == True && $(with_image "$1") == "$PODS" ]]
}
waits_for_approval() { observed && [[ $(reason Ready) == WaitingForApproval ]]; }
rolled_back() { is Stalled True && [[ $(reason Stalled) == RolledBack ]]; }
stopped_by_budget() { is Stalled True && [[ $(reason Stalled) == FailureBudgetExceeded ]]; }

# watch_until SECONDS IMAGE COMMAND...: prints a line whenever the numbers change, until the command succeeds.
watch_until() {
    local end=$((SECONDS + $1)) seconds=$1 image=$2 last='' line updated now_ready
    shift 2
    while true; do
        alive
        updated=$(with_image "$image")
        now_ready=$(ready)
        line="updated $(bar "$updated")  ready $now_ready/$PODS  failed $(field .status.failedPods)"
        if [[ $line != "$last" ]]; then
            say "$line  $(message)"
            last=$line
        fi
        ((PODS - now_ready <= BUDGET)) || fail "$((PODS - now_ready)) pods are not ready, maxUnavailable allows $BUDGET"
        "$@" && return
        ((SECONDS < end)) || fail "the rollout did not get there within $seconds s. $(message)"
        sleep 0.5
    done
}

bar() { printf '%.*s%.*s %2d/%d' "$1" '####################' $((PODS - $1)) '....................' "$1" "$PODS"; }

at_least() { (($(with_image "$1") >= $2)); }

# the_app_writes LINE: into the log file that the agent follows, in the pod $pod; until the agent has read it.
the_app_writes() {
    say "$ kubectl exec $pod --container nginx -- sh -c 'echo $1 >>$LOG'"
    kubectl exec "$pod" --container nginx -- sh -c "echo $1 >>$LOG"
    wait_for 20 "the agent of $pod reads the line" the_agent_read "$1"
}
the_agent_read() { grep --quiet --line-regexp "$1" <<<"$(kubectl logs "$pod" --container fluentd)"; }

# nothing_moves SECONDS IMAGE: the number of pods with the image stays the same.
nothing_moves() {
    local before after
    before=$(with_image "$2")
    say "$before of $PODS pods have $2; waiting $1 s ..."
    sleep "$1"
    after=$(with_image "$2")
    [[ $before == "$after" ]] || fail "it moved from $before to $after pods"
    say "still $after"
}

# ------------------------------------------------------------------------------------------------------------- story

title "1. A fresh cluster: etcd, API server, controllers, scheduler, $KUBELETS; and the operator beside it"
"$BIN/devcluster" up --kubeconfig "$KUBECONFIG" ${NODE:+--node "$NODE" --nodes 0} >/dev/null
shown kubectl get nodes
nohup "$BIN/sidecarset-operator" run --local --webhook-address 127.0.0.1:0 --health-address 127.0.0.1:0 \
    >"$WORK/operator.log" 2>&1 </dev/null &
OPERATOR=$!
wait_for 60 "the operator gets ready" grep --quiet --no-messages 'operator is ready' "$WORK/operator.log"
say "the operator is ready (process $OPERATOR)"

title "2. A SidecarSet with a log agent, then $PODS nginx pods that know nothing of it"
apply_image "$OLD_IMAGE"
wait_for 30 "the webhook serves the set" is InjectionReady True
the_app | kubectl apply -f - | sed 's/^/     /'
wait_for 90 "all pods are ready" all_ready
injected || fail "only $(with_image "$OLD_IMAGE") of $PODS pods have the log agent"
wait_for 30 "the set is Ready" rolled_out "$OLD_IMAGE"
shown kubectl get pods --selector app=nginx \
    --output 'custom-columns=NAME:.metadata.name,CONTAINERS:.spec.containers[*].name,IMAGES:.spec.containers[*].image,NODE:.spec.nodeName'
shown kubectl get sidecarset
identities >"$WORK/before"
agents >"$WORK/agents-before"
if real; then
    pod=$(pods '{.metadata.name}' | sed -n 1p)
    the_app_writes "GET /before"
    shown kubectl logs "$pod" --container fluentd
fi

title "3. A new image, in place: one pod first, until somebody approves"
strategy '{"steps":[{"replicas":1,"pause":{}}]}'
apply_image "$NEW_IMAGE"
watch_until 60 "$NEW_IMAGE" waits_for_approval
[[ $(with_image "$NEW_IMAGE") == 1 ]] || fail "$(with_image "$NEW_IMAGE") pods were updated before the approval, expected 1"
shown kubectl annotate sidecarset "$SET" "sidecarset.dev/approve=$(field .status.updateRevision)/1"
say "approved: at most $BUDGET pods at a time"
watch_until 120 "$NEW_IMAGE" at_least "$NEW_IMAGE" $((PODS * 2 / 5))

title "4. Pause halfway: nothing moves"
strategy '{"paused":true}'
wait_for 30 "the set says that it is paused" is Paused True
nothing_moves 6 "$NEW_IMAGE"
! at_least "$NEW_IMAGE" "$PODS" || fail "the rollout was finished before the pause"
shown kubectl get sidecarset "$SET" --output wide

title "5. Resume, and finish"
strategy '{"paused":false,"steps":null}'
watch_until 180 "$NEW_IMAGE" rolled_out "$NEW_IMAGE"
shown kubectl wait --for=condition=Ready --timeout=30s "sidecarset/$SET"
if real; then
    the_app_writes "GET /after"
    say "the agent that was replaced, and the one that runs:"
    shown kubectl logs "$pod" --container fluentd --previous
    shown kubectl logs "$pod" --container fluentd
fi

title "6. A bad image: the failure budget stops it"
apply_image "$BAD_IMAGE"
watch_until 120 "$BAD_IMAGE" stopped_by_budget
nothing_moves 5 "$BAD_IMAGE"
touched=$(with_image "$BAD_IMAGE")
((touched >= 1 && touched <= BUDGET)) || fail "$touched pods got the bad image, expected 1 to $BUDGET"
say "$touched of $PODS pods got the bad image, the budget is $BUDGET"
shown kubectl get sidecarset "$SET" --output wide

title "7. With action: Rollback they go back to the last good revision by themselves"
strategy '{"failurePolicy":{"action":"Rollback"}}'
watch_until 120 "$NEW_IMAGE" rolled_back
wait_for 30 "all pods are ready" all_ready
[[ $(with_image "$NEW_IMAGE") == "$PODS" ]] || fail "$(with_image "$NEW_IMAGE") of $PODS pods are back"
nothing_moves 5 "$NEW_IMAGE"
apply_image "$NEW_IMAGE"
wait_for 30 "the set is Ready" rolled_out "$NEW_IMAGE"

title "8. The pods and their nginx containers are the ones of the beginning"
identities >"$WORK/after"
agents >"$WORK/agents-after"
say "$(printf '%-28s %-36s  %-36s' POD 'UID BEFORE' 'UID AFTER')"
join "$WORK/before" "$WORK/after" | while read -r pod uid _ uid_after _; do
    say "$(printf '%-28s %-36s  %-36s' "$pod" "$uid" "$uid_after")"
done
say "$(printf '\n   %-28s %s' POD 'NGINX CONTAINER BEFORE, AFTER')"
join "$WORK/before" "$WORK/after" | while read -r pod _ id _ id_after; do
    say "$(printf '%-28s %s\n   %-28s %s' "$pod" "$id" '' "$id_after")"
done
[[ $(wc -l <"$WORK/before") == "$PODS" ]] || fail "expected $PODS pods to compare"
if grep --quiet --invert-match ' .* .' "$WORK/before"; then fail "a pod showed no nginx container at the beginning"; fi
cmp --silent "$WORK/before" "$WORK/after" || fail "a pod was recreated or an nginx container restarted: $(diff "$WORK/before" "$WORK/after")"
[[ $(join "$WORK/agents-before" "$WORK/agents-after" | awk '$2 != $3' | wc -l) == "$PODS" ]] ||
    fail "a fluentd container was not replaced"
if real; then
    started() { printf '.status.containerStatuses[?(@.name=="%s")].state.running.startedAt' "$1"; }
    shown kubectl get pods --selector app=nginx \
        --output "custom-columns=NAME:.metadata.name,NGINX SINCE:$(started nginx),FLUENTD SINCE:$(started fluentd)"
fi

title "Done: $PODS pods, two upgrades and one failed one, no pod recreated, no nginx restarted"
