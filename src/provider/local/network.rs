//! Addresses and ports for a local cluster, such that it can run beside others.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use uuid::Uuid;

use crate::action::EffectError;
use crate::api::cluster::LocalProvider;
use crate::api::record::LocalNetwork;
use crate::provider::{rejected, unavailable};

/// Below the range from which the kernel gives ports to outgoing connections, so that none takes one of these
/// between the look and the use.
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 32_000;
/// Loopback networks that nobody else has a habit of using: 127.64.0.0 to 127.127.255.255.
const FIRST_NETWORK: u8 = 64;

/// A network that was chosen.
pub(super) struct Chosen {
    pub(super) local: LocalNetwork,
    pub(super) agent_port: u16,
}

/// Chooses where a cluster's head shall listen.
pub(super) fn choose(provider: &LocalProvider, python: &str) -> Result<Chosen, EffectError> {
    let [a, b, ..] = *Uuid::new_v4().as_bytes();
    let head = Ipv4Addr::new(127, FIRST_NETWORK | (a & 0x3f), b, 1);
    let mut taken = Vec::new();
    let dashboard_port = match provider.dashboard_port {
        Some(port) if is_free(head, port) => port,
        Some(port) => {
            let message = format!(
                "the dashboard's port {port} is in use; choose another spec.provider.local.dashboardPort"
            );
            return Err(rejected(message));
        }
        None => free_port(&mut taken)?,
    };
    taken.push(dashboard_port);
    let [gcs_port, client_port, agent_port] =
        [free_port(&mut taken)?, free_port(&mut taken)?, free_port(&mut taken)?];
    let local = LocalNetwork { python: python.to_owned(), head, gcs_port, dashboard_port, client_port };
    Ok(Chosen { local, agent_port })
}

/// A port that nobody listens on at any address, for Ray listens at all of them with some.
fn free_port(taken: &mut Vec<u16>) -> Result<u16, EffectError> {
    for _ in 0..1000 {
        let [a, b, ..] = *Uuid::new_v4().as_bytes();
        let port = FIRST_PORT + u16::from_be_bytes([a, b]) % (LAST_PORT - FIRST_PORT);
        if !taken.contains(&port) && is_free(Ipv4Addr::UNSPECIFIED, port) {
            taken.push(port);
            return Ok(port);
        }
    }
    Err(unavailable(format!("no free port between {FIRST_PORT} and {LAST_PORT}")))
}

fn is_free(address: Ipv4Addr, port: u16) -> bool {
    TcpListener::bind(SocketAddrV4::new(address, port)).is_ok()
}
