//! What a conversion says to the person who runs it.

use std::fmt;

/// One line: `SidecarSet/log-agent: spec.namespace: reason and what to do`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// What is spoken of, for example `SidecarSet/log-agent`.
    pub(crate) subject: String,
    /// The field, in the source or in the result.
    pub(crate) path: String,
    /// What was done with it, and what to do.
    pub(crate) message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.subject, self.path, self.message)
    }
}

/// The notes about one subject, in the order of its fields.
#[derive(Debug)]
pub(super) struct Notes {
    subject: String,
    list: Vec<Note>,
    /// The result is not usable as it stands.
    pub(super) failed: bool,
}

impl Notes {
    pub(super) fn about(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), list: Vec::new(), failed: false }
    }

    pub(super) fn say(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.list.push(Note { subject: self.subject.clone(), path: path.into(), message: message.into() });
    }

    pub(super) fn refuse(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.failed = true;
        self.say(path, message);
    }

    pub(super) fn into_list(self) -> Vec<Note> {
        self.list
    }
}
