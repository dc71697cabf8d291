{{- /* The whole status of a pod after one step, as a pure function of the pod. Statuses of containers that the step
       does not concern are passed on untouched. */ -}}
{{- $pod := . -}}
{{- $now := Now -}}
{{- $always := eq .spec.restartPolicy "Always" -}}
{{- $completes := splitList "," (toString (index (default dict .metadata.annotations) "devcluster.sidecarset.dev/completes")) -}}
{{- $held := default "" (get (default dict .metadata.annotations) "devcluster.sidecarset.dev/resize") -}}
{{- $unsized := false -}}     {{- /* a container does not have the resources of the spec yet */ -}}
{{- $known := dict -}}
{{- range .status.initContainerStatuses }}{{ $_ := set $known .name . }}{{ end -}}
{{- range .status.containerStatuses }}{{ $_ := set $known .name . }}{{ end -}}

{{- $out := dict "initContainers" list "containers" list -}}
{{- $blocked := false -}}     {{- /* an init container has not got far enough for the next ones to start */ -}}
{{- $ready := true -}}        {{- /* all native sidecars and app containers are ready */ -}}
{{- $begun := false -}}       {{- /* some app container has been started */ -}}
{{- $pending := false -}}     {{- /* some app container has never run */ -}}
{{- $ended := true -}}        {{- /* all app containers have ended for good */ -}}
{{- $failed := false -}}      {{- /* one of them with an error */ -}}

