//! What to do with the Secret's certificates: a function of its contents, the time and the names.
//!
//! A new CA is taken into use in two phases, and the contents themselves say in which one they are:
//! 1. *Published*: `ca.crt` is the new CA and `ca-bundle.crt` has both; the leaf is still the old CA's. Recognised by the
//!    leaf not being signed by `ca.crt`; began at `ca.crt`'s notBefore + `CLOCK_SKEW`.
//! 2. *In use*: after `PUBLISH_DELAY`, `tls.crt` is issued by the new CA. The old CA stays in the bundle until it expires.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// Life of a CA. A leaf that is issued just before rotation at two thirds still ends before it.
pub(crate) const CA_LIFE: SignedDuration = SignedDuration::from_hours(2 * 365 * 24);

/// Life of the served certificate.
pub(crate) const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Certificates begin this long before they are made, for clients whose clocks are behind.
pub(crate) const CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(1);

/// Time between publishing a CA and using it: replicas look every minute, then the leader writes the registration.
pub const PUBLISH_DELAY: SignedDuration = SignedDuration::from_hours(1);

/// Bound on the bundle, whatever happens to the Secret; rotation alone never has more than two.
const MAX_BUNDLE: usize = 5;

/// The parts of the Secret, all PEM. A part that is missing is empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The CA that signs new leaves.
    pub(crate) ca_crt: Vec<u8>,
    pub(crate) ca_key: Vec<u8>,
    /// The leaf that is served.
    pub(crate) tls_crt: Vec<u8>,
    pub(crate) tls_key: Vec<u8>,
    /// The CA and its unexpired predecessors, newest first.
    pub(crate) ca_bundle: Vec<u8>,
}

impl std::fmt::Debug for Contents {
    /// Keys do not reach logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

impl Contents {
    const KEYS: [&'static str; 5] = ["ca.crt", "ca.key", "tls.crt", "tls.key", "ca-bundle.crt"];

    /// From a Secret's data, by key.
    pub(crate) fn from_data<'a>(get: impl Fn(&str) -> Option<&'a [u8]>) -> Self {
        let [ca_crt, ca_key, tls_crt, tls_key, ca_bundle] = Self::KEYS.map(|key| get(key).unwrap_or_default().to_vec());
        Self { ca_crt, ca_key, tls_crt, tls_key, ca_bundle }
    }

    /// As a Secret's data.
    pub fn into_data(self) -> BTreeMap<String, Vec<u8>> {
        let Self { ca_crt, ca_key, tls_crt, tls_key, ca_bundle } = self;
        let parts = [ca_crt, ca_key, tls_crt, tls_key, ca_bundle];
        Self::KEYS.iter().map(|key| (*key).to_owned()).zip(parts).collect()
    }
}

/// Why new contents are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationReason {
    /// Nothing usable is there: everything is new.
    Unusable,
    /// The CA is missing, damaged, or past two thirds of its life: a new one is published, the leaf stays.
    NewCa,
    /// A published CA has been published for long enough: the leaf is now issued by it.
    UseNewCa,
    /// The leaf is past two thirds of its life.
    LeafAge,
    /// The names to be served are not the leaf's.
    Names,
    /// The leaf is damaged or expired, or no CA of the bundle signed it.
    LeafUnusable,
}

impl RotationReason {
    /// What is served now may not work, so there is no time for letting another replica go first.
    pub(crate) fn is_urgent(self) -> bool {
        matches!(self, Self::Unusable | Self::Names | Self::LeafUnusable)
    }
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// All is well until then, unless the Secret or the names change.
    Keep {
        /// When the next phase is due.
        next_check: Timestamp,
    },
    /// Write these, then decide again.
    Rotate {
        /// The new contents.
        contents: Contents,
        /// Why.
        reason: RotationReason,
    },
}

/// What clients are to trust at `now`, PEM: `ca.crt` and the unexpired CAs of the bundle.
pub(crate) fn trusted(contents: &Contents, now: Timestamp) -> Vec<u8> {
    pem(&bundle(contents, now))
}

