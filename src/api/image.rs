//! References to images, and whether two of them mean the same image.

use std::borrow::Cow;

const DEFAULT_REGISTRY: &str = "docker.io";

/// Another name of it (`github.com/distribution/reference`, `splitDockerDomain`).
const LEGACY_REGISTRY: &str = "index.docker.io";

const DEFAULT_TAG: &str = "latest";

/// `name:tag@digest`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image<'a> {
    /// Registry and repository, as written.
    pub(crate) name: &'a str,
    pub(crate) tag: Option<&'a str>,
    /// With its algorithm: `sha256:…`.
    pub(crate) digest: Option<&'a str>,
}

impl<'a> Image<'a> {
    /// Takes a reference apart. Any text is one: the kubelet is the judge of it.
    pub(crate) fn parse(reference: &'a str) -> Self {
        let (named, digest) = split(reference, '@');
        // A colon in front of a slash is that of a registry's port.
        let path = named.rfind('/').map_or(0, |slash| slash + 1);
        let (_, tag) = split(&named[path..], ':');
        let name = &named[..named.len() - tag.map_or(0, |tag| tag.len() + 1)];
        Self { name, tag, digest }
    }

    /// The tag that is pulled; `None` if only a digest is named.
    pub(crate) fn pulled_tag(&self) -> Option<&'a str> {
        self.tag.or(if self.digest.is_none() { Some(DEFAULT_TAG) } else { None })
    }

    /// `imagePullPolicy` of a container that names none (`SetDefaults_Container` in `k8s.io/kubernetes/pkg/apis/core/v1`).
    pub(crate) fn default_pull_policy(&self) -> &'static str {
        if self.pulled_tag() == Some(DEFAULT_TAG) { "Always" } else { "IfNotPresent" }
    }

    fn repository(&self) -> (&'a str, Cow<'a, str>) {
        let (registry, path) = match self.name.split_once('/') {
            Some((LEGACY_REGISTRY, path)) => (DEFAULT_REGISTRY, path),
            Some((first, path)) if is_registry(first) => (first, path),
            _ => (DEFAULT_REGISTRY, self.name),
        };
        let is_official = registry == DEFAULT_REGISTRY && !path.contains('/');
        (registry, if is_official { format!("library/{path}").into() } else { path.into() })
    }
}

/// Whether two references mean the same image, so that to write one in place of the other would restart a container for
/// nothing. A digest decides where both have one, whatever the tags say: that is what runtimes pull. A tag is never the
/// same as a digest: what it points to changes. Registries and tags are completed as containerd does it.
///
/// Not for what a kubelet does: it restarts a container for each change of the text.
pub(crate) fn same_image(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let (a, b) = (Image::parse(a), Image::parse(b));
    let same_version =
        if a.digest.is_some() { a.digest == b.digest } else { b.digest.is_none() && a.pulled_tag() == b.pulled_tag() };
    same_version && a.repository() == b.repository()
}

/// Whether an image may be what admission made of the wanted one: that of a mirror, where the path before its last part is
/// another.
pub(crate) fn is_rewritten(image: &str, wanted: &str) -> bool {
    let (image, wanted) = (Image::parse(image), Image::parse(wanted));
    image.name.rsplit('/').next() == wanted.name.rsplit('/').next()
        && (image.pulled_tag(), image.digest) == (wanted.pulled_tag(), wanted.digest)
}

/// The part in front of the first slash is a registry, and not a user of the default one.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase)
}

fn split(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(before, after)| (before, Some(after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spelling_makes_no_other_image() {
        for (a, b, same) in [
            ("nginx", "nginx", true),
            ("nginx", "nginx:latest", true),
            ("nginx", "docker.io/library/nginx:latest", true),
            ("nginx", "index.docker.io/library/nginx", true),
            ("nginx", "docker.io/nginx", true),
            ("user/agent:v1", "docker.io/user/agent:v1", true),
            ("nginx", "nginx:1.27", false),
            ("nginx", "quay.io/library/nginx", false),
            ("library/nginx", "nginx", true),
            ("user/nginx", "nginx", false),
            ("localhost/agent:v1", "docker.io/localhost/agent:v1", false),
            ("registry:5000/agent", "registry:5000/agent:latest", true),
            ("registry:5000/agent:v1", "registry/agent:v1", false),
            ("quay.io/agent:v1", "quay.io/library/agent:v1", false),
            ("Quay/agent", "docker.io/Quay/agent", false),
            ("agent:V1", "agent:v1", false),
        ] {
            assert_eq!((same_image(a, b), same_image(b, a)), (same, same), "{a} {b}");
        }
    }

    #[test]
    fn a_digest_decides_where_both_have_one_and_is_no_tag() {
        for (a, b, same) in [
            ("agent:v1@sha256:aa", "agent:v1@sha256:aa", true),
            ("agent:v1@sha256:aa", "agent@sha256:aa", true),
            ("agent:v1@sha256:aa", "agent:v2@sha256:aa", true),
            ("agent@sha256:aa", "docker.io/library/agent:latest@sha256:aa", true),
            ("agent@sha256:aa", "quay.io/agent@sha256:aa", false),
            ("agent:v1@sha256:aa", "agent:v1@sha256:bb", false),
            ("agent:v1", "agent:v1@sha256:aa", false),
            ("agent", "agent@sha256:aa", false),
            ("agent@sha256:aa", "agent@sha512:aa", false),
        ] {
            assert_eq!((same_image(a, b), same_image(b, a)), (same, same), "{a} {b}");
        }
    }

    #[test]
    fn a_mirror_changes_the_path_before_the_last_part() {
        for (image, wanted, rewritten) in [
            ("mirror.test/agent:v1", "agent:v1", true),
            ("mirror.test:5000/quay.io/team/agent:v1", "quay.io/team/agent:v1", true),
            ("mirror.test/agent@sha256:aa", "agent@sha256:aa", true),
            ("mirror.test/agent", "agent:latest", true),
            ("mirror.test/agent:v1", "agent:v2", false),
            ("mirror.test/agent:v1@sha256:aa", "agent:v1", false),
            ("mirror.test/my-agent:v1", "agent:v1", false),
        ] {
            assert_eq!(is_rewritten(image, wanted), rewritten, "{image} {wanted}");
        }
    }

    #[test]
    fn only_latest_is_pulled_always() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("registry:5000/nginx", "Always"),
            ("nginx:latest@sha256:aa", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("nginx@sha256:aa", "IfNotPresent"),
        ] {
            assert_eq!(Image::parse(image).default_pull_policy(), policy, "{image}");
        }
    }
}
