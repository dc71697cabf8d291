//! Kubernetes' syntax of names (`k8s.io/apimachinery/pkg/util/validation`).

use crate::api::keys::GROUP;

pub(super) const QUALIFIED_NAME: &str = "the key must be a name of at most 63 letters, digits, '-', '_' and '.', with an optional DNS prefix and '/' in front";
pub(super) const LABEL_VALUE: &str =
    "the value must have at most 63 letters, digits, '-', '_' and '.', and begin and end with a letter or digit";
pub(super) const DNS_LABEL: &str =
    "must have at most 63 lower-case letters, digits and '-', and begin and end with a letter or digit";

pub(super) const PORT_NAME: &str =
    "must have at most 15 lower-case letters, digits and single '-', at least one of them a letter";

pub(super) fn is_dns_label(name: &str) -> bool {
    is_word(name, |b| b.is_ascii_lowercase() || b.is_ascii_digit(), b"-")
}

/// `IANA_SVC_NAME`: at most 15 lower-case letters, digits and '-', with a letter, and no '-' at an edge or twice.
pub(super) fn is_port_name(name: &str) -> bool {
    is_dns_label(name) && name.len() <= 15 && !name.contains("--") && name.bytes().any(|b| b.is_ascii_lowercase())
}

pub(super) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_name(value)
}

pub(super) fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => prefix.len() <= 253 && prefix.split('.').all(is_dns_label) && is_name(name),
        None => is_name(key),
    }
}

/// True for a key that only this program may write.
pub(super) fn is_own(key: &str) -> bool {
    key.split_once('/').is_some_and(|(prefix, _)| prefix == GROUP || prefix.ends_with(&format!(".{GROUP}")))
}

fn is_name(name: &str) -> bool {
    is_word(name, u8::is_ascii_alphanumeric, b"-_.")
}

/// At most 63 bytes: letters at the edges, letters and signs between.
fn is_word(text: &str, is_letter: fn(&u8) -> bool, signs: &[u8]) -> bool {
    let edges = text.as_bytes().first().zip(text.as_bytes().last());
    edges.is_some_and(|(first, last)| is_letter(first) && is_letter(last))
        && text.len() <= 63
        && text.as_bytes().iter().all(|b| is_letter(b) || signs.contains(b))
}
