//! Random sets, each written in random ways.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::template;
use crate::core::revision::{Change, Template};

/// Places of a set, and the values that each may have there: between bars all mean the same, beyond one they never do.
/// Null is no value.
const CHOICES: &str = r#"
/containers/0/imagePullPolicy: null "IfNotPresent" "" | "Always"
/containers/0/terminationMessagePath: null "" "/dev/termination-log" | "/x"
/containers/0/terminationMessagePolicy: null "" "File" | "FallbackToLogsOnError"
/containers/0/command: null [] | [""] | ["a", "b"] | ["b", "a"]
/containers/0/ports/0/protocol: null "" "TCP" | "UDP"
/containers/0/ports/0/hostPort: null 0 | 80
/containers/0/env/0/value: null "" | "TCP" | " "
/containers/0/env/1/valueFrom/fieldRef/apiVersion: null "" "v1" | "v2"
/containers/0/env/2/valueFrom/resourceFieldRef/divisor: null "0" 0 "1" "1000m" | "1Mi" "1024Ki" | "1m" "0.001"
/containers/0/env/3/valueFrom/secretKeyRef/optional: null false | true
/containers/0/envFrom/0/prefix: null "" | "P_"
/containers/0/livenessProbe/timeoutSeconds: null 0 1 | 2
/containers/0/livenessProbe/periodSeconds: null 0 10 | 1
/containers/0/livenessProbe/httpGet/path: null "" "/" | "/live"
/containers/0/livenessProbe/httpGet/scheme: null "" "HTTP" | "HTTPS"
/containers/0/readinessProbe/failureThreshold: null 0 3 | 1
/containers/0/startupProbe/successThreshold: null 0 1 | 2
/containers/0/startupProbe/initialDelaySeconds: null 0 | 1
/containers/0/lifecycle: null {} | {"preStop": {"sleep": {"seconds": 1}}} | {"preStop": {"sleep": {"seconds": 0}}}
/containers/0/securityContext: null {} {"capabilities": {"add": []}} {"privileged": false} | {"runAsUser": 0} | {"allowPrivilegeEscalation": false} | {"allowPrivilegeEscalation": true}
/containers/0/resources/limits/cpu: null | "1" "1000m" 1 "1.000" "0.001k" "1e0" "1.0000000000" | "1m" "0.001" "1e-3" "1000u" | "1001m"
/containers/0/resources/requests/memory: null | "1Gi" "1024Mi" 1073741824 "1048576Ki" | "1G" "1e9" "1000M" "1E9"
/containers/0/resizePolicy: null [] [{"resourceName": "cpu", "restartPolicy": "NotRequired"}] | [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]
/containers/0/volumeMounts/0/mountPropagation: null "" "None" | "HostToContainer"
/containers/0/volumeMounts/0/readOnly: null false | true
/containers/0/shareVolumePolicy: null {"type": "disabled"} | {"type": "enabled"}
/containers/0/resourcesPolicy/resourcesExpr/limits/cpu: "cpu*50%" "cpu * 50%" "((cpu)*(50%))" " cpu*0.5 " "50% * cpu" "cpu / 2" "CPU*50%" | "cpu+1*2" "cpu + 2" "cpu+(1*2)" | "(cpu+1)*2" "2 * (cpu + 1)" | "cpu-1" "cpu + -1"
/containers/0/resourcesPolicy/resourcesExpr/requests/memory: "max(memory*50%, 50Mi)" "max( memory / 2 ,51200Ki)" | "min(memory*50%, 50Mi)" | "50Mi" "(50Mi)" "52428800" | "50M" "50e6"
/containers/0/transferEnv/0: {"envName": "A"} {"envNames": ["A"]} {"envName": "A", "envNames": ["A"]} | {"envNames": ["A", "B"]} {"envNames": ["B", "A", "B"]} {"envName": "B", "envNames": ["A"]}
/volumes/0/emptyDir: null {} {"medium": ""} | {"medium": "Memory"}
/volumes/1/secret/defaultMode: null 420 | 256 | 0
/volumes/1/secret/optional: null false | true
/volumes/1/secret/items: null [] | [{"key": "k", "path": "p"}]
/volumes/2/configMap/defaultMode: null 420 | 256
/volumes/3/downwardAPI/items/0/resourceFieldRef/divisor: null "0" "1" | "1k"
/volumes/4/projected/sources/0/serviceAccountToken/expirationSeconds: null 3600 | 600
/volumes/5/image/pullPolicy: null "" "Always" | "IfNotPresent"
/volumes/6/hostPath/type: null "" | "Directory"
/volumes/7/ephemeral/volumeClaimTemplate/metadata: null {} {"labels": {}, "annotations": null, "creationTimestamp": null} | {"labels": {"protocol": "TCP"}}
/volumes/7/ephemeral/volumeClaimTemplate/spec/resources/requests/storage: "1Gi" "1024Mi" | "1G"
/volumes/7/ephemeral/volumeClaimTemplate/spec/volumeMode: null "" "Filesystem" | "Block"
/volumes/7/ephemeral/volumeClaimTemplate/spec/storageClassName: null | "" | "fast"
/volumes/8/emptyDir/sizeLimit: null | "1Gi" "1024Mi" "1.00000000000Gi" | "1G"
/volumes/9/gcePersistentDisk/partition: null 0 | 1
/volumes/10/iscsi/iscsiInterface: null "" "default" | "tcp"
/volumes/10/iscsi/chapAuthSession: null false | true
/volumes/10/iscsi/lun: 0 | 1
/volumes/11/csi/volumeAttributes: null {} | {"type": ""} | {"type": "File"}
/volumes/11/csi/readOnly: null false | true
/volumes/12/rbd/pool: null "" "rbd" | "p"
/volumes/13/azureDisk/kind: null "" "Shared" | "Managed"
/volumes/14/scaleIO/fsType: null "" "xfs" | "ext4"
/patchPodMetadata: null [] | [{"labels": {"a": ""}}] [{"labels": {"a": ""}, "annotations": {}, "patchPolicy": "Retain"}] | [{"labels": {"a": "b"}}] | [{"labels": {"a": ""}, "patchPolicy": "Overwrite"}]
/resources: null {} {"mode": "Additive"} {"preserveQoS": false} | {"mode": "SharedWithPod"}
"#;

