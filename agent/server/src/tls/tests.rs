//! Accepted and refused callers, and connections while certificates change.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use lockstep_proto::names::role;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;
use tonic::transport::server::Connected as _;

use super::*;
use crate::testing::{expose, write_secret};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Ca {
    named_authority("a cluster")
}

fn named_authority(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
}

/// Issues a certificate and its key for `role`.
fn issue(ca: &Ca, role: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![role.to_owned()]).expect("a name");
    (params.signed_by(&key, ca).expect("a certificate").pem(), key.serialize_pem())
}

fn write(folder: &Path, trusted: &[&Ca], (certificate, key): &(String, String)) {
    let bundle: String = trusted.iter().map(|ca| ca.pem()).collect();
    for (name, text) in [("ca.crt", &bundle), ("tls.crt", certificate), ("tls.key", key)] {
        write_secret(&folder.join(name), text);
    }
}

fn make_folder(trusted: &[&Ca], leaf: &(String, String)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), trusted, leaf);
    folder
}

fn open(folder: &tempfile::TempDir, role: &'static str) -> Arc<Tls> {
    Arc::new(Tls::open(folder.path(), role).expect("certificates"))
}

/// Serves a port that answers each byte with the same byte. Returns its address and its callers.
async fn serve_echo(tls: Arc<Tls>) -> (SocketAddr, mpsc::UnboundedReceiver<Caller>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (callers, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut connections = accept_connections(listener, Some(tls));
        while let Some(Ok(connection)) = connections.next().await {
            callers.send(connection.connect_info().caller).ok();
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(connection);
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
    (address, received)
}

/// Sends a byte and reads the answer.
async fn ping(stream: &mut TlsStream<TcpStream>) -> io::Result<u8> {
    stream.write_all(&[7]).await?;
    stream.flush().await?;
    stream.read_u8().await
}

async fn call(address: SocketAddr, client: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(role::HEAD).expect("a name");
    let stream = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(client).connect(name, stream).await?;
    ping(&mut stream).await.map(|_| stream)
}

#[tokio::test]
async fn a_certificate_gives_the_roles_of_its_caller() {
    let ca = authority();
    let head = make_folder(&[&ca], &issue(&ca, role::HEAD));
    let (address, mut callers) = serve_echo(open(&head, role::HEAD)).await;
    for name in [role::NODE, role::OPERATOR] {
        let caller = make_folder(&[&ca], &issue(&ca, name));
        call(address, open(&caller, name).current().client).await.expect("a connection");
        assert_eq!(callers.recv().await, Some(Caller::Certified(vec![name])));
    }
    let other = make_folder(&[&ca], &issue(&ca, "other.example"));
    let refused = Tls::open(other.path(), role::NODE).err().expect("no certificate of a node").to_string();
    assert!(refused.contains("tls.crt is not for `node.lockstep`"), "{refused}");
}

/// Callers that say nothing push out each other. A node gets in long before their handshakes time out.
#[tokio::test]
async fn half_open_connections_keep_no_node_out() {
    let ca = authority();
    let head = make_folder(&[&ca], &issue(&ca, role::HEAD));
    let (address, _callers) = serve_echo(open(&head, role::HEAD)).await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(address).await.expect("a connection"));
    }
    let node = make_folder(&[&ca], &issue(&ca, role::NODE));
    let call = call(address, open(&node, role::NODE).current().client);
    let mut stream =
        tokio::time::timeout(std::time::Duration::from_secs(4), call).await.expect("a place").expect("a call");
    for _ in 0..300 {
        crowd.push(TcpStream::connect(address).await.expect("a connection"));
    }
    assert_eq!(ping(&mut stream).await.expect("an answer"), 7);
}

