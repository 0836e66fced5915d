//! Connections: as many as there is room for, with TLS or, on loopback, also without; who says nothing for long is seen
//! out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::access::From;

/// How many connections there may be at once. Others wait.
const CONNECTIONS: usize = 512;
/// How long a client may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to say what it wants, from the beginning or from its last answer on.
const HEAD: Duration = Duration::from_secs(30);
/// After the machine has no more room for connections.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers until it is to stop; then until the last answer is given.
pub(super) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    plain: bool,
    router: Router,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection to the API was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (router, tls, watcher) = (router.clone(), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _place = place;
            if plain && !speaks_tls(&stream).await {
                converse(stream, from, router, watcher).await;
            } else if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                converse(stream, from, router, watcher).await;
            }
        });
    }
    graceful.shutdown().await;
}

/// Whether a client begins with TLS. Who says nothing does not.
async fn speaks_tls(stream: &TcpStream) -> bool {
    /// A record of a handshake begins with it, and no request of HTTP (RFC 8446, 5.1).
    const HANDSHAKE_RECORD: u8 = 22;
    let mut first = [0];
    let peeked = tokio::time::timeout(HEAD, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1))) && first[0] == HANDSHAKE_RECORD
}

/// Answers the requests of one connection.
async fn converse<S>(stream: S, from: SocketAddr, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(From(from));
        router.call(request)
    });
    let mut builder = http1::Builder::new();
    let connection = builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Who leaves in the middle is nobody's trouble.
    let _ = watcher.watch(connection).await;
}