{{- range $list := list "initContainers" "containers" -}}
{{- range $c := index $pod.spec $list -}}
  {{- $app := eq $list "containers" -}}
  {{- $plain := and (not $app) (ne (default "" $c.restartPolicy) "Always") -}}
  {{- $s := dict "name" $c.name "image" $c.image "imageID" "" "ready" false "started" false "restartCount" 0 "state" dict -}}
  {{- if hasKey $known $c.name }}{{ $s = get $known $c.name }}{{ end -}}
  {{- $id := default "" $s.containerID -}}
  {{- $state := default dict $s.state -}}
  {{- $running := hasKey $state "running" -}}
  {{- $waiting := default dict $state.waiting -}}
  {{- $reason := default "" $waiting.reason -}}
  {{- $native := not (or $app $plain) -}}
  {{- $last := default dict (get (default dict $s.lastState) "terminated") -}}
  {{- $gone := default dict $state.terminated -}}
  {{- /* What is said of the end of a container that was killed names the image that could not be started after it. */ -}}
  {{- $text := printf "%s %s" (default "" $waiting.message) (default "" (ternary $gone $last (hasKey $state "terminated")).message) -}}
  {{- $unborn := and (not $id) (not (contains "\"" $text)) -}}
  {{- $current := hasSuffix (printf "#%s" $c.image) $id -}}
  {{- $returns := or $native $always (and (eq $pod.spec.restartPolicy "OnFailure") (ne (toString $gone.exitCode) "0")) -}}
  {{- $over := and $gone (or $plain (not $returns)) -}}
  {{- /* As in changed.jq. */ -}}
  {{- $settled := $current -}}
  {{- if $running }}{{ if and $native (not $s.started) }}{{ $settled = true }}{{ end -}}
  {{- else if contains "\"" $text }}{{ $settled = contains (printf "%q" $c.image) $text -}}
  {{- else if $over }}{{ $settled = true }}{{ end -}}
  {{- $long := contains ":longpull" $c.image -}}
  {{- $backOff := printf "back-off 5s restarting failed container=%s pod=%s_%s" $c.name $pod.metadata.name $pod.metadata.namespace -}}

  {{- $do := "keep" -}}
  {{- if and $unborn $blocked }}{{ $do = "block" -}}
  {{- else if $unborn }}{{ $do = "replace" -}}
  {{- else if not $settled -}}
    {{- if eq $step (ternary "pulled" "sync" $long) }}{{ $do = "replace" -}}
    {{- else if and (eq $step "unready") $long $s.ready (hasKey $c "readinessProbe") }}{{ $do = "unready" }}{{ end -}}
  {{- else if and (eq $step "probe") $running (eq (default "" $last.message) "not probed yet") }}{{ $do = "probe" -}}
  {{- else if and (eq $step "ready") $running (not (contains ":slow" $id)) }}{{ $do = "ready" -}}
  {{- else if and (eq $step "ready-slow") $running }}{{ $do = "ready" -}}
  {{- else if and (eq $step "back-off") (eq $reason "ErrImagePull") }}{{ $do = "back-off" -}}
  {{- else if and (eq $step "back-off") (eq $reason "ImagePullBackOff") $id }}{{ $do = "crash-back-off" -}}
  {{- else if and (eq $step "crash") $running $s.ready (contains ":crash" $id) }}{{ $do = "crash" -}}
  {{- else if and (eq $step "crashed") (eq (toString $gone.exitCode) "7") (not $over) -}}
    {{- $do = ternary "crash-back-off" "replace" (hasSuffix (printf "#%s" $c.image) (default "" $last.containerID)) -}}
  {{- else if and (eq $step "restart") (or (eq $reason "CrashLoopBackOff") (contains ":backoff" $text)) }}{{ $do = "replace" -}}
  {{- else if and (eq $step "complete") $app $running (has $c.name $completes) }}{{ $do = "end" -}}
  {{- end -}}

  {{- $end := dict "exitCode" 0 "reason" "Completed" "containerID" $id "finishedAt" $now -}}
  {{- if contains ":sigterm" $id }}{{ $_ := set $end "exitCode" 143 }}{{ $_ := set $end "reason" "Error" }}{{ end -}}
  {{- if $running }}{{ $_ := set $end "startedAt" $state.running.startedAt }}{{ end -}}

  {{- if eq $do "block" -}}
    {{- $_ := set $s "state" (dict "waiting" (dict "reason" "PodInitializing")) -}}
  {{- else if eq $do "ready" -}}
    {{- $_ := set $s "ready" true }}{{ $_ := set $s "started" true -}}
  {{- else if eq $do "back-off" -}}
    {{- $message := printf "Back-off pulling image %q: ErrImagePull: not found" $c.image -}}
    {{- $_ := set $s "state" (dict "waiting" (dict "reason" "ImagePullBackOff" "message" $message)) -}}
  {{- else if eq $do "unready" -}}
    {{- $_ := set $s "ready" false -}}
  {{- else if eq $do "probe" -}}
    {{- $_ := set $s "ready" false }}{{ $_ := set $s "started" false }}{{ $_ := unset $last "message" -}}
  {{- else if eq $do "crash-back-off" -}}
    {{- if $gone }}{{ $_ := set $s "lastState" (dict "terminated" $gone) }}{{ end -}}
    {{- $_ := set $s "state" (dict "waiting" (dict "reason" "CrashLoopBackOff" "message" $backOff)) -}}
  {{- else if or (eq $do "crash") (eq $do "end") -}}
    {{- $_ := set $s "ready" false }}{{ $_ := set $s "started" false -}}
    {{- if eq $do "crash" }}{{ $_ := set $end "exitCode" 7 }}{{ $_ := set $end "reason" "Error" }}{{ end -}}
    {{- $_ := set $s "state" (dict "terminated" $end) -}}
  {{- else if and (eq $do "replace") (or (contains ":nopull" $c.image) (and (contains ":backoff" $c.image) $id (ne $step "restart"))) -}}
    {{- /* The old container is killed before the new image is known to exist. */ -}}
    {{- $_ := set $s "ready" false }}{{ $_ := set $s "started" false -}}
    {{- if not $running }}{{ $end = ternary $gone $last (hasKey $state "terminated") }}{{ end -}}
    {{- $fails := ne (toString $end.exitCode) "0" -}}
    {{- $for := printf "killed for %q" $c.image -}}
    {{- if and $running $app (not $always) (not (and $fails (eq $pod.spec.restartPolicy "OnFailure"))) -}}
      {{- /* A real kubelet starts it never again in such a pod, not even after a rollback. */ -}}
      {{- $_ := set $s "state" (dict "terminated" $end) -}}
    {{- else if and $id $native (not $fails) (not $waiting) -}}
      {{- $_ := set $s "state" (dict "terminated" (set $end "message" $for)) -}}
    {{- else -}}
      {{- if $id }}{{ $_ := set $s "lastState" (dict "terminated" (set $end "message" $for)) }}{{ end -}}
      {{- $message := printf "failed to pull image %q: not found" $c.image -}}
      {{- $_ := set $s "state" (dict "waiting" (dict "reason" "ErrImagePull" "message" $message)) -}}
      {{- if contains ":backoff" $c.image }}{{ $_ := set $s "state" (dict "waiting" (dict "reason" "CrashLoopBackOff" "message" $backOff)) }}{{ end -}}
    {{- end -}}
  {{- else if eq $do "replace" -}}
    {{- if $running }}{{ $last = $end }}{{ else if $gone }}{{ $last = $gone }}{{ end -}}
    {{- $_ := unset $last "message" -}}
    {{- if $id }}{{ $_ := set $s "lastState" (dict "terminated" $last) }}{{ end -}}
    {{- if $id }}{{ $_ := set $s "restartCount" (add $s.restartCount 1) }}{{ end -}}
    {{- $new := printf "sim://%s-%s-%v#%s" (trunc 8 $pod.metadata.uid) $c.name $s.restartCount $c.image -}}
    {{- $_ := set $s "containerID" $new -}}
    {{- if not (and $s.imageID (contains ":same" $c.image)) -}}
      {{- $_ := set $s "imageID" (printf "sim@sha256:%s" (sha256sum $c.image)) -}}
      {{- /* Runtimes report the full name: registry, path and tag. */ -}}
      {{- $parts := splitList "/" $c.image }}{{ $image := $c.image -}}
      {{- if eq (len $parts) 1 }}{{ $image = printf "docker.io/library/%s" $image -}}
      {{- else if not (regexMatch "[.:]|^localhost$" (first $parts)) }}{{ $image = printf "docker.io/%s" $image }}{{ end -}}
      {{- if not (regexMatch "[:@]" (last $parts)) }}{{ $image = printf "%s:latest" $image }}{{ end -}}
      {{- $_ := set $s "image" $image -}}
    {{- end -}}
    {{- if $plain -}}
      {{- $_ := set $s "ready" true -}}
      {{- $_ := set $s "state" (dict "terminated" (merge (dict "containerID" $new "startedAt" $now) $end)) -}}
    {{- else if hasPrefix "/sidecarset.dev/" (toString (first (default (list "") $c.command))) -}}
      {{- /* No image has this command: the container is made of the pulled image, and never starts. */ -}}
      {{- $_ := set $s "started" false -}}
      {{- $_ := set $s "state" (dict "terminated" (merge (dict "containerID" $new "exitCode" 128 "reason" "StartError") $end)) -}}
    {{- else -}}
      {{- $inherits := and $id $s.started (hasKey $c "startupProbe") -}}
      {{- if $inherits }}{{ $_ := set $last "message" "not probed yet" }}{{ end -}}
      {{- $_ := set $s "started" (or $inherits (not (hasKey $c "startupProbe"))) -}}
      {{- $_ := set $s "ready" (and $s.started (not (hasKey $c "readinessProbe")) (or $inherits (not (contains ":slow" $c.image)))) -}}
      {{- $_ := set $s "state" (dict "running" (dict "startedAt" $now)) -}}
    {{- end -}}
  {{- end -}}

  {{- if hasKey $s.state "running" -}}
    {{- $wanted := default dict $c.resources -}}
    {{- if or (eq $step "resize") (not (hasKey $s "resources")) -}}
      {{- if or (not $held) (not (hasKey $s "resources")) }}{{ $_ := set $s "resources" $wanted }}{{ end -}}
    {{- end -}}
    {{- if ne (toJson $s.resources) (toJson $wanted) }}{{ $unsized = true }}{{ end -}}
    {{- with $s.resources.requests }}{{ $_ := set $s "allocatedResources" . }}{{ else }}{{ $_ := unset $s "allocatedResources" }}{{ end -}}
  {{- end -}}
  {{- $_ := set $out $list (append (get $out $list) $s) -}}

  {{- $terminated := default dict $s.state.terminated -}}
  {{- if not $s.ready }}{{ $ready = false }}{{ end -}}
  {{- if not $app -}}
    {{- if not (ternary $terminated $s.started $plain) }}{{ $blocked = true }}{{ end -}}
  {{- else -}}
    {{- if $s.containerID }}{{ $begun = true }}{{ else }}{{ $pending = true }}{{ end -}}
    {{- if not $terminated }}{{ $ended = false }}{{ else if ne (toString $terminated.exitCode) "0" }}{{ $failed = true }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- $phase := "Running" -}}
{{- if and (not $always) $ended }}{{ $phase = ternary "Failed" "Succeeded" $failed }}{{ else if $pending }}{{ $phase = "Pending" }}{{ end -}}
{{- $over := or (eq $phase "Failed") (eq $phase "Succeeded") -}}
{{- if $over -}}
  {{- /* Native sidecars end when the last app container has. */ -}}
  {{- range get $out "initContainers" -}}
    {{- if hasKey .state "running" -}}
      {{- $end := dict "exitCode" 0 "reason" "Completed" "containerID" .containerID "startedAt" .state.running.startedAt "finishedAt" $now -}}
      {{- $_ := set . "state" (dict "terminated" $end) }}{{ $_ := set . "ready" false }}{{ $_ := set . "started" false -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- $before := dict -}}
{{- range .status.conditions }}{{ $_ := set $before .type . }}{{ end -}}
{{- $gates := true -}}
{{- range .spec.readinessGates -}}
  {{- if ne (get (default dict (get $before .conditionType)) "status" | toString) "True" }}{{ $gates = false }}{{ end -}}
{{- end -}}
{{- $values := dict "PodReadyToStartContainers" (not $over) "Initialized" (or $begun (not $blocked)) "ContainersReady" $ready "Ready" (and $ready $gates) -}}
{{- $conditions := list -}}
{{- range $type := list "PodReadyToStartContainers" "Initialized" "ContainersReady" "Ready" -}}
  {{- $status := ternary "True" "False" (get $values $type) -}}
  {{- $condition := dict "type" $type "status" $status "lastTransitionTime" $now "observedGeneration" $pod.metadata.generation -}}
  {{- with get $before $type -}}
    {{- if eq .status $status }}{{ $_ := set $condition "lastTransitionTime" .lastTransitionTime }}{{ end -}}
  {{- end -}}
  {{- if eq $status "True" }}{{ $_ := set $condition "reason" nil }}
  {{- else if $over }}{{ $_ := set $condition "reason" (ternary "PodFailed" "PodCompleted" $failed) }}
  {{- else if eq $type "Initialized" }}{{ $_ := set $condition "reason" "ContainersNotInitialized" }}
  {{- else if $ready }}{{ $_ := set $condition "reason" "ReadinessGatesNotReady" }}
  {{- else }}{{ $_ := set $condition "reason" "ContainersNotReady" }}{{ end -}}
  {{- $conditions = append $conditions $condition -}}
{{- end -}}

