//! What a text of somebody else names.

/// The names in quotes that follow one of these words: `containers "app", "agent" must …` names `app` and `agent`.
pub(super) fn quoted_names<'a>(text: &'a str, words: &[&str]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for word in words {
        for (at, _) in text.match_indices(&format!("{word} \"")) {
            let mut rest = &text[at + word.len() + 1..];
            while let Some((name, after)) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
                names.push(name);
                rest = after.strip_prefix(", ").unwrap_or_default();
            }
        }
    }
    names
}

/// Whether a text has this word: not as a part of another name, or of an image.
pub(super) fn is_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '@');
    let begins = |before: &str| !before.chars().next_back().is_some_and(|c| is_part(c) || matches!(c, '.' | ':'));
    let ends = |after: &str| {
        let mut next = after.chars();
        match next.next() {
            // The end of a sentence, or more of a name.
            Some('.' | ':') => !next.next().is_some_and(char::is_alphanumeric),
            next => !next.is_some_and(is_part),
        }
    };
    !word.is_empty() && text.match_indices(word).any(|(at, _)| begins(&text[..at]) && ends(&text[at + word.len()..]))
}

/// Whether it names the image, as it is written or in full, its repository or its registry.
pub(super) fn names_image(text: &str, image: &str) -> bool {
    let without_digest = image.split('@').next().unwrap_or_default();
    let (path, last) = without_digest.rsplit_once('/').unwrap_or(("", without_digest));
    let repository =
        if path.is_empty() { "" } else { &without_digest[..path.len() + 1 + last.find(':').unwrap_or(last.len())] };
    let registry = path.split('/').next().filter(|host| host.contains(['.', ':'])).unwrap_or_default();
    let in_full = ["docker.io/", "docker.io/library/"].map(|registry| format!("{registry}{image}"));
    [image, without_digest, repository, registry]
        .into_iter()
        .chain(in_full.iter().map(String::as_str))
        .any(|it| is_word(text, it))
}

/// Whether it says where a container stands: `containers[1]`, `/spec/containers/1/image` or `containers.1.image`.
pub(super) fn names_place(text: &str, place: &str) -> bool {
    let spellings = [place.to_owned(), place.replace(['[', ']'], "/"), place.replace(['[', ']'], ".")];
    spellings
        .iter()
        .flat_map(|place| text.match_indices(place.as_str()))
        .any(|(at, _)| !text[..at].chars().next_back().is_some_and(char::is_alphanumeric))
}
