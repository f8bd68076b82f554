//! A way to NATS on which the records of the bucket can be held back, while all else passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The name that a daemon gives its connection for the bucket.
const NAME: &[u8] = b"presenced store";

pub struct Lag {
    port: u16,
    lags: watch::Sender<bool>,
}

impl Lag {
    pub async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let lags = watch::Sender::new(false);
        let ours = lags.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&server).await.unwrap();
                pass(near, far, ours.subscribe());
            }
        });
        Self { port, lags }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn begin(&self) {
        self.lags.send_replace(true);
    }

    pub fn end(&self) {
        self.lags.send_replace(false);
    }
}

fn pass(near: TcpStream, far: TcpStream, mut lags: watch::Receiver<bool>) {
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let is_store = Arc::new(AtomicBool::new(false));
    let found = Arc::clone(&is_store);
    tokio::spawn(async move {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = near_in.read(&mut bytes).await {
            if bytes[..count].windows(NAME.len()).any(|name| name == NAME) {
                found.store(true, Ordering::Relaxed);
            }
            if far_out.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
    });
    tokio::spawn(async move {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = far_in.read(&mut bytes).await {
            if is_store.load(Ordering::Relaxed) && lags.wait_for(|lags| !*lags).await.is_err() {
                break;
            }
            if near_out.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
    });
}
