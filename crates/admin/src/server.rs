//! HTTP with time-outs and a cap on connections, so that a slow or greedy client costs the process nothing.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

use super::places::{Place, Places, Seat};

/// Bounds of one server.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once. For one more the oldest that has no request under way makes room.
    pub connections: usize,
    /// From the first byte of a connection, or the end of an answer, to the end of the next request's head.
    pub head: Duration,
    /// Life of a connection.
    pub life: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 64,
            head: Duration::from_secs(30),
            life: Duration::from_secs(600),
        }
    }
}

/// A running server on a thread of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Serves `router` on a bound socket.
    ///
    /// # Errors
    /// The thread, its runtime, or the socket cannot be had.
    pub fn start(name: &str, listener: TcpListener, router: Router, bounds: Bounds) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _guard = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(accept(listener, router, bounds, stopped)))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    router: Router,
    bounds: Bounds,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Places::new(bounds.connections);
    let router = router.layer(from_fn(seated));
    loop {
        let accepted = tokio::select! {
            _ = stopped.changed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(place) = places.take(peer.ip()).await {
                    let router = router.clone().layer(Extension(place.seat()));
                    tokio::spawn(serve(stream, router, bounds, place));
                }
            }
            // Most are of one connection that is already gone; a lack of descriptors passes.
            Err(error) => {
                debug!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A request that is being answered is not cut off for a connection that says nothing.
async fn seated(Extension(seat): Extension<Seat>, request: Request, next: Next) -> Response {
    seat.keep();
    let response = next.run(request).await;
    seat.release();
    response
}

async fn serve(stream: TcpStream, router: Router, bounds: Bounds, place: Place) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        served = timeout(bounds.life, connection) => match served {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => debug!(%error, "connection failed"),
        },
        () = place.sent_away() => debug!("a connection made room"),
    }
}