fn choices() -> Vec<(&'static str, Vec<Vec<Value>>)> {
    let values = |row: &str| serde_json::Deserializer::from_str(row).into_iter().collect::<Result<_, _>>().unwrap();
    let choice = |line: &'static str| {
        let (path, rows) = line.split_once(": ").unwrap();
        (path, rows.split(" | ").map(values).collect())
    };
    CHOICES.trim().lines().map(choice).collect()
}

/// A set with one value at each place. `picks` say which row and which spelling, as far as there are.
fn written(picks: &[(usize, usize)]) -> Template {
    let mut spec = json!({"containers": [{"name": "agent", "image": "agent:v1"}]});
    for ((path, rows), (row, spelling)) in choices().iter().zip(picks) {
        let row = &rows[row % rows.len()];
        put(&mut spec, path.split('/').skip(1).collect(), row[spelling % row.len()].clone());
    }
    template(&spec)
}

fn put(at: &mut Value, path: Vec<&str>, value: Value) {
    let Some((first, rest)) = path.split_first() else { return *at = value };
    let next = match first.parse::<usize>() {
        Ok(index) => {
            if at.is_null() {
                *at = json!([]);
            }
            let list = at.as_array_mut().unwrap();
            list.resize(list.len().max(index + 1), json!({"name": "x"}));
            &mut list[index]
        }
        Err(_) => &mut at[*first],
    };
    put(next, rest.to_vec(), value);
}

fn picks() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let n = choices().len();
    prop::collection::vec((0..8_usize, 0..8_usize), n..=n)
}

proptest! {
    #[test]
    fn a_set_that_is_written_differently_is_the_same_revision(
        picks in picks(), spellings in prop::collection::vec(0..8_usize, 0..100),
    ) {
        let respelled: Vec<(usize, usize)> =
            picks.iter().enumerate().map(|(i, (row, spelling))| (*row, *spellings.get(i).unwrap_or(spelling))).collect();
        let (a, b) = (written(&picks), written(&respelled));
        prop_assert_eq!(a.hash(0), b.hash(0), "{:?}\n{:?}", a, b);
        prop_assert_eq!(a.hash_without_images(), b.hash_without_images());
        prop_assert_eq!(a.change_to(&b), Change::Nothing);
    }

    #[test]
    fn a_set_that_means_something_else_is_another_revision(picks in picks(), place in any::<prop::sample::Index>()) {
        let choices = choices();
        let place = place.index(choices.len());
        let rows = choices[place].1.len();
        let other: Vec<Template> = (0..rows).map(|row| {
            let mut picks = picks.clone();
            picks[place].0 = row;
            written(&picks)
        }).collect();
        for (i, a) in other.iter().enumerate() {
            for b in &other[..i] {
                prop_assert_ne!(a.hash(0), b.hash(0), "{}: {:?}\n{:?}", choices[place].0, a, b);
            }
        }
    }
}
