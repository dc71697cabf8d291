//! The two container lists of a pod.

/// One of the two container lists of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum List {
    Init,
    Ordinary,
}

impl List {
    /// Both lists, in the order in which their containers start.
    pub(crate) const ALL: [Self; 2] = [Self::Init, Self::Ordinary];

    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Init => "initContainers",
            Self::Ordinary => "containers",
        }
    }

    pub(crate) fn status_field(self) -> &'static str {
        match self {
            Self::Init => "initContainerStatuses",
            Self::Ordinary => "containerStatuses",
        }
    }
}
