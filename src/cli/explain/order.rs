//! The order in which the containers of a pod start, and what each waits for.

use serde::Serialize;
use serde_json::Value;

use crate::api::order::APP;
use crate::api::{SidecarSet, keys};
use crate::core::base::lists::List;
use crate::core::inject::uninject::marks;
use crate::core::pod::InjectionRecord;

/// One container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Start {
    pub(super) container: String,
    /// The name in the set, without what tells twins of a hot container apart.
    #[serde(skip)]
    base: String,
    pub(super) kind: Kind,
    /// The set that it is from; `None` for the pod's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) set: Option<String>,
    /// What the kubelet waits for before it starts the next one.
    pub(super) next_starts_when: &'static str,
    /// `dependsOn` as the set has it now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<String>,
    /// The part that a twin of a hot container plays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hot: Option<Hot>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) enum Kind {
    /// An init container that ends.
    Init,
    NativeSidecar,
    /// One of `spec.containers`.
    Container,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Hot {
    Working,
    /// It waits for the next upgrade.
    Waiting,
    /// It is to take over from the one that works.
    TakingOver,
}

impl Kind {
    /// The cell of the table.
    pub(super) fn describe(self, hot: Option<Hot>) -> String {
        let kind = match self {
            Self::Init => "init",
            Self::NativeSidecar => "native sidecar",
            Self::Container => "container",
        };
        let hot = match hot {
            Some(Hot::Working) => ", hot (working)",
            Some(Hot::Waiting) => ", hot (waiting)",
            Some(Hot::TakingOver) => ", hot (taking over)",
            None => "",
        };
        format!("{kind}{hot}")
    }
}

impl Start {
    /// The cell of the table: what is not in the pod holds nothing up.
    pub(super) fn describe_dependencies(&self, all: &[Self]) -> String {
        let known = |name: &str| name == APP || all.iter().any(|start| start.base == name);
        let absent = |name: &String| if known(name) { name.clone() } else { format!("{name} (not in this pod)") };
        self.depends_on.iter().map(absent).collect::<Vec<_>>().join(",")
    }
}

/// All containers in the order in which the kubelet starts them.
pub(super) fn start_order(pod: &Value, sets: &[SidecarSet]) -> Vec<Start> {
    let marks = marks(pod);
    let mut order = Vec::new();
    for list in List::ALL {
        for container in pod["spec"][list.field()].as_array().into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default();
            let owner = marks.iter().find(|(_, added)| added.all_containers().any(|listed| listed == name));
            let kind = match list {
                List::Init if container["restartPolicy"] == "Always" => Kind::NativeSidecar,
                List::Init => Kind::Init,
                List::Ordinary => Kind::Container,
            };
            let base = owner.map_or(name, |(_, added)| base_name(added, name));
            order.push(Start {
                container: name.to_owned(),
                base: base.to_owned(),
                kind,
                set: owner.map(|(set, _)| set.clone()),
                next_starts_when: next_starts_when(kind, container),
                depends_on: owner.map(|(set, _)| depends_on(sets, set, base)).unwrap_or_default(),
                hot: owner.and_then(|(_, added)| hot(pod, added, base, name)),
            });
        }
    }
    order
}

/// What the kubelet does: init containers end first, native sidecars are started, ordinary containers do not wait.
fn next_starts_when(kind: Kind, container: &Value) -> &'static str {
    let has_hook = !container["lifecycle"]["postStart"].is_null();
    match kind {
        Kind::Init => "it has succeeded",
        Kind::NativeSidecar if !container["startupProbe"].is_null() => "its startupProbe has succeeded",
        Kind::NativeSidecar | Kind::Container if has_hook => "its postStart hook has ended",
        Kind::NativeSidecar => "it has started",
        Kind::Container => "at once",
    }
}

fn base_name<'a>(added: &'a InjectionRecord, name: &'a str) -> &'a str {
    let twin = added.hot.keys().find(|base| keys::twins(base).iter().any(|twin| twin == name));
    twin.map_or(name, String::as_str)
}

