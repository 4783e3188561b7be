//! TLS of the client ports (`port`), and mutual TLS of the control port. The DNS names in a caller's certificate give its
//! roles on the control port, and one CA of the cluster signs all certificates.
//!
//! The process checks the files at every new connection, so certificates can change while it runs. Open connections stay
//! open. The process does not use invalid files: it keeps the earlier ones.

mod accept;
mod dial;
mod files;
mod kept;
mod port;
#[cfg(test)]
mod tests;

pub use accept::{Caller, Connection, Peer, accept_connections};
pub use dial::connect;
pub use files::{Tls, TlsError};
pub use port::PortTls;
