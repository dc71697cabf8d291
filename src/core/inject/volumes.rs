//! Volumes: what a set's volume becomes in a pod, and whether two of one name are the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::compile::CompiledTemplate;
use super::decision::Failure;
use super::patch::{VOLUMES, elements};
use super::placement::{PlacedSet, Placement};
use crate::api::canonical::same;
use crate::api::reasons::Reason;

impl<'a> Placement<'a> {
    pub(super) fn check_volumes(&self) -> Result<(), Failure<'a>> {
        let mut claimed: BTreeMap<&str, &Value> = BTreeMap::new();
        for PlacedSet { set, template, .. } in &self.sets {
            for volume in &template.volumes {
                let name = volume["name"].as_str().unwrap_or_default();
                let ours = self.was_added(name);
                if self.is_the_pods(template, name) {
                    continue;
                }
                let existing = elements(self.patch.pod(), &VOLUMES).find(|existing| existing["name"] == name && !ours);
                if existing.or(claimed.get(name).copied()).is_some_and(|other| !same("volumes", other, volume)) {
                    let message = format!(
                        "there is another volume {name:?} in the pod or in another SidecarSet: rename one of them, make the two equal, or name it in podVolumes to mount the pod's"
                    );
                    return Err(Failure { set, reason: Reason::VolumeConflict, message });
                }
                claimed.insert(name, volume);
            }
            if let Some(name) = self.missing_volume(template) {
                let message = format!(
                    "the pod has no volume {name:?}: add it to the pod, or to the volumes of the SidecarSet for pods without it"
                );
                return Err(Failure { set, reason: Reason::VolumeNotFound, message });
            }
        }
        Ok(())
    }

    /// Adds the volumes of a set. `claimed`: those that an earlier set has in its record.
    pub(super) fn place_volumes(&mut self, set: usize, claimed: &mut BTreeSet<String>) {
        for volume in &self.sets[set].template.volumes {
            let name = volume["name"].as_str().unwrap_or_default();
            if self.is_the_pods(self.sets[set].template, name) {
                continue;
            }
            let ours = self.was_added(name);
            let index = self.patch.position(&VOLUMES, name);
            match index {
                None => self.patch.insert(&VOLUMES, usize::MAX, volume),
                Some(index) => {
                    let existing = &self.patch.pod()["spec"]["volumes"][index];
                    if !same("volumes", existing, volume) {
                        self.patch.replace(&VOLUMES, index, volume);
                    }
                }
            }
            if (ours || index.is_none()) && claimed.insert(name.to_owned()) {
                let record = &mut self.sets[set].record;
                record.volumes.push(name.to_owned());
                record.claims.extend(is_claim(volume).then(|| name.to_owned()));
            }
        }
    }

    /// A volume of `podVolumes` that the pod declares itself: that one is mounted, whatever the set would bring.
    fn is_the_pods(&self, template: &CompiledTemplate, volume: &str) -> bool {
        template.pod_volumes.contains(volume)
            && !self.was_added(volume)
            && self.patch.position(&VOLUMES, volume).is_some()
    }

    /// A volume of `podVolumes` that neither the pod nor the set has. What a set that injects
    /// now has added is not the pod's.
    fn missing_volume(&self, template: &'a CompiledTemplate) -> Option<&'a String> {
        let brought = |name: &str| template.volumes.iter().any(|volume| volume["name"] == name);
        let is_there = |name: &str| self.patch.position(&VOLUMES, name).is_some() && !self.is_kept(name);
        template.pod_volumes.iter().find(|name| !brought(name) && !is_there(name))
    }

    /// A volume that came with a set that injects now, or with one whose sidecars are gone: sets may share it.
    fn was_added(&self, volume: &str) -> bool {
        self.left_volumes.contains(volume) || self.is_kept(volume)
    }

    fn is_kept(&self, volume: &str) -> bool {
        let kept = self.sets.iter().filter_map(|placed| placed.kept);
        kept.flat_map(|kept| &kept.volumes).any(|name| name == volume)
    }
}

/// A `StatefulSet` puts its claim in the place of a volume of the template, whoever added that.
pub(super) fn is_claim(volume: &Value) -> bool {
    !volume["persistentVolumeClaim"].is_null()
}