/// What to do at `now` so that a certificate for exactly `names` (DNS names and IP addresses) is served. No I/O; the only
/// thing that is not a function of the arguments is the new keys.
pub fn plan(contents: &Contents, now: Timestamp, names: &BTreeSet<String>) -> Result<Plan, rcgen::Error> {
    let bundle = bundle(contents, now);
    let leaf = leaf(contents, &bundle, now);
    let Some(ca) = Ca::read(contents, now).filter(|ca| now < ca.certificate.two_thirds()) else {
        let (ca, ca_crt, ca_key) = Ca::create(now)?;
        // What is left of the bundle stays: another replica may still serve a leaf of an old CA.
        let published = Contents { ca_crt, ca_key, ca_bundle: ca.pem_with(&bundle), ..contents.clone() };
        if leaf.is_some_and(|leaf| leaf.names == *names) {
            return Ok(Plan::Rotate { contents: published, reason: RotationReason::NewCa });
        }
        let (tls_crt, tls_key) = ca.issue(now, names)?;
        let contents = Contents { tls_crt, tls_key, ..published };
        return Ok(Plan::Rotate { contents, reason: RotationReason::Unusable });
    };
    let issue = |reason| -> Result<Plan, rcgen::Error> {
        let (tls_crt, tls_key) = ca.issue(now, names)?;
        let contents = Contents { tls_crt, tls_key, ca_bundle: ca.pem_with(&bundle), ..contents.clone() };
        Ok(Plan::Rotate { contents, reason })
    };
    let Some(leaf) = leaf else {
        return issue(RotationReason::LeafUnusable);
    };
    if leaf.names != *names {
        return issue(RotationReason::Names);
    }
    let signed_by_current = leaf.is_signed_by(&ca.certificate);
    let due = if signed_by_current {
        leaf.two_thirds()
    } else {
        // The old leaf may be due meanwhile; it serves on, for the new CA is not yet known everywhere.
        (ca.certificate.not_before + CLOCK_SKEW + PUBLISH_DELAY).min(leaf.not_after)
    };
    if now >= due {
        return issue(if signed_by_current { RotationReason::LeafAge } else { RotationReason::UseNewCa });
    }
    Ok(Plan::Keep { next_check: due.min(ca.certificate.two_thirds()) })
}

/// The leaf if it can be served: valid now, with its key, and trusted through the bundle.
fn leaf(contents: &Contents, bundle: &[Certificate], now: Timestamp) -> Option<Certificate> {
    let (leaf, _) = with_key(&contents.tls_crt, &contents.tls_key, now)?;
    bundle.iter().any(|ca| leaf.is_signed_by(ca)).then_some(leaf)
}

/// The first certificate and its key, if it is valid now and the key is its own.
fn with_key(certificate: &[u8], key: &[u8], now: Timestamp) -> Option<(Certificate, KeyPair)> {
    let certificate = certificates(certificate).into_iter().next()?;
    let key = KeyPair::from_pem(std::str::from_utf8(key).ok()?).ok()?;
    let usable = certificate.is_valid(now) && key.subject_public_key_info() == certificate.public_key;
    usable.then_some((certificate, key))
}

struct Ca {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// The CA if it can sign.
    fn read(contents: &Contents, now: Timestamp) -> Option<Self> {
        let (certificate, key) = with_key(&contents.ca_crt, &contents.ca_key, now)?;
        let issuer = Issuer::from_ca_cert_der(&certificate.der, key).ok()?;
        certificate.is_ca.then_some(Self { certificate, issuer })
    }

