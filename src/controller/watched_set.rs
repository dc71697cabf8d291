//! A set as watched.

use kube::core::DeserializeGuard;
use kube::{Resource, ResourceExt};

use crate::api::SidecarSet;

/// One that cannot be decoded must not break the watch of the others.
#[derive(Clone, Debug)]
pub(super) struct WatchedSet(pub(super) DeserializeGuard<SidecarSet>);

impl WatchedSet {
    pub(super) fn name(&self) -> String {
        self.0.name_any()
    }
}

impl<'de> serde::Deserialize<'de> for WatchedSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DeserializeGuard::deserialize(deserializer).map(Self)
    }
}

impl Resource for WatchedSet {
    type DynamicType = ();
    type Scope = kube::core::ClusterResourceScope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        SidecarSet::kind(&())
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        SidecarSet::group(&())
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        SidecarSet::version(&())
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        SidecarSet::plural(&())
    }

    fn meta(&self) -> &kube::core::ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut kube::core::ObjectMeta {
        self.0.meta_mut()
    }
}
