//! The revisions of a set as they are stored: `ControllerRevision`s named `<set>-<hash>`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;

use super::template::Template;
use crate::api::{SidecarSet, keys};

/// Names that may be taken by other data before something must be wrong.
pub(crate) const MAX_COLLISIONS: i32 = 20;

/// A stored revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// What its pods get.
    pub template: Template,
    /// `revision`: larger is newer.
    pub number: i64,
    /// UID of the set that owns it.
    pub owner: Option<String>,
    /// `spec.customVersion` of the set when it had this template.
    pub custom_version: Option<String>,
}

/// The revisions of one set, by hash.
pub type History = BTreeMap<String, Revision>;

impl Revision {
    /// Reads a `ControllerRevision`: name of the set, hash, and the revision.
    /// The error says why it is to be ignored: what was written by another hand is never rolled out or injected.
    pub(crate) fn read(object: &ControllerRevision) -> Result<(String, String, Self), &'static str> {
        let (set, hash) = set_and_hash(object).ok_or("its name is not that of its set and a hash")?;
        let data = object.data.as_ref().and_then(|data| Template::from_data(&data.0));
        let template = data.ok_or("its data is no template of a SidecarSet")?;
        if !(0..=MAX_COLLISIONS).any(|collisions| template.hash(collisions) == hash) {
            return Err("its data does not have the hash that its name says");
        }
        let revision = Self {
            template,
            number: object.revision,
            owner: object.owner_references().first().map(|owner| owner.uid.clone()),
            custom_version: object.labels().get(keys::CUSTOM_VERSION).cloned(),
        };
        Ok((set, hash, revision))
    }
}

/// The histories of all sets, by set; what is to be ignored is left out.
pub(crate) fn histories<'a>(objects: impl IntoIterator<Item = &'a ControllerRevision>) -> BTreeMap<String, History> {
    let mut histories: BTreeMap<String, History> = BTreeMap::new();
    for (set, hash, revision) in objects.into_iter().flat_map(Revision::read) {
        histories.entry(set).or_default().insert(hash, revision);
    }
    histories
}

pub(crate) fn set_and_hash(object: &ControllerRevision) -> Option<(String, String)> {
    let set = object.labels().get(keys::SET)?.clone();
    let hash = object.name_any().strip_prefix(&format!("{set}-"))?.to_owned();
    Some((set, hash))
}

pub(crate) fn name(set: &str, hash: &str) -> String {
    format!("{set}-{hash}")
}

/// `status.collisionCount`, 0 if unset: an argument of [`Template::hash`].
pub(crate) fn collisions(set: &SidecarSet) -> i32 {
    set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn stored(name: &str, data: &Value) -> ControllerRevision {
        let object = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 3, "data": data,
            "metadata": {"name": name, "labels": {"sidecarset.dev/set": "logs"}}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_revision_whose_data_is_not_what_its_name_says_is_ignored() {
        let template = |image: &str| json!({"spec": {"containers": [{"name": "agent", "image": image}]}});
        let read = Template::from_data(&template("v1")).unwrap();
        for collisions in [0, 1, MAX_COLLISIONS] {
            let name = name("logs", &read.hash(collisions));
            let (set, hash, revision) = Revision::read(&stored(&name, &template("v1"))).unwrap();
            assert_eq!((set.as_str(), hash, revision.template), ("logs", read.hash(collisions), read.clone()));
            for ignored in [
                stored(&name, &template("v2")),
                stored(&name, &json!({"spec": "x"})),
                stored("other-1", &template("v1")),
                stored("logs-1", &template("v1")),
            ] {
                assert!(Revision::read(&ignored).is_err(), "{ignored:?}");
            }
        }
    }

    #[test]
    fn the_longest_name_of_a_revision_is_a_legal_one() {
        let hash = Template::from_data(&json!({"spec": {}})).unwrap().hash(0);
        assert!(hash.len() >= 16 && hash.len() <= 63);
        assert!(name(&"a".repeat(63), &hash).len() <= 253);
    }
}