#[tokio::test]
async fn the_handshake_refuses_strangers() {
    let (ca, foreign) = (authority(), authority());
    let head = make_folder(&[&ca], &issue(&ca, role::HEAD));
    let (address, mut callers) = serve_echo(open(&head, role::HEAD)).await;
    let node = make_folder(&[&ca], &issue(&ca, role::NODE));
    let mut anonymous = (*open(&node, role::NODE).current().client).clone();
    anonymous.client_auth_cert_resolver = Arc::new(NoCertificate);
    let error = call(address, Arc::new(anonymous)).await.expect_err("no certificate was shown");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    let strange = make_folder(&[&ca], &issue(&foreign, role::NODE));
    let error = call(address, open(&strange, role::NODE).current().client).await.expect_err("a foreign CA");
    assert!(error.to_string().contains("received fatal alert"), "{error}");
    // The caller checks the head too: it refuses a foreign head and a node.
    let trusting = make_folder(&[&foreign], &issue(&ca, role::NODE));
    assert!(call(address, open(&trusting, role::NODE).current().client).await.is_err());
    let (impostor, _) = serve_echo(open(&node, role::NODE)).await;
    assert!(call(impostor, open(&node, role::NODE).current().client).await.is_err());
    let mut clear = TcpStream::connect(address).await.expect("a connection");
    clear.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    let mut answer = Vec::new();
    clear.read_to_end(&mut answer).await.ok();
    assert!(answer.len() < 16, "an alert and nothing else: {answer:?}");
    assert!(callers.try_recv().is_err(), "the port accepted no caller");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn certificates_change_without_a_restart() {
    let (old, new) = (authority(), authority());
    let head = make_folder(&[&old], &issue(&old, role::HEAD));
    let node = make_folder(&[&old], &issue(&old, role::NODE));
    let (tls, caller) = (open(&head, role::HEAD), open(&node, role::NODE));
    let (address, _callers) = serve_echo(tls.clone()).await;
    let mut open_since = call(address, caller.current().client).await.expect("a connection");
    // A new CA replaces the old one: first all trust both CAs, then each leaf changes, then the old CA is removed.
    write(head.path(), &[&old, &new], &issue(&old, role::HEAD));
    write(node.path(), &[&old, &new], &issue(&old, role::NODE));
    call(address, caller.current().client).await.expect("old leaves, both trusted");
    write(node.path(), &[&old, &new], &issue(&new, role::NODE));
    call(address, caller.current().client).await.expect("a new node, an old head");
    write(head.path(), &[&old, &new], &issue(&new, role::HEAD));
    call(address, caller.current().client).await.expect("new leaves, both trusted");
    let last_old = make_folder(&[&old, &new], &issue(&old, role::NODE));
    let last_old = open(&last_old, role::NODE);
    write(head.path(), &[&new], &issue(&new, role::HEAD));
    write(node.path(), &[&new], &issue(&new, role::NODE));
    call(address, caller.current().client).await.expect("only the new CA");
    call(address, last_old.current().client).await.expect_err("the old CA is trusted no more");
    assert_eq!(ping(&mut open_since).await.expect("an open connection stays open"), 7);
}

#[tokio::test]
async fn invalid_files_leave_the_old_ones_in_use() {
    let ca = authority();
    let head = make_folder(&[&ca], &issue(&ca, role::HEAD));
    let node = make_folder(&[&ca], &issue(&ca, role::NODE));
    let client = open(&node, role::NODE).current().client;
    let (address, _callers) = serve_echo(open(&head, role::HEAD)).await;
    let (certificate, key) = issue(&ca, role::HEAD);
    for (name, text) in [("tls.crt", &certificate[..certificate.len() / 2]), ("tls.key", "x"), ("ca.crt", "")] {
        write_secret(&head.path().join(name), text);
        call(address, client.clone()).await.expect("the old certificate stays in use");
    }
    std::fs::remove_file(head.path().join("tls.key")).expect("remove");
    call(address, client.clone()).await.expect("the old certificate stays in use");
    write(head.path(), &[&ca], &(certificate, key));
    call(address, client).await.expect("the new certificate");
}

#[test]
fn a_new_key_that_others_can_read_is_not_used() {
    let ca = authority();
    let folder = make_folder(&[&ca], &issue(&ca, role::HEAD));
    let tls = open(&folder, role::HEAD);
    let before = tls.current().server;
    let new = issue(&ca, role::HEAD);
    write(folder.path(), &[&ca], &new);
    expose(&folder.path().join("tls.key"));
    assert!(Arc::ptr_eq(&before, &tls.current().server), "the old files stay in use");
    std::fs::remove_file(folder.path().join("tls.key")).expect("remove");
    write(folder.path(), &[&ca], &new);
    assert!(!Arc::ptr_eq(&before, &tls.current().server));
}

/// The names of many CAs would not fit into the list of CAs in a handshake.
#[tokio::test]
async fn any_number_of_authorities_may_be_trusted() {
    let ca = named_authority(&"a cluster with a long name ".repeat(8));
    let leaves = [role::HEAD, role::NODE].map(|role| make_folder(&[&ca; 500], &issue(&ca, role)));
    let (address, mut callers) = serve_echo(open(&leaves[0], role::HEAD)).await;
    call(address, open(&leaves[1], role::NODE).current().client).await.expect("a connection");
    assert_eq!(callers.recv().await, Some(Caller::Certified(vec![role::NODE])));
}

/// Kubernetes mounts a Secret in this way: the names are links into `..data`, and `..data` is a link that it replaces.
#[test]
fn a_replaced_link_is_noticed() {
    let ca = authority();
    let mount = tempfile::tempdir().expect("a folder");
    let put = |version: &str| {
        let folder = mount.path().join(version);
        std::fs::create_dir(&folder).expect("a folder");
        write(&folder, &[&ca], &issue(&ca, role::HEAD));
        // The mode that the kubelet gives the file by default.
        expose(&folder.join("tls.key"));
        let link = mount.path().join("..new");
        std::os::unix::fs::symlink(version, &link).expect("a link");
        std::fs::rename(link, mount.path().join("..data")).expect("replace");
    };
    put("..1");
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), mount.path().join(name)).expect("a link");
    }
    let tls = Tls::open(mount.path(), role::HEAD).expect("certificates");
    let (first, again) = (tls.current().server, tls.current().server);
    assert!(Arc::ptr_eq(&first, &again), "nothing changed");
    put("..2");
    assert!(!Arc::ptr_eq(&first, &tls.current().server), "the link was replaced");
}

