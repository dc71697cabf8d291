//! The keys and certificates of one cluster, and the kubeconfig made from them.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use crate::{Error, nodes};

/// Certificate and key, as PEM.
#[derive(Debug)]
struct Pair {
    certificate: String,
    key: String,
}

/// Whom a kubeconfig speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Group `system:masters`.
    Admin,
    /// The real node's user and group; `system:masters` gives it the rights, as the API server only knows RBAC.
    Kubelet,
}

/// What is written to the `pki` folder and into the kubeconfig.
#[derive(Debug)]
pub(crate) struct Pki {
    authority: Pair,
    server: Pair,
    admin: Pair,
    kubelet: Pair,
    token_key: KeyPair,
}

impl Pki {
    /// Makes everything afresh: one CA, a serving certificate, an administrator, a key for tokens.
    pub(crate) fn generate() -> Result<Self, Error> {
        let authority_key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "devcluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&authority_key)?.pem();
        let authority = Pair { certificate, key: authority_key.serialize_pem() };
        let issuer = Issuer::new(params, authority_key);

        let names =
            ["127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.96.0.1"];
        let mut server = CertificateParams::new(names.map(String::from))?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];

        let mut admin = CertificateParams::default();
        admin.distinguished_name.push(DnType::CommonName, "devcluster-admin");
        admin.distinguished_name.push(DnType::OrganizationName, "system:masters");
        admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

        let mut kubelet = CertificateParams::default();
        kubelet.distinguished_name.push(DnType::CommonName, format!("system:node:{}", nodes::REAL_NODE));
        for group in ["system:nodes", "system:masters"] {
            kubelet.distinguished_name.push(DnType::OrganizationName, group);
        }
        kubelet.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

        Ok(Self {
            kubelet: sign(&kubelet, &issuer)?,
            server: sign(&server, &issuer)?,
            admin: sign(&admin, &issuer)?,
            authority,
            token_key: KeyPair::generate()?,
        })
    }

    /// Writes `ca.crt`, `ca.key`, `server.crt`, `server.key`, `admin.crt`, `admin.key`, `sa.key` and `sa.pub` to `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Error> {
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let files = [
            ("ca.crt", self.authority.certificate.clone()),
            ("ca.key", self.authority.key.clone()),
            ("server.crt", self.server.certificate.clone()),
            ("server.key", self.server.key.clone()),
            ("admin.crt", self.admin.certificate.clone()),
            ("admin.key", self.admin.key.clone()),
            ("sa.key", self.token_key.serialize_pem()),
            // kube-apiserver does not take the public half out of a PKCS#8 key.
            ("sa.pub", self.token_key.public_key_pem()),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).map_err(Error::file("write", &path))?;
        }
        Ok(())
    }

    /// The certificate of the authority, as PEM.
    pub(crate) fn authority(&self) -> &str {
        &self.authority.certificate
    }

    /// Writes a kubeconfig, with everything inline so that the file can be copied.
    pub(crate) fn write_kubeconfig(&self, identity: Identity, server: &str, path: &Path) -> Result<(), Error> {
        let (user, pair) = match identity {
            Identity::Admin => ("admin", &self.admin),
            Identity::Kubelet => ("kubelet", &self.kubelet),
        };
        let encode = |text: &str| BASE64_STANDARD.encode(text);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "devcluster",
            "clusters": [{"name": "devcluster", "cluster": {
                "server": server,
                "certificate-authority-data": encode(&self.authority.certificate),
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": encode(&pair.certificate),
                "client-key-data": encode(&pair.key),
            }}],
            "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": user}}],
        });
        fs::write(path, format!("{config:#}\n")).map_err(Error::file("write", path))
    }
}

fn sign(params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<Pair, Error> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}
