//! Names of containers and volumes that a set cannot have in this pod.

use std::collections::BTreeMap;

use serde_json::Value;

use super::decision::Failure;
use super::draft::{VOLUMES, containers, elements};
use super::marks::is_injected;
use super::placement::{PlacedSet, Placement};
use super::volumes;
use crate::api::reasons::Reason;

impl<'a> Placement<'a> {
    pub(super) fn check_names(&self) -> Result<(), Failure<'a>> {
        let mut claimed: BTreeMap<&str, &str> = BTreeMap::new();
        for PlacedSet { set, template, .. } in &self.sets {
            for prepared in &template.containers {
                let name = prepared.name.as_str();
                let existing = containers(self.draft.pod()).map(|(_, c)| c).find(|container| container["name"] == name);
                let there = existing.is_some();
                let owner = self.marks.owner(name);
                let other = claimed.get(name).copied().or(owner).filter(|owner| *owner != set.name);
                let by = match other {
                    Some(other) if there || claimed.contains_key(name) => format!("SidecarSet {other:?}"),
                    _ if existing.is_some_and(is_injected) && owner.is_none() => {
                        "a sidecar that a deleted SidecarSet or another injector left".to_owned()
                    }
                    _ if there && owner.is_none() => "one of the pod's own containers".to_owned(),
                    _ => continue,
                };
                let message = format!("container name {name:?} is taken by {by}; rename one of them");
                return Err(Failure { set, reason: Reason::NameConflict, message });
            }
            claimed.extend(template.containers.iter().map(|prepared| (prepared.name.as_str(), set.name.as_str())));
        }
        Ok(())
    }

    pub(super) fn check_volumes(&self) -> Result<(), Failure<'a>> {
        let mut claimed: BTreeMap<&str, &Value> = BTreeMap::new();
        for PlacedSet { set, template, .. } in &self.sets {
            for volume in &template.volumes {
                let name = volume["name"].as_str().unwrap_or_default();
                let ours = self.was_added(name);
                let existing = elements(self.draft.pod(), &VOLUMES).find(|existing| existing["name"] == name && !ours);
                if existing.or(claimed.get(name).copied()).is_some_and(|other| !volumes::same(other, volume)) {
                    let message = format!(
                        "there is another volume {name:?} in the pod or in another SidecarSet; rename one of them or make the two equal"
                    );
                    return Err(Failure { set, reason: Reason::VolumeConflict, message });
                }
                claimed.insert(name, volume);
            }
        }
        Ok(())
    }
}