    /// A new one, and its `ca.crt` and `ca.key`.
    fn create(now: Timestamp) -> Result<(Self, Vec<u8>, Vec<u8>), rcgen::Error> {
        // A name of its own per CA: a verifier then finds the right one of the bundle at the first try.
        let mut params = params(format!("sidecarset-webhook-ca-{}", now.as_second()), now, CA_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let made = params.self_signed(&key)?;
        let (crt, key_pem) = (made.pem().into_bytes(), key.serialize_pem().into_bytes());
        let certificate = Certificate::read(made.der().clone()).ok_or(rcgen::Error::CouldNotParseCertificate)?;
        Ok((Self { certificate, issuer: Issuer::new(params, key) }, crt, key_pem))
    }

    /// A new leaf and its key, both PEM.
    fn issue(&self, now: Timestamp, names: &BTreeSet<String>) -> Result<(Vec<u8>, Vec<u8>), rcgen::Error> {
        let mut params = params("sidecarset-webhook".to_owned(), now, LEAF_LIFE)?;
        let alternative = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        params.subject_alt_names = alternative.subject_alt_names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem().into_bytes(), key.serialize_pem().into_bytes()))
    }

    /// The bundle with this CA in front, PEM.
    fn pem_with(&self, bundle: &[Certificate]) -> Vec<u8> {
        let others = bundle.iter().filter(|other| **other != self.certificate);
        pem(std::iter::once(&self.certificate).chain(others).take(MAX_BUNDLE))
    }
}

fn params(name: String, now: Timestamp, life: SignedDuration) -> Result<CertificateParams, rcgen::Error> {
    let date = |at: Timestamp| OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| rcgen::Error::Time);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date(now - CLOCK_SKEW)?;
    params.not_after = date(now + life)?;
    Ok(params)
}

/// The CAs of the bundle that are still valid, without duplicates. `ca.crt` belongs to it whatever the bundle says.
fn bundle(contents: &Contents, now: Timestamp) -> Vec<Certificate> {
    let mut bundle = certificates(&contents.ca_crt);
    for listed in certificates(&contents.ca_bundle) {
        if !bundle.contains(&listed) {
            bundle.push(listed);
        }
    }
    bundle.retain(|certificate| certificate.is_ca && now < certificate.not_after);
    bundle
}

fn pem<'a>(bundle: impl IntoIterator<Item = &'a Certificate>) -> Vec<u8> {
    let block = |certificate: &Certificate| pem::Pem::new("CERTIFICATE", certificate.der.to_vec());
    let blocks: Vec<_> = bundle.into_iter().map(block).collect();
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_many_config(&blocks, config).into_bytes()
}

/// What the decisions need to know about a certificate that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    der: CertificateDer<'static>,
    not_before: Timestamp,
    pub(super) not_after: Timestamp,
    is_ca: bool,
    /// DER of its `SubjectPublicKeyInfo`.
    public_key: Vec<u8>,
    /// DNS names and IP addresses of the subjectAltName, as text.
    names: BTreeSet<String>,
}

impl Certificate {
    /// `None` if it is none.
    fn read(der: CertificateDer<'static>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(&der).ok()?;
        let validity = certificate.validity();
        let names = certificate.subject_alternative_name().ok()?;
        let names = names.map(|extension| &extension.value.general_names);
        Some(Self {
            not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
            not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
            is_ca: certificate.is_ca(),
            public_key: certificate.public_key().raw.to_vec(),
            names: names.into_iter().flatten().filter_map(name).collect(),
            der,
        })
    }

    /// Whether `issuer`'s key signed it.
    fn is_signed_by(&self, issuer: &Self) -> bool {
        let (Ok((_, own)), Ok((_, issuer))) = (parse_x509_certificate(&self.der), parse_x509_certificate(&issuer.der))
        else {
            return false;
        };
        own.issuer() == issuer.subject() && own.verify_signature(Some(issuer.public_key())).is_ok()
    }

    fn is_valid(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// When its successor is due.
    fn two_thirds(&self) -> Timestamp {
        self.not_before + self.not_after.duration_since(self.not_before) * 2 / 3
    }
}

/// All certificates of a PEM text that parse; what does not is left out.
pub(super) fn certificates(pem: &[u8]) -> Vec<Certificate> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).filter_map(Certificate::read).collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or(v6).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
