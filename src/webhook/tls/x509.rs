//! What the decisions need to know about certificates that exist.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) is_ca: bool,
    /// DER of its `SubjectPublicKeyInfo`.
    pub(super) public_key: Vec<u8>,
    /// DNS names and IP addresses of the subjectAltName, as text.
    pub(super) names: BTreeSet<String>,
}

impl Certificate {
    /// `None` if it is none.
    pub(super) fn read(der: CertificateDer<'static>) -> Option<Self> {
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
    pub(super) fn is_signed_by(&self, issuer: &Self) -> bool {
        let (Ok((_, own)), Ok((_, issuer))) = (parse_x509_certificate(&self.der), parse_x509_certificate(&issuer.der))
        else {
            return false;
        };
        own.issuer() == issuer.subject() && own.verify_signature(Some(issuer.public_key())).is_ok()
    }

    pub(super) fn is_valid(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// When its successor is due.
    pub(super) fn two_thirds(&self) -> Timestamp {
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
