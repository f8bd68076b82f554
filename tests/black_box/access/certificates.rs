//! Certificates that have expired.

use std::path::Path;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd,
};
use tempfile::TempDir;

use super::{errors, launch, only_error};
use crate::support::Server;
use crate::support::server::Options;

/// An authority, and where its certificates lie.
struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let authority = Self {
            certificate,
            issuer: Issuer::new(params, key),
            folder: tempfile::tempdir().unwrap(),
        };
        authority.write("ca.pem", &authority.certificate.pem());
        authority
    }

    /// Makes `<name>.pem` and `<name>.key`, valid until the end of a year.
    fn issue(&self, name: &str, until: i32) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.path().join(file), text).unwrap();
    }

    fn path(&self, file: &str) -> String {
        let path: &Path = &self.folder.path().join(file);
        path.to_str().unwrap().to_owned()
    }

    /// A server with the certificate of that name.
    async fn server(&self, name: &str, verify: bool) -> Server {
        let config = self.config(name, verify);
        Server::start_with(Options { config, ..Options::default() }).await
    }

    fn config(&self, name: &str, verify: bool) -> String {
        let (cert, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let ca = self.path("ca.pem");
        format!(
            "tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: {verify} }}\n"
        )
    }
}

const EXPIRED: i32 = 2021;
const VALID: i32 = 2999;

#[tokio::test]
async fn that_of_the_server_is_logged_once_and_waited_for() {
    let authority = Authority::new();
    authority.issue("server", EXPIRED);
    let mut server = authority.server("server", false).await;
    let mut daemon = launch(&server.url(), &[("NATS__TLS_CA", &authority.path("ca.pem"))]);
    only_error(&mut daemon, &["certificate expired", "refuses the connection"]).await;
    authority.issue("server", VALID);
    server.reload(authority.config("server", false)).await;
    daemon.logs("\"ready\"").await;
    assert_eq!(errors(&daemon).len(), 1);
}

#[tokio::test]
async fn that_of_the_daemon_is_logged_once_and_its_file_read_again() {
    let authority = Authority::new();
    authority.issue("server", VALID);
    authority.issue("client", EXPIRED);
    let server = authority.server("server", true).await;
    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|file| authority.path(file));
    let settings = &[
        ("NATS__TLS_CA", ca.as_str()),
        ("NATS__TLS_CERT", cert.as_str()),
        ("NATS__TLS_KEY", key.as_str()),
    ];
    let mut daemon = launch(&server.url(), settings);
    only_error(&mut daemon, &["CertificateExpired", "refuses the connection"]).await;
    authority.issue("client", VALID);
    daemon.logs("\"ready\"").await;
    assert_eq!(errors(&daemon).len(), 1);
}

#[tokio::test]
async fn one_that_expires_while_the_daemon_serves_is_logged_when_it_connects_again() {
    let authority = Authority::new();
    authority.issue("server", VALID);
    let mut server = authority.server("server", false).await;
    let mut daemon = launch(&server.url(), &[("NATS__TLS_CA", &authority.path("ca.pem"))]);
    daemon.logs("\"ready\"").await;
    authority.issue("server", EXPIRED);
    server.vanish();
    server.appear().await;
    daemon.logs("certificate expired").await;
    let told = errors(&daemon);
    assert_eq!(told.len(), 1, "three connections, one cause: {told:?}");
}

#[tokio::test]
async fn a_server_that_begins_with_tls_is_reached_with_tls_first() {
    let authority = Authority::new();
    authority.issue("server", VALID);
    let config = authority.config("server", false).replace(" }\n", ", handshake_first: true }\n");
    let server = Server::start_with(Options { config, ..Options::default() }).await;
    let ca = authority.path("ca.pem");
    let mut daemon = launch(&server.url(), &[("NATS__TLS_CA", &ca), ("NATS__TLS_FIRST", "true")]);
    daemon.logs("\"ready\"").await;
}

#[tokio::test]
async fn common_mistakes_with_certificates_are_named_with_what_to_do() {
    let authority = Authority::new();
    authority.issue("server", VALID);
    authority.issue("client", VALID);
    let other = Authority::new();
    let server = authority.server("server", true).await;
    let [ca, cert] = ["ca.pem", "client.pem"].map(|file| authority.path(file));
    let others = other.path("ca.pem");
    only_error(
        &mut launch(&server.url(), &[("NATS__TLS_CA", &others)]),
        &["`nats.tls_ca`", "not trusted"],
    )
    .await;

    authority.write(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let encrypted = authority.path("encrypted.key");
    for (key, advice) in [(&encrypted, "not encrypted"), (&authority.path("server.key"), "belong")]
    {
        let settings =
            [("NATS__TLS_CA", ca.as_str()), ("NATS__TLS_CERT", &cert), ("NATS__TLS_KEY", key)];
        only_error(&mut launch(&server.url(), &settings), &["`nats.tls_key`", advice]).await;
    }

    // A certificate that signs itself, and is used by a server.
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = KeyPair::generate().unwrap();
    authority.write("self.pem", &params.self_signed(&own).unwrap().pem());
    authority.write("self.key", &own.serialize_pem());
    let server = authority.server("self", false).await;
    let mut daemon = launch(&server.url(), &[("NATS__TLS_CA", &authority.path("self.pem"))]);
    only_error(&mut daemon, &["itself an authority"]).await;
}

#[tokio::test]
async fn tls_on_one_side_only_is_named_with_the_setting_that_asks_for_it() {
    let authority = Authority::new();
    authority.issue("server", VALID);
    let plain = Server::start().await;
    let by_tls = plain.url().replace("nats://", "tls://");
    let ca = authority.path("ca.pem");
    let (with_ca, first) = ([("NATS__TLS_CA", ca.as_str())], [("NATS__TLS_FIRST", "true")]);
    only_error(&mut launch(&by_tls, &[]), &["`nats.url`", "nats:// instead of"]).await;
    only_error(&mut launch(&plain.url(), &with_ca), &["`nats.tls_ca` asks for it"]).await;
    only_error(&mut launch(&plain.url(), &first), &["`nats.tls_first` asks for it"]).await;

    let server = authority.server("server", true).await;
    only_error(&mut launch(&server.url(), &[]), &["UnknownIssuer", "`nats.tls_ca`"]).await;
    let parts = ["CertificateRequired", "`nats.tls_cert`", "`nats.tls_key`"];
    only_error(&mut launch(&server.url(), &with_ca), &parts).await;
    let other_name = server.url().replace("127.0.0.1", "localhost");
    only_error(&mut launch(&other_name, &with_ca), &["another name", "`nats.url`"]).await;

    let config = authority.config("server", false).replace(" }\n", ", handshake_first: true }\n");
    let server = Server::start_with(Options { config, ..Options::default() }).await;
    let mut daemon = launch(&server.url(), &with_ca);
    let line = daemon.logs("set `nats.tls_first`").await;
    assert_eq!(line["level"], "WARN", "the server may just be stopping: {line}");
}
