//! Files that systemd hands to the service.

use std::path::Path;

use super::super::{Auth, TlsIdentity};
use super::Given;

const FILE: &str = "[nats]\ncreds = \"$CREDENTIALS_DIRECTORY/nats.creds\"\n\
     tls_ca = \"$CREDENTIALS_DIRECTORY/ca.pem\"\ntls_cert = \"$CREDENTIALS_DIRECTORY/cert.pem\"\n\
     tls_key = \"/etc/key.pem\"\n";

const CREDENTIALS_DIR: &str = "/run/credentials/presenced.service";

#[test]
fn a_path_may_lie_among_the_credentials_of_the_service() {
    let given = Given::file(FILE).env("CREDENTIALS_DIRECTORY", CREDENTIALS_DIR);
    let nats = given.load().unwrap().nats;
    assert_eq!(nats.auth, Auth::Creds(Path::new(CREDENTIALS_DIR).join("nats.creds")));
    assert_eq!(nats.tls_ca, Some(Path::new(CREDENTIALS_DIR).join("ca.pem")));
    let (cert, key) = (Path::new(CREDENTIALS_DIR).join("cert.pem"), "/etc/key.pem".into());
    assert_eq!(nats.tls_identity, Some(TlsIdentity { cert, key }));

    for variable in ["$CREDENTIALS_DIRECTORY", "${CREDENTIALS_DIRECTORY}"] {
        let given = Given::file(&format!("[nats]\nnkey = \"{variable}/nats.nk\"\n"));
        let nats = given.env("CREDENTIALS_DIRECTORY", CREDENTIALS_DIR).load().unwrap().nats;
        assert_eq!(nats.auth, Auth::NkeyFile(Path::new(CREDENTIALS_DIR).join("nats.nk")));
    }
}

#[test]
fn without_systemd_such_a_path_is_refused_with_what_is_missing() {
    let error = Given::file(FILE).error();
    assert!(error.contains("nats.tls_ca") || error.contains("nats.creds"), "{error}");
    assert!(error.contains("LoadCredential="), "{error}");
    let nkey = Given::file("[nats]\nnkey = \"$CREDENTIALS_DIRECTORY/nats.nk\"\n").error();
    assert!(nkey.contains("nats.nkey") && nkey.contains("LoadCredential="), "{nkey}");
}
