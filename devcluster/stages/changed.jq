def changed:
  .spec.restartPolicy as $policy
  | [.status.initContainerStatuses[]?, .status.containerStatuses[]?] as $statuses
  | (.spec.initContainers[]? | {entry: ., native: (.restartPolicy == "Always")} | .policy = .entry.restartPolicy),
    (.spec.containers[] | {entry: ., native: false, policy: $policy})
  | . as {$entry, $native, $policy}
  | $statuses[] | select(.name == $entry.name and .state.waiting.reason != "PodInitializing")
  | (.containerID // "" | endswith("#" + $entry.image)) as $is_current
  | select(
      if .state.running != null then ($is_current or ($native and (.started | not))) | not
      else ([.state.waiting, .state.terminated // .lastState.terminated] | map(.message? // "") | add) as $text
      | if $text | contains("\"") then $text | contains("\"\($entry.image)\"") | not
      elif .state.terminated == null or $policy == "Always" or ($policy == "OnFailure" and .state.terminated.exitCode != 0)
      then $is_current | not
      else false end end)
  | {status: ., is_probed: ($entry.readinessProbe != null), is_pulled_long: ($entry.image | contains(":longpull"))};
