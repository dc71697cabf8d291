//! The two container lists of a pod.

/// One of the two container lists of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum List {
    /// `spec.initContainers`
    Init,
    /// `spec.containers`
    Ordinary,
}

impl List {
    /// Both lists, in the order in which their containers start.
    pub(crate) const ALL: [Self; 2] = [Self::Init, Self::Ordinary];

    /// Name of the list in the spec of a set and of a pod.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Init => "initContainers",
            Self::Ordinary => "containers",
        }
    }

    /// Name of the list in the status of a pod.
    pub(crate) fn status_field(self) -> &'static str {
        match self {
            Self::Init => "initContainerStatuses",
            Self::Ordinary => "containerStatuses",
        }
    }
}
