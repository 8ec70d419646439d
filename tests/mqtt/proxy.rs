//! A TCP relay that can cut, refuse and swallow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const PASS: u8 = 0;
const REFUSE: u8 = 1;
const SWALLOW: u8 = 2;
const DELAY: u8 = 3;

pub struct Proxy {
    pub port: u16,
    mode: Arc<AtomicU8>,
    cut: watch::Sender<u64>,
}

impl Proxy {
    pub async fn start(to: u16) -> Self {
        Self::to_first_alive(vec![to]).await
    }

    /// Leads each connection to the first of the ports that takes it.
    pub async fn to_first_alive(ports: Vec<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(AtomicU8::new(PASS));
        let (cut, cuts) = watch::channel(0);
        let shared = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if shared.load(Ordering::SeqCst) == REFUSE {
                    continue;
                }
                let mut server = None;
                for port in &ports {
                    if server.is_none() {
                        server = TcpStream::connect(("127.0.0.1", *port)).await.ok();
                    }
                }
                let Some(server) = server else { continue };
                tokio::spawn(relay(client, server, Arc::clone(&shared), cuts.clone()));
            }
        });
        Self { port, mode, cut }
    }

    /// Ends all connections and takes no new ones.
    pub fn down(&self) {
        self.mode.store(REFUSE, Ordering::SeqCst);
        self.cut.send_modify(|count| *count += 1);
    }

    /// Lets everything through again.
    pub fn up(&self) {
        self.mode.store(PASS, Ordering::SeqCst);
    }

    /// Keeps connections and lets nothing through: a dead line that nobody told of.
    pub fn swallow(&self) {
        self.mode.store(SWALLOW, Ordering::SeqCst);
    }

    /// Passes everything on 150 ms late, as a long way does.
    pub fn delay(&self) {
        self.mode.store(DELAY, Ordering::SeqCst);
    }
}

async fn relay(client: TcpStream, server: TcpStream, mode: Arc<AtomicU8>, mut cuts: watch::Receiver<u64>) {
    cuts.mark_unchanged();
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        () = pipe(client_read, server_write, Arc::clone(&mode)) => {}
        () = pipe(server_read, client_write, mode) => {}
        _ = cuts.changed() => {}
    }
}

async fn pipe(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mode: Arc<AtomicU8>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        let now = mode.load(Ordering::SeqCst);
        if now == DELAY {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        if matches!(now, PASS | DELAY) && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
