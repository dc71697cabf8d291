//! Texts of others, such as the API server, a webhook or the kubelet, on their way into a status.

/// Characters that are kept of one.
pub(crate) const LONGEST: usize = 300;

/// The text, cut off if it is long.
pub(crate) fn bounded(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::bounded;

    #[test]
    fn a_long_text_is_cut_off_between_two_characters() {
        assert_eq!(bounded("é".repeat(1000)).chars().count(), 301);
        assert_eq!(bounded("é".repeat(300)), "é".repeat(300));
    }
}
