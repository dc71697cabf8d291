//! What to do with the Secret's certificates: a function of its contents, the time and the names.
//!
//! A new CA is taken into use in two phases, and the contents themselves say in which one they are:
//! 1. *Published*: `ca.crt` is the new CA and `ca-bundle.crt` has both; the leaf is still the old CA's. Recognised by the
//!    leaf not being signed by `ca.crt`; began at `ca.crt`'s notBefore + [`CLOCK_SKEW`].
//! 2. *In use*: after [`PUBLISH_DELAY`], `tls.crt` is issued by the new CA. The old CA stays in the bundle until it expires.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use super::x509::{Facts, certificates, signed_by};

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

/// The parts of the Secret. A part that is missing is empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// `ca.crt`: the CA that signs new leaves, PEM.
    pub(crate) ca_crt: Vec<u8>,
    /// `ca.key`: its key, PKCS#8 PEM.
    pub(crate) ca_key: Vec<u8>,
    /// `tls.crt`: the leaf that is served, PEM.
    pub(crate) tls_crt: Vec<u8>,
    /// `tls.key`: its key, PKCS#8 PEM.
    pub(crate) tls_key: Vec<u8>,
    /// `ca-bundle.crt`: the CA and its unexpired predecessors, PEM, newest first.
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
    let leaf = Leaf::read(contents, &bundle, now);
    let Some(ca) = Ca::read(contents, now) else {
        return match leaf {
            Some(leaf) if leaf.facts.names == *names => publish(contents, &bundle, now),
            _ => everything(&bundle, now, names),
        };
    };
    if now >= two_thirds(&ca.facts) {
        return match leaf {
            Some(leaf) if leaf.facts.names == *names => publish(contents, &bundle, now),
            _ => everything(&bundle, now, names),
        };
    }
    let issue = |reason| -> Result<Plan, rcgen::Error> {
        let (tls_crt, tls_key) = ca.issue(now, names)?;
        let ca_bundle = pem(&with_first(&ca.der, &bundle));
        Ok(Plan::Rotate { contents: Contents { tls_crt, tls_key, ca_bundle, ..contents.clone() }, reason })
    };
    let Some(leaf) = leaf else {
        return issue(RotationReason::LeafUnusable);
    };
    if leaf.facts.names != *names {
        return issue(RotationReason::Names);
    }
    let signed_by_current = signed_by(&leaf.der, &ca.der);
    let due = if signed_by_current {
        two_thirds(&leaf.facts)
    } else {
        // The old leaf may be due meanwhile; it serves on, for the new CA is not yet known everywhere.
        (ca.facts.not_before + CLOCK_SKEW + PUBLISH_DELAY).min(leaf.facts.not_after)
    };
    if now >= due {
        return issue(if signed_by_current { RotationReason::LeafAge } else { RotationReason::UseNewCa });
    }
    Ok(Plan::Keep { next_check: due.min(two_thirds(&ca.facts)) })
}

/// Phase 1: a new CA, known to all before it signs anything.
fn publish(contents: &Contents, bundle: &[CertificateDer<'static>], now: Timestamp) -> Result<Plan, rcgen::Error> {
    let (ca, ca_crt, ca_key) = Ca::create(now)?;
    let ca_bundle = pem(&with_first(&ca.der, bundle));
    let contents = Contents { ca_crt, ca_key, ca_bundle, ..contents.clone() };
    Ok(Plan::Rotate { contents, reason: RotationReason::NewCa })
}

/// CA and leaf at once. What is left of the bundle stays: another replica may still serve a leaf of an old CA.
fn everything(
    bundle: &[CertificateDer<'static>],
    now: Timestamp,
    names: &BTreeSet<String>,
) -> Result<Plan, rcgen::Error> {
    let (ca, ca_crt, ca_key) = Ca::create(now)?;
    let (tls_crt, tls_key) = ca.issue(now, names)?;
    let ca_bundle = pem(&with_first(&ca.der, bundle));
    let contents = Contents { ca_crt, ca_key, tls_crt, tls_key, ca_bundle };
    Ok(Plan::Rotate { contents, reason: RotationReason::Unusable })
}

struct Leaf {
    der: CertificateDer<'static>,
    facts: Facts,
}

impl Leaf {
    /// The leaf if it can be served: valid now, with its key, and trusted through the bundle.
    fn read(contents: &Contents, bundle: &[CertificateDer<'static>], now: Timestamp) -> Option<Self> {
        let der = certificates(&contents.tls_crt).into_iter().next()?;
        let facts = Facts::of(&der)?;
        let usable = facts.not_before <= now
            && now < facts.not_after
            && key(&contents.tls_key)?.subject_public_key_info() == facts.public_key
            && bundle.iter().any(|ca| signed_by(&der, ca));
        usable.then_some(Self { der, facts })
    }
}

struct Ca {
    der: CertificateDer<'static>,
    facts: Facts,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// The CA if it can sign: valid now, with its key.
    fn read(contents: &Contents, now: Timestamp) -> Option<Self> {
        let der = certificates(&contents.ca_crt).into_iter().next()?;
        let facts = Facts::of(&der)?;
        let key = key(&contents.ca_key)?;
        let usable = facts.is_ca
            && facts.not_before <= now
            && now < facts.not_after
            && key.subject_public_key_info() == facts.public_key;
        let issuer = Issuer::from_ca_cert_der(&der, key).ok()?;
        usable.then_some(Self { der, facts, issuer })
    }

    fn create(now: Timestamp) -> Result<(Self, Vec<u8>, Vec<u8>), rcgen::Error> {
        // A name of its own per CA: a verifier then finds the right one of the bundle at the first try.
        let mut params = params(format!("sidecarset-webhook-ca-{}", now.as_second()), now, CA_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        let key_pem = key.serialize_pem().into_bytes();
        let der = certificate.der().clone();
        let facts = Facts::of(&der).ok_or(rcgen::Error::CouldNotParseCertificate)?;
        let issuer = Issuer::new(params, key);
        Ok((Self { der, facts, issuer }, certificate.pem().into_bytes(), key_pem))
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

fn key(pem: &[u8]) -> Option<KeyPair> {
    KeyPair::from_pem(std::str::from_utf8(pem).ok()?).ok()
}

/// The CAs of the bundle that are still valid, without duplicates. `ca.crt` belongs to it whatever the bundle says.
fn bundle(contents: &Contents, now: Timestamp) -> Vec<CertificateDer<'static>> {
    let listed = [&contents.ca_crt, &contents.ca_bundle].into_iter().flat_map(|pem| certificates(pem));
    let mut bundle = Vec::new();
    for der in listed {
        let valid = Facts::of(&der).is_some_and(|facts| facts.is_ca && now < facts.not_after);
        if valid && !bundle.contains(&der) {
            bundle.push(der);
        }
    }
    bundle
}

fn with_first(first: &CertificateDer<'static>, rest: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
    let rest = rest.iter().filter(|der| *der != first);
    std::iter::once(first).chain(rest).take(MAX_BUNDLE).cloned().collect()
}

fn pem(bundle: &[CertificateDer<'static>]) -> Vec<u8> {
    let blocks: Vec<_> = bundle.iter().map(|der| pem::Pem::new("CERTIFICATE", der.to_vec())).collect();
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_many_config(&blocks, config).into_bytes()
}

fn two_thirds(facts: &Facts) -> Timestamp {
    let life = facts.not_after.duration_since(facts.not_before);
    facts.not_before + life * 2 / 3
}

#[cfg(test)]
mod tests;
