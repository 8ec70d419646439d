//! A broker that answers by script, for answers that no broker at hand gives on demand.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

type Decide = Arc<Mutex<Box<dyn Fn(&str) -> u8 + Send>>>;

/// Speaks MQTT 5, and 3.1.1 to who begins with it. The script gives the reason code for each topic published or subscribed,
/// and for each client id.
pub struct Script {
    pub port: u16,
    decide: Decide,
    cut: watch::Sender<u64>,
    pub published: Arc<Mutex<Vec<String>>>,
    /// The client ids of all connections, in order.
    pub clients: Arc<Mutex<Vec<String>>>,
}

/// At this code the script hangs up instead of answering.
pub const HANG_UP: u8 = 0xFF;

/// At this code the script says nothing to it, and goes on answering the rest, pings among it.
pub const SILENCE: u8 = 0xFE;

impl Script {
    pub async fn start(decide: impl Fn(&str) -> u8 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let decide: Decide = Arc::new(Mutex::new(Box::new(decide)));
        let (cut, cuts) = watch::channel(0);
        let published = Arc::default();
        let clients = Arc::default();
        let (shared, seen) = (Arc::clone(&decide), Arc::clone(&published));
        let ids = Arc::clone(&clients);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, seen, mut cuts) = (Arc::clone(&shared), Arc::clone(&seen), cuts.clone());
                let ids = Arc::clone(&ids);
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = serve(stream, shared, seen, ids) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self {
            port,
            decide,
            cut,
            published,
            clients,
        }
    }

    pub fn decide(&self, decide: impl Fn(&str) -> u8 + Send + 'static) {
        *self.decide.lock().unwrap() = Box::new(decide);
    }

    pub fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }
}

async fn serve(
    mut stream: TcpStream,
    decide: Decide,
    published: Arc<Mutex<Vec<String>>>,
    clients: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let mut mqtt5 = true;
    loop {
        let first = stream.read_u8().await?;
        let mut length = 0usize;
        for shift in (0..28).step_by(7) {
            let byte = stream.read_u8().await?;
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let text = |at: usize| {
            let length = usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
            String::from_utf8(body[at + 2..at + 2 + length].to_vec()).unwrap()
        };
        let mut answer = match first >> 4 {
            1 => {
                mqtt5 = body[6] == 5;
                let id = text(if mqtt5 { 11 + usize::from(body[10]) } else { 10 });
                let code = decide.lock().unwrap()(&id);
                clients.lock().unwrap().push(id);
                vec![0x20, 0, 0, code, 0]
            }
            3 => {
                let topic = text(0);
                let code = decide.lock().unwrap()(&topic);
                if code == HANG_UP {
                    return Ok(());
                }
                if code == SILENCE {
                    continue;
                }
                if code < 0x80 {
                    published.lock().unwrap().push(topic.clone());
                }
                if first & 0x06 == 0 {
                    continue;
                }
                let at = 2 + topic.len();
                vec![0x40, 0, body[at], body[at + 1], code, 0]
            }
            8 => {
                let filter = text(if mqtt5 { 3 + usize::from(body[2]) } else { 2 });
                let code = decide.lock().unwrap()(&filter);
                if code == HANG_UP {
                    return Ok(());
                }
                if code == SILENCE {
                    continue;
                }
                vec![0x90, 0, body[0], body[1], 0, code]
            }
            10 => {
                match decide.lock().unwrap()(&text(if mqtt5 { 3 } else { 2 })) {
                    HANG_UP => return Ok(()),
                    SILENCE => continue,
                    _ => {}
                }
                vec![0xB0, 0, body[0], body[1], 0, 0x11]
            }
            12 => vec![0xD0, 0],
            _ => continue,
        };
        if !mqtt5 {
            // No properties, and reasons only for subscribes.
            match answer[0] {
                0x40 | 0xB0 => answer.truncate(4),
                0x90 => drop(answer.remove(4)),
                0x20 => drop(answer.pop()),
                _ => {}
            }
        }
        answer[1] = u8::try_from(answer.len() - 2).unwrap();
        stream.write_all(&answer).await?;
    }
}