{{- if and $held $unsized -}}
  {{- $message := printf "Node didn't have %s: cpu" (ternary "enough capacity" "enough resource" (eq $held "infeasible")) -}}
  {{- $conditions = append $conditions (dict "type" "PodResizePending" "status" "True" "reason" (title $held) "message" $message "lastTransitionTime" $now "observedGeneration" $pod.metadata.generation) -}}
{{- else if hasKey $before "PodResizePending" -}}
  {{- $conditions = append $conditions (dict "$patch" "delete" "type" "PodResizePending") -}}
{{- end -}}

{{- $status := dict "phase" $phase "observedGeneration" .metadata.generation "conditions" $conditions "containerStatuses" (get $out "containers") -}}
{{- with get $out "initContainers" }}{{ $_ := set $status "initContainerStatuses" . }}{{ end -}}
{{- if eq $step "start" -}}
  {{- $hosts := list }}{{ range NodeIPsWith .spec.nodeName }}{{ $hosts = append $hosts (dict "ip" .) }}{{ end -}}
  {{- $pods := list -}}
  {{- range PodIPsWith .spec.nodeName (default false .spec.hostNetwork) .metadata.uid .metadata.name .metadata.namespace }}{{ $pods = append $pods (dict "ip" .) }}{{ end -}}
  {{- $_ := set $status "startTime" $now -}}
  {{- $_ := set $status "hostIP" (first $hosts).ip }}{{ $_ := set $status "hostIPs" $hosts -}}
  {{- $_ := set $status "podIP" (first $pods).ip }}{{ $_ := set $status "podIPs" $pods -}}
{{- end -}}
{{- /* The resourceVersion makes the API server refuse a step that was decided on an older pod. */ -}}
{{ dict "metadata" (dict "resourceVersion" .metadata.resourceVersion) "status" $status | toJson }}
