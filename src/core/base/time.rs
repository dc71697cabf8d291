//! Arithmetic with times that may come from anybody.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// A later time; the end of time if there is none. Annotations may be written by anybody, with any time in them.
pub(crate) fn after(at: Timestamp, duration: SignedDuration) -> Timestamp {
    at.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// A field of a spec that counts seconds.
pub(crate) fn seconds(seconds: i32) -> SignedDuration {
    SignedDuration::from_secs(i64::from(seconds))
}

/// As the API keeps times; a finer one would differ from what is read back.
pub(crate) fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
