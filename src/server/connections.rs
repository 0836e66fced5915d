//! Connections: as many as there is room for, with TLS or, on loopback, also without; who says nothing for long is seen
//! out, and who has shown no token makes room for others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
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
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::access::From;

/// How many connections there may be at once. Others wait.
const CONNECTIONS: usize = 512;
/// How many of them may be of strangers, who have not shown a token yet.
const STRANGERS: usize = 256;
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
    let strangers = Strangers::default();
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
        let stranger = strangers.enter(from.ip());
        tokio::spawn(async move {
            let _place = place;
            let leave = stranger.leave.clone();
            let from = From { address: from, stranger: Arc::new(stranger) };
            tokio::select! {
                () = serve_one(stream, from, plain, tls, router, watcher) => {}
                () = leave.cancelled() => {}
            }
        });
    }
    graceful.shutdown().await;
}

/// Serves one connection. However it begins, what is wanted must have been said by one moment.
async fn serve_one(
    stream: TcpStream,
    from: From,
    plain: bool,
    tls: TlsAcceptor,
    router: Router,
    watcher: Watcher,
) {
    let deadline = Instant::now() + HEAD;
    if plain && !speaks_tls(&stream, deadline).await {
        converse(stream, from, deadline, router, watcher).await;
    } else if let Ok(Ok(stream)) =
        timeout_at(deadline.min(Instant::now() + HANDSHAKE), tls.accept(stream)).await
    {
        converse(stream, from, deadline, router, watcher).await;
    }
}

/// Whether a client begins with TLS. Who says nothing does not.
async fn speaks_tls(stream: &TcpStream, deadline: Instant) -> bool {
    /// A record of a handshake begins with it, and no request of HTTP (RFC 8446, 5.1).
    const HANDSHAKE_RECORD: u8 = 22;
    let mut first = [0];
    let peeked = timeout_at(deadline, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1))) && first[0] == HANDSHAKE_RECORD
}

/// Answers the requests of one connection.
async fn converse<S>(stream: S, from: From, deadline: Instant, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let asked = Arc::new(Notify::new());
    let asks = Arc::clone(&asked);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        asks.notify_one();
        request.extensions_mut().insert(from.clone());
        router.call(request)
    });
    let mut builder = http1::Builder::new();
    let connection = builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(watcher.watch(connection));
    // Who leaves in the middle is nobody's trouble.
    tokio::select! {
        _ = &mut connection => return,
        () = asked.notified() => {}
        () = sleep_until(deadline) => return,
    }
    let _ = connection.await;
}

/// The connections on which no token was shown yet. When there are too many the oldest one goes, of the address that
/// has most of them: so somebody new always has the time to show one, however many others say nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers {
    known: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// By age: from where, and how it is told to leave.
    connections: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

impl Strangers {
    fn enter(&self, address: IpAddr) -> Stranger {
        let leave = CancellationToken::new();
        let mut waiting = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let id = waiting.next;
        waiting.next += 1;
        waiting.connections.insert(id, (address, leave.clone()));
        if waiting.connections.len() > STRANGERS {
            waiting.make_room();
        }
        Stranger { id, leave, strangers: self.clone() }
    }
}

impl Waiting {
    fn make_room(&mut self) {
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        self.connections.values().for_each(|(address, _)| *counts.entry(*address).or_default() += 1);
        let most = counts.iter().max_by_key(|(_, count)| **count).map(|(address, _)| *address);
        let oldest = self.connections.iter().find(|(_, (address, _))| Some(*address) == most);
        if let Some(id) = oldest.map(|(id, _)| *id)
            && let Some((_, leave)) = self.connections.remove(&id)
        {
            leave.cancel();
        }
    }
}

/// A place among the strangers, until it is given up.
#[derive(Debug)]
pub(super) struct Stranger {
    id: u64,
    leave: CancellationToken,
    strangers: Strangers,
}

impl Stranger {
    /// A token was shown: from now on the connection is nobody's to end.
    pub(super) fn is_known(&self) {
        self.strangers.known.lock().unwrap_or_else(PoisonError::into_inner).connections.remove(&self.id);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.is_known();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::server::Tls;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_seen_out_once_and_for_all() {
        let state = tempfile::tempdir().unwrap();
        let (tls, _) = Tls::Own { names: vec!["localhost".to_owned()] }.acceptor(state.path()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, tls, true, Router::new(), stop.clone()));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let began = Instant::now();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        assert!(began.elapsed() < HEAD + HANDSHAKE, "{:?}", began.elapsed());
        stop.cancel();
    }

    #[test]
    fn of_too_many_strangers_the_oldest_of_the_greediest_address_goes() {
        let strangers = Strangers::default();
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let (first, known) = (strangers.enter(address(1)), strangers.enter(address(2)));
        known.is_known();
        let many: Vec<Stranger> = (0..2 * STRANGERS).map(|_| strangers.enter(address(2))).collect();
        let left = many.iter().filter(|stranger| !stranger.leave.is_cancelled()).count();
        assert_eq!(left, STRANGERS - 1);
        assert!(many.last().is_some_and(|newest| !newest.leave.is_cancelled()));
        assert!(!first.leave.is_cancelled() && !known.leave.is_cancelled());
        drop(many);
        assert_eq!(strangers.known.lock().unwrap().connections.len(), 1);
    }
}