/// The versions say it; the mark says who worked first.
fn hot(pod: &Value, added: &InjectionRecord, base: &str, name: &str) -> Option<Hot> {
    let first = added.hot.get(base)?;
    let version = |twin: &str| -> Option<u64> {
        pod["metadata"]["annotations"][format!("{}{twin}", keys::VERSION_PREFIX)].as_str()?.parse().ok()
    };
    let other = keys::twins(base).into_iter().find(|twin| twin != name).and_then(|twin| version(&twin));
    Some(match version(name).zip(other) {
        None if first == name => Hot::Working,
        None | Some((0, _)) => Hot::Waiting,
        Some((own, other)) if other > 0 && own > other => Hot::TakingOver,
        Some(_) => Hot::Working,
    })
}

fn depends_on(sets: &[SidecarSet], set: &str, container: &str) -> Vec<String> {
    let set = sets.iter().find(|other| other.metadata.name.as_deref() == Some(set));
    let containers = set.into_iter().flat_map(|set| set.spec.init_containers.iter().chain(&set.spec.containers));
    containers.filter(|c| c.container.name == container).flat_map(|c| c.depends_on.clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_say_which_twin_works() {
        let part = |first: &str, second: &str| {
            let mark = r#"{"containers":["c-1","c-2"],"hot":{"c":"c-1"}}"#;
            let pod = json!({"metadata": {"annotations": {"injection.sidecarset.dev/s": mark,
                "version.sidecarset.dev/c-1": first, "version.sidecarset.dev/c-2": second}},
                "spec": {"containers": [{"name": "c-1"}, {"name": "c-2"}]}});
            start_order(&pod, &[]).into_iter().filter_map(|start| start.hot).collect::<Vec<_>>()
        };
        assert_eq!(part("1", "0"), [Hot::Working, Hot::Waiting]);
        assert_eq!(part("1", "2"), [Hot::Working, Hot::TakingOver]);
        assert_eq!(part("0", "2"), [Hot::Waiting, Hot::Working]);
        assert_eq!(part("?", "2"), [Hot::Working, Hot::Waiting], "nobody knows: who worked first");
    }

    #[test]
    fn the_order_names_sets_and_what_is_waited_for() {
        let mark = r#"{"containers":["c-1","c-2"],"initContainers":["proxy","plain"],"volumes":[],"hot":{"c":"c-2"}}"#;
        let pod = json!({"metadata": {"annotations": {"injection.sidecarset.dev/s": mark}}, "spec": {
            "containers": [{"name": "c-1"}, {"name": "c-2"}, {"name": "app", "lifecycle": {"postStart": {}}}],
            "initContainers": [{"name": "proxy", "restartPolicy": "Always", "startupProbe": {}},
                {"name": "plain", "restartPolicy": "Always"}, {"name": "migrate"}]}});
        let set: SidecarSet = serde_json::from_value(json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
            "metadata": {"name": "s"}, "spec": {"selector": {}, "containers": [{"name": "c", "dependsOn": ["proxy", "z1", "app"]}]}}))
        .unwrap();
        let order = start_order(&pod, &[set]);
        let seen: Vec<_> = order
            .iter()
            .map(|s| {
                (
                    s.container.as_str(),
                    s.kind.describe(s.hot),
                    s.set.as_deref(),
                    s.next_starts_when,
                    s.describe_dependencies(&order),
                )
            })
            .collect();
        let depends = "proxy,z1 (not in this pod),app".to_owned();
        let (native, s) = ("native sidecar".to_owned(), Some("s"));
        assert_eq!(
            seen,
            [
                ("proxy", native.clone(), s, "its startupProbe has succeeded", String::new()),
                ("plain", native, s, "it has started", String::new()),
                ("migrate", "init".to_owned(), None, "it has succeeded", String::new()),
                ("c-1", "container, hot (waiting)".to_owned(), s, "at once", depends.clone()),
                ("c-2", "container, hot (working)".to_owned(), s, "at once", depends),
                ("app", "container".to_owned(), None, "its postStart hook has ended", String::new()),
            ]
        );
    }
}
