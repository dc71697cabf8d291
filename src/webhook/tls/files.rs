//! Certificates that someone else keeps in files.

use std::path::Path;

use super::{Error, Material};

/// Reads the three files. A swap of the volume between two of them gives a key that does not fit, which is refused
/// later and read again at the next look.
pub(super) async fn read(directory: &Path) -> Result<Material, Error> {
    Ok(Material {
        certificate: file(directory, "tls.crt").await?,
        key: file(directory, "tls.key").await?,
        bundle: file(directory, "ca.crt").await?,
    })
}

async fn file(directory: &Path, name: &str) -> Result<Vec<u8>, Error> {
    let path = directory.join(name);
    tokio::fs::read(&path).await.map_err(|source| Error::Read { path, source })
}
