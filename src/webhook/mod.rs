//! The admission webhook's I/O: certificates and the HTTPS server.

pub mod server;
pub mod tls;