#[test]
fn an_error_names_the_wrong_file() {
    let ca = authority();
    let refused = |folder: &Path, parts: &[&str]| {
        let error = Tls::open(folder, role::HEAD).err().expect("an error").to_string();
        for part in parts {
            assert!(error.contains(part), "`{error}` lacks `{part}`");
        }
    };
    refused(Path::new("/nowhere"), &["read /nowhere/ca.crt", "LOCKSTEP_TLS_DIR needs ca.crt, tls.crt and tls.key"]);
    let good = issue(&ca, role::HEAD);
    let spoilt = |name: &str, text: &str, parts: &[&str]| {
        let folder = make_folder(&[&ca], &good);
        write_secret(&folder.path().join(name), text);
        refused(folder.path(), parts);
    };
    spoilt("ca.crt", "", &["ca.crt holds no certificate in PEM"]);
    spoilt("tls.crt", "nonsense", &["tls.crt holds no certificate in PEM"]);
    spoilt("tls.key", "nonsense", &["tls.key holds no private key in PEM"]);
    spoilt("tls.key", &issue(&ca, role::HEAD).1, &["tls.key is not the key of", "tls.crt"]);
    let torn = &good.0[..good.0.len() / 2];
    spoilt("tls.crt", torn, &["tls.crt: the file ends within a section"]);
    spoilt("ca.crt", &good.1.replace('\n', ""), &["ca.crt: the file ends within a section"]);
    spoilt("tls.crt", &good.0.replace("BEGIN", "BEGI"), &["tls.crt holds no certificate in PEM"]);
    spoilt("ca.crt", &"#".repeat((1 << 20) + 1), &["read", "ca.crt", "larger than 1048576 bytes"]);
    spoilt("tls.crt", &good.0.repeat(500), &["tls.crt: 500 certificates of", "no peer accepts more than 61440"]);
    let folder = make_folder(&[&ca], &issue(&ca, role::NODE));
    refused(folder.path(), &["tls.crt is not for `head.lockstep`"]);
    let folder = make_folder(&[&ca], &good);
    // Everybody may read the certificates, which are public.
    ["ca.crt", "tls.crt"].into_iter().for_each(|name| expose(&folder.path().join(name)));
    open(&folder, role::HEAD);
    expose(&folder.path().join("tls.key"));
    refused(
        folder.path(),
        &["read /", "tls.key: its mode 0644 gives other users access to it; run `chmod 600 /", "/tls.key`"],
    );
}
