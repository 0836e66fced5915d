//! Where the API is served, and how it is protected on its way.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use clap::Args;

use crate::server::{Listen, Tls};

#[derive(Debug, Args)]
pub(in crate::cli) struct ListenArgs {
    /// Where to serve the API; port 0 takes a free one. Any address but a loopback one is served with TLS
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback())]
    listen: SocketAddr,
    /// Serve the API with TLS alone on a loopback address too; there it is served both ways otherwise
    #[arg(long)]
    tls: bool,
    /// Another name or address by which the API is reached, for its certificate (may be given several times)
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
    /// Serve the API with this certificate (PEM) instead of one of our own making; the CLI then finds it by the first
    /// --tls-san
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// On this machine alone, on a free port.
pub(in crate::cli) fn loopback() -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))
}

impl ListenArgs {
    /// What the arguments mean.
    pub(super) fn listening(self) -> Listen {
        let Self { listen: address, tls, tls_san, tls_cert, tls_key } = self;
        if let (Some(certificate), Some(key)) = (tls_cert, tls_key) {
            let host = tls_san.into_iter().next();
            return Listen { address, tls: Tls::Brought { certificate, key }, plain: false, host };
        }
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        if !address.ip().is_unspecified() {
            names.push(address.ip().to_string());
        }
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        // One that no certificate can be for is reached by none.
        names.extend(host.filter(|host| host.is_ascii() && !host.is_empty()));
        names.extend(tls_san);
        names.sort();
        names.dedup();
        let plain = !tls && address.ip().is_loopback();
        Listen { address, tls: Tls::Own { names }, plain, host: None }
    }
}
