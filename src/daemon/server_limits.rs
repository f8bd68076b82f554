//! Asks the server for its limits, on a short connection of its own.
//!
//! The server tells the limits of the account in a second `INFO`, after the login, which the client
//! library drops. It tells nobody of a limit that a reload has changed; a new connection gets it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_nats::ServerAddr;
use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use async_nats::rustls::{ClientConfig, RootCertStore};
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::login::{self, LoginError};
use crate::config::{Nats, TlsIdentity};

/// The time that one server may take.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest line of a server that is read, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// The reason why a server did not send its limits.
#[derive(Debug, Error)]
pub enum ServerLimitsError {
    #[error("there is no address of a server that can be asked")]
    NoAddress,
    #[error("the server did not answer in time")]
    Timeout,
    #[error("the server refuses the login: {0}")]
    Refused(String),
    #[error("the server sent something other than an INFO")]
    NoInfo,
    #[error("the INFO of the server cannot be read: {0}")]
    Info(#[from] serde_json::Error),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The members of an `INFO` that are needed.
#[derive(Debug, Deserialize)]
struct Info {
    max_payload: usize,
    #[serde(default)]
    nonce: String,
    #[serde(default)]
    tls_required: bool,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The `max_payload` for this login, of the first server that answers.
pub async fn max_payload(settings: &Nats) -> Result<usize, ServerLimitsError> {
    let mut failure = ServerLimitsError::NoAddress;
    for server in settings.urls.iter().filter(|server| !server.is_websocket()) {
        match tokio::time::timeout(SERVER_TIMEOUT, ask(settings, server)).await {
            Ok(Ok(bytes)) => return Ok(bytes),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = ServerLimitsError::Timeout,
        }
    }
    Err(failure)
}

async fn ask(settings: &Nats, server: &ServerAddr) -> Result<usize, ServerLimitsError> {
    let mut stream: Box<dyn Stream> =
        Box::new(TcpStream::connect((server.host(), server.port())).await?);
    let wants_tls = settings.tls_ca.is_some() || settings.tls_identity.is_some();
    if settings.tls_first {
        stream = secure(settings, server, stream).await?;
    }
    let mut stream = BufReader::new(stream);
    let info = read_info(&read_line(&mut stream).await?)?;
    let has_tls = settings.tls_first;
    if !has_tls && (info.tls_required || wants_tls || server.tls_required()) {
        stream = BufReader::new(secure(settings, server, stream.into_inner()).await?);
    }
    let login = login::answer(&settings.auth, info.nonce.as_bytes())?;
    let connect = json!({
        "verbose": false, "pedantic": false, "lang": "rust", "version": crate::version::VERSION,
        "name": "presenced limits", "protocol": 1, "headers": true, "no_responders": true,
        "jwt": login.jwt, "nkey": login.nkey, "user": login.username, "pass": login.password,
        "auth_token": login.token,
        "sig": login.signature.map(|signature| BASE64URL_NOPAD.encode(&signature)),
    });
    // The second `INFO` comes behind the answer to the first `PING`.
    stream.write_all(format!("CONNECT {connect}\r\nPING\r\nPING\r\n").as_bytes()).await?;
    stream.flush().await?;
    let (mut max_payload, mut pongs) = (info.max_payload, 0);
    while pongs < 2 {
        let line = read_line(&mut stream).await?;
        if line.starts_with("INFO") {
            max_payload = read_info(&line)?.max_payload;
        } else if line.starts_with("PONG") {
            pongs += 1;
        } else if line.starts_with("-ERR") {
            return Err(ServerLimitsError::Refused(line.trim().to_owned()));
        }
    }
    Ok(max_payload)
}

async fn read_line(stream: &mut BufReader<Box<dyn Stream>>) -> io::Result<String> {
    let mut line = String::new();
    let mut bounded = tokio::io::AsyncReadExt::take(stream, MAX_LINE_BYTES);
    match bounded.read_line(&mut line).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line),
    }
}

fn read_info(line: &str) -> Result<Info, ServerLimitsError> {
    let text = line.strip_prefix("INFO ").ok_or(ServerLimitsError::NoInfo)?;
    Ok(serde_json::from_str(text)?)
}

/// Begins TLS as the client library does.
async fn secure(
    settings: &Nats,
    server: &ServerAddr,
    stream: Box<dyn Stream>,
) -> io::Result<Box<dyn Stream>> {
    let mut roots = RootCertStore::empty();
    match &settings.tls_ca {
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path).map_err(io::Error::other)?;
            roots.add_parsable_certificates(certificates.filter_map(Result::ok));
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
        }
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let config = match &settings.tls_identity {
        None => builder.with_no_client_auth(),
        Some(TlsIdentity { cert, key }) => {
            let certificates = CertificateDer::pem_file_iter(cert).map_err(io::Error::other)?;
            let certificates = certificates.filter_map(Result::ok).collect();
            let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
            builder.with_client_auth_cert(certificates, key).map_err(io::Error::other)?
        }
    };
    let name = ServerName::try_from(server.host().to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}
