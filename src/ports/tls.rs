//! TLS on ports: rustls with a certificate of ours, and with client certificates that must be signed by `client_ca` where
//! that is set.
//!
//! The files are looked at every second. When one has changed, all are read, and if they fit together the next handshake
//! uses them; connections that are open stay as they are. If they do not fit, what was read before holds, which is logged
//! and counted. A file of which half was written is read again a second later before it counts as bad.

use std::fmt::Display;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::settings::{Opt, OptionVisitor};
use crate::supervise::{Part, Role, Supervisor};
use crate::sys::read_regular;

use super::validity::validity;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Longest file, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// A certificate that ends within this time is logged, once in so long; and when it ends.
const NEAR_END: Duration = Duration::from_secs(7 * 86_400);
const WARN_EVERY: Duration = Duration::from_secs(86_400);

/// Files that cannot be used are logged again after so long.
const REPEAT_EVERY: Duration = Duration::from_secs(600);

/// Where the certificates of a port are, in PEM. Without a certificate the port has no TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, and after it those between it and the root; empty for no TLS.
    pub cert: PathBuf,
    /// Its private key, not encrypted.
    pub key: PathBuf,
    /// Roots of client certificates, which every client must show then; empty for none.
    pub client_ca: PathBuf,
}

impl TlsFiles {
    /// Whether the port has TLS.
    pub fn is_on(&self) -> bool {
        !self.cert.as_os_str().is_empty()
    }

    /// Whether clients must show a certificate.
    pub fn wants_client_certificates(&self) -> bool {
        self.is_on() && !self.client_ca.as_os_str().is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &Path> {
        [&self.cert, &self.key, &self.client_ca]
            .into_iter()
            .map(PathBuf::as_path)
            .filter(|path| !path.as_os_str().is_empty())
    }
}

/// Shows the options of TLS, a table `tls`.
pub fn tls_options(visitor: &mut dyn OptionVisitor, files: &mut TlsFiles) {
    visitor.in_table("tls", &mut |visitor| {
        let doc = "Certificate of this port and its chain (PEM); TLS is on with it. Read again when the file changes.";
        visitor.field("cert", doc, Opt::Path(&mut files.cert));
        visitor.example("cert", "\"/etc/systole/server.pem\"");
        visitor.field("key", "Private key of the certificate (PEM).", Opt::Path(&mut files.key));
        visitor.example("key", "\"/etc/systole/server.key\"");
        let doc = "Roots (PEM) of client certificates: clients without one of these are refused.";
        visitor.field("client_ca", doc, Opt::Path(&mut files.client_ca));
        visitor.example("client_ca", "\"/etc/systole/clients.pem\"");
        let (has_cert, has_key) = (files.is_on(), !files.key.as_os_str().is_empty());
        let is_asked_for = has_cert || has_key || !files.client_ca.as_os_str().is_empty();
        visitor.require_one("cert", has_cert || !is_asked_for, "\"/etc/systole/server.pem\"");
        visitor.require_one("key", has_key || !is_asked_for, "\"/etc/systole/server.key\"");
        if visitor.reads_files()
            && has_cert
            && has_key
            && let Err(error) = ServerTls::load(files)
        {
            visitor.require(error.key, Err(error.to_string()));
        }
    });
}

/// What is said of a port away from loopback that has a token and no TLS.
pub fn token_in_plain_text(address: SocketAddr) -> String {
    format!(
        "{address} is not on loopback and has no TLS, so everybody on the way can read the token; set `tls`, or let a proxy \
         with TLS stand before it"
    )
}

/// What is wrong with the files of a port, in one sentence with the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct TlsError {
    /// The setting that names the file.
    key: &'static str,
    problem: String,
}

impl TlsError {
    fn new(key: &'static str, path: &Path, problem: impl Display) -> TlsError {
        TlsError { key, problem: format!("{}: {problem}", path.display()) }
    }
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// TLS of a port. Clones share what is in use. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerTls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    files: Mutex<Arc<TlsFiles>>,
    current: Mutex<Loaded>,
    reloads: AtomicU64,
    failed_reloads: AtomicU64,
}

/// Files that were read, and are good.
#[derive(Debug)]
pub struct OtherFiles {
    files: Arc<TlsFiles>,
    loaded: Loaded,
}

/// What was made of the files.
#[derive(Clone, Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// When our certificate ends.
    expires: SystemTime,
    /// The files as they were before they were read.
    stamp: Stamp,
}

impl ServerTls {
    /// Reads the files; `None` if there is no TLS. They are not looked at again without [`ServerTls::follow`].
    ///
    /// # Errors
    /// Which file is wrong, and what is wrong with it.
    pub fn load(files: &TlsFiles) -> Result<Option<ServerTls>, TlsError> {
        if !files.is_on() {
            return Ok(None);
        }
        let current = Mutex::new(Loaded::read(files, stamp(files), SystemTime::now())?);
        let (reloads, failed_reloads) = (AtomicU64::new(0), AtomicU64::new(0));
        let files = Mutex::new(Arc::new(files.clone()));
        Ok(Some(ServerTls(Arc::new(Shared { files, current, reloads, failed_reloads }))))
    }

    /// Reads files that are to take the place of those in use.
    ///
    /// # Errors
    /// Which file is wrong, and what is wrong with it.
    pub fn read(files: &TlsFiles) -> Result<OtherFiles, TlsError> {
        let loaded = Loaded::read(files, stamp(files), SystemTime::now())?;
        Ok(OtherFiles { files: Arc::new(files.clone()), loaded })
    }

    /// Uses other files from the next handshake on, and follows those.
    pub fn replace(&self, OtherFiles { files, loaded }: OtherFiles) {
        // Whoever looks at the files in between sees that they are others than those in use, and reads them.
        *self.0.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
        *self.0.current() = loaded;
    }

    /// Starts a task that reads the files again when they change, until the last clone is gone. To be called inside a Tokio
    /// runtime that lives as long. `port` names it in the log, and the task among the parts of the daemon.
    pub fn follow(&self, port: &str, supervisor: &Supervisor) {
        let part = supervisor.part(&format!("tls:{port}"), Role::Ordinary);
        let shared = Arc::downgrade(&self.0);
        let (port, own) = (port.to_string(), part.clone());
        part.keep_task(move || follow(shared.clone(), port.clone(), own.clone()));
    }

    /// For the next handshake: with the files as they were read last.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.current().config))
    }

    /// When the certificate in use ends, Unix seconds.
    pub fn expires(&self) -> f64 {
        let expires = self.0.current().expires;
        expires.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
    }

    /// That the certificate in use ends within a week, and when; `None` if it holds longer.
    pub fn near_end(&self, now: SystemTime) -> Option<String> {
        let expires = self.0.current().expires;
        let left = expires.duration_since(now).unwrap_or_default();
        let files = self.0.files();
        let file = files.cert.display();
        let at = format_rfc3339_seconds(expires);
        (left < NEAR_END).then(|| format!("{file}: the certificate ends in {}, on {at}: replace it", in_days(left)))
    }

    /// How often changed files have taken the place of others.
    pub fn reloads(&self) -> u64 {
        // Counts on their own: nothing is published through them.
        self.0.reloads.load(Ordering::Relaxed)
    }

    /// How often changed files were not taken.
    pub fn failed_reloads(&self) -> u64 {
        self.0.failed_reloads.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn files(&self) -> Arc<TlsFiles> {
        Arc::clone(&self.files.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn current(&self) -> MutexGuard<'_, Loaded> {
        // It is replaced whole, so a panic elsewhere does not spoil it.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells a file from its replacement: device, inode, size, time of the last change.
type Stamp = Vec<Option<(u64, u64, u64, i64, i64)>>;

fn stamp(files: &TlsFiles) -> Stamp {
    let of = |path: &Path| {
        let about = fs::metadata(path).ok()?;
        Some((about.dev(), about.ino(), about.size(), about.mtime(), about.mtime_nsec()))
    };
    files.all().map(of).collect()
}

/// What a look at the files has found.
enum Look {
    /// They are those in use.
    Same,
    Good(Loaded),
    Bad(Stamp, TlsError),
}

fn look(files: &TlsFiles, used: &Stamp) -> Look {
    // Before they are read: a change in between is seen at the next look.
    let now = stamp(files);
    if *used == now {
        return Look::Same;
    }
    match Loaded::read(files, now.clone(), SystemTime::now()) {
        Ok(loaded) => Look::Good(loaded),
        Err(error) => Look::Bad(now, error),
    }
}

/// Looks at the files until nobody uses them.
async fn follow(shared: Weak<Shared>, port: String, part: Part) {
    let mut watcher = FileWatcher::new(port);
    loop {
        sleep(LOOK_EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        part.alive();
        let (files, used) = (shared.files(), shared.current().stamp.clone());
        // They may lie on a disk that is slow.
        match spawn_blocking(move || look(&files, &used)).await {
            Ok(look) => watcher.apply(look, &shared, SystemTime::now()),
            Err(error) => tracing::error!(port = watcher.port, %error, "could not look at the files of TLS"),
        }
        watcher.warn_of_the_end(shared.current().expires, SystemTime::now());
    }
}

/// What was seen of the files of a port.
struct FileWatcher {
    port: String,
    /// Bad files, and when that was last reported.
    bad: Option<(Stamp, Option<SystemTime>)>,
    /// When it was last said that the certificate ends soon, or has ended, and whether it had.
    warned: Option<(SystemTime, bool)>,
}

impl FileWatcher {
    fn new(port: String) -> FileWatcher {
        FileWatcher { port, bad: None, warned: None }
    }

    fn apply(&mut self, look: Look, shared: &Shared, now: SystemTime) {
        match look {
            Look::Same => self.bad = None,
            Look::Good(loaded) => {
                let expires = format_rfc3339_seconds(loaded.expires);
                *shared.current() = loaded;
                shared.reloads.fetch_add(1, Ordering::Relaxed);
                (self.bad, self.warned) = (None, None);
                tracing::info!(port = self.port, %expires, "the certificates have changed; new connections use them");
            }
            Look::Bad(stamp, error) => {
                let known = self.bad.take().filter(|(known, _)| *known == stamp);
                // Seen once it may be half written.
                let mut reported = known.as_ref().and_then(|(_, reported)| *reported);
                if known.is_some() && reported.is_none_or(|at| has_passed(REPEAT_EVERY, at, now)) {
                    if reported.is_none() {
                        shared.failed_reloads.fetch_add(1, Ordering::Relaxed);
                    }
                    reported = Some(now);
                    tracing::error!(
                        port = self.port,
                        %error,
                        "the certificates have changed and are not used; those before them stay, and a restart will fail"
                    );
                }
                self.bad = Some((stamp, reported));
            }
        }
    }

    fn warn_of_the_end(&mut self, expires: SystemTime, now: SystemTime) {
        let has_ended = expires <= now;
        let left = expires.duration_since(now).unwrap_or_default();
        let is_silent =
            self.warned.is_none_or(|(at, had_ended)| had_ended != has_ended || has_passed(WARN_EVERY, at, now));
        if left >= NEAR_END || !is_silent {
            return;
        }
        self.warned = Some((now, has_ended));
        let expires = format_rfc3339_seconds(expires);
        if has_ended {
            tracing::error!(port = self.port, %expires, "the certificate has ended, and clients refuse it: replace its file");
        } else {
            tracing::warn!(port = self.port, %expires, "the certificate ends in {}: replace its file", in_days(left));
        }
    }
}

/// Whether so much time has passed since `at`; also if the clock was set back.
fn has_passed(time: Duration, at: SystemTime, now: SystemTime) -> bool {
    now.duration_since(at).map_or(true, |since| since >= time)
}

/// A time in days, or in hours if it is shorter than two days.
fn in_days(time: Duration) -> String {
    match time.as_secs() / 3600 {
        0 => "less than an hour".into(),
        1 => "1 hour".into(),
        hours @ 2..48 => format!("{hours} hours"),
        hours => format!("{} days", hours / 24),
    }
}

impl Loaded {
    fn read(files: &TlsFiles, stamp: Stamp, now: SystemTime) -> Result<Loaded, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates("cert", &files.cert)?;
        let expires = ending(&files.cert, chain.first(), now)?;
        let key = private_key(&files.key)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError { key: "cert", problem: error.to_string() })?;
        let builder = if files.wants_client_certificates() {
            let bad = |problem: &dyn Display| TlsError::new("client_ca", &files.client_ca, problem);
            let mut roots = RootCertStore::empty();
            for root in certificates("client_ca", &files.client_ca)? {
                roots.add(root).map_err(|error| bad(&format!("a certificate in it is no root: {error}")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| bad(&error))?)
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let problem = format!("this is not the key of the first certificate in {}", files.cert.display());
                TlsError::new("key", &files.key, problem)
            }
            error => TlsError::new("cert", &files.cert, format!("cannot be used: {error}")),
        })?;
        Ok(Loaded { config: Arc::new(config), expires, stamp })
    }
}

fn text_of(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    read_regular(path, MAX_FILE).map_err(|error| TlsError::new(key, path, format!("cannot be read: {error}")))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = text_of(key, path)?;
    let all = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, pem::Error>>();
    let all = all.map_err(|error| TlsError::new(key, path, format!("is no PEM: {error}")))?;
    match all.is_empty() {
        true => Err(TlsError::new(key, path, "there is no certificate in it (PEM, `BEGIN CERTIFICATE`)")),
        false => Ok(all),
    }
}

/// When our certificate ends, if it holds now.
fn ending(path: &Path, ours: Option<&CertificateDer<'_>>, now: SystemTime) -> Result<SystemTime, TlsError> {
    let period = ours.and_then(|ours| validity(ours));
    let (from, to) = period.ok_or_else(|| TlsError::new("cert", path, "its first certificate cannot be read"))?;
    if now < from {
        return Err(TlsError::new(
            "cert",
            path,
            format!("the certificate holds from {} on", format_rfc3339_seconds(from)),
        ));
    }
    if now > to {
        return Err(TlsError::new(
            "cert",
            path,
            format!("the certificate has expired on {}", format_rfc3339_seconds(to)),
        ));
    }
    Ok(to)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = text_of("key", path)?;
    // PKCS#8 says so in its first line, the traditional form (RFC 1421) in a header.
    let has = |words: &[u8]| memchr::memmem::find(&text, words).is_some();
    let is_encrypted = has(b"ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED");
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        _ if is_encrypted => TlsError::new(
            "key",
            path,
            "the key is encrypted; `openssl pkey -in OLD -out NEW` takes the passphrase away",
        ),
        pem::Error::NoItemsFound => {
            TlsError::new("key", path, "there is no private key in it (PEM, `BEGIN PRIVATE KEY`)")
        }
        error => TlsError::new("key", path, format!("is no PEM: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tempfile::TempDir;

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
    }

    fn files(dir: &TempDir, cert: &str, key: &str, client_ca: &str) -> TlsFiles {
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("written");
            path
        };
        TlsFiles { cert: put("cert.pem", cert), key: put("key.pem", key), client_ca: put("ca.pem", client_ca) }
    }

    #[test]
    fn an_error_names_the_file_and_what_is_wrong() {
        let dir = TempDir::new().expect("a folder");
        let (cert, key) = made(|_| {});
        let (_, other_key) = made(|_| {});
        let (expired, expired_key) = made(|params| {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 2, 3));
        });
        let (early, early_key) = made(|params| {
            (params.not_before, params.not_after) = (date_time_ymd(2901, 1, 1), date_time_ymd(2902, 2, 3));
        });
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let traditional = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n\
                           -----END EC PRIVATE KEY-----\n";
        let cut = &cert[..cert.len() / 2];
        for (cert, key, ca, file, problem) in [
            (
                cert.as_str(),
                other_key.as_str(),
                cert.as_str(),
                "key.pem",
                "this is not the key of the first certificate",
            ),
            (&expired, &expired_key, &cert, "cert.pem", "has expired on 2002-02-03T00:00:00Z"),
            (&early, &early_key, &cert, "cert.pem", "holds from 2901-01-01T00:00:00Z on"),
            (&key, &key, &cert, "cert.pem", "there is no certificate in it"),
            ("", &key, &cert, "cert.pem", "there is no certificate in it"),
            (cut, &key, &cert, "cert.pem", "is no PEM"),
            (&cert, &cert, &cert, "key.pem", "there is no private key in it"),
            (&cert, encrypted, &cert, "key.pem", "the key is encrypted"),
            (&cert, traditional, &cert, "key.pem", "the key is encrypted"),
            (&cert, &key, "", "ca.pem", "there is no certificate in it"),
        ] {
            let error = ServerTls::load(&files(&dir, cert, key, ca)).expect_err(problem).to_string();
            let shown = dir.path().join(file).display().to_string();
            assert!(error.starts_with(&format!("{shown}: ")) && error.contains(problem), "{error}");
        }
        let missing = TlsFiles { key: dir.path().join("missing"), ..files(&dir, &cert, &key, &cert) };
        assert!(
            ServerTls::load(&missing).expect_err("none").to_string().contains("missing: cannot be read: No such file")
        );
        let pipe = TlsFiles { key: dir.path().join("pipe"), ..files(&dir, &cert, &key, &cert) };
        let made = std::process::Command::new("mkfifo").arg(&pipe.key).status().expect("mkfifo runs");
        assert!(made.success());
        assert!(
            ServerTls::load(&pipe).expect_err("a pipe").to_string().contains("pipe: cannot be read: it is no regular")
        );
        assert!(ServerTls::load(&files(&dir, &cert, &key, &cert)).expect("good").is_some());
        assert!(ServerTls::load(&TlsFiles::default()).expect("off").is_none());
    }

    #[test]
    fn new_files_are_used_when_they_are_whole_and_bad_ones_are_counted_once() {
        let dir = TempDir::new().expect("a folder");
        let (cert, key) = made(|_| {});
        let at = files(&dir, &cert, &key, &cert);
        let tls = ServerTls::load(&at).expect("good").expect("on");
        let mut watcher = FileWatcher::new("https://127.0.0.1:1".into());
        let mut next = || {
            let used = tls.0.current().stamp.clone();
            watcher.apply(look(&at, &used), &tls.0, SystemTime::now());
            (tls.reloads(), tls.failed_reloads())
        };
        assert_eq!(next(), (0, 0), "nothing has changed");
        let (cert, key) = made(|_| {});
        fs::write(&at.cert, &cert).expect("written");
        assert_eq!(next(), (0, 0), "the key may follow");
        fs::write(&at.key, &key).expect("written");
        assert_eq!(next(), (1, 0));
        assert_eq!(next(), (1, 0), "once");
        fs::write(&at.cert, "no certificate").expect("written");
        assert_eq!([next(), next(), next()], [(1, 0), (1, 1), (1, 1)]);
        fs::remove_file(&at.key).expect("removed");
        assert_eq!([next(), next(), next()], [(1, 1), (1, 2), (1, 2)]);
        fs::write(&at.cert, &cert).expect("written");
        fs::write(&at.key, &key).expect("written");
        assert_eq!(next(), (2, 2));
    }

    #[test]
    fn the_end_of_a_certificate_is_announced_once_a_day_and_when_it_comes() {
        let mut watcher = FileWatcher::new(String::new());
        let now = SystemTime::now();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        watcher.warn_of_the_end(now + hours(24 * 30), now);
        assert_eq!(watcher.warned, None);
        for (later, expected) in [(0, 0), (23, 0), (24, 24), (160, 160), (167, 167), (168, 167), (191, 191)] {
            watcher.warn_of_the_end(now + hours(24 * 7 - 1), now + hours(later));
            assert_eq!(watcher.warned, Some((now + hours(expected), expected >= 167)), "after {later} hours");
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_reported_again() {
        let dir = TempDir::new().expect("a folder");
        let (cert, key) = made(|_| {});
        let at = files(&dir, &cert, &key, &cert);
        let tls = ServerTls::load(&at).expect("good").expect("on");
        let used = tls.0.current().stamp.clone();
        fs::remove_file(&at.key).expect("removed");
        let mut watcher = FileWatcher::new(String::new());
        let began = SystemTime::now();
        for (later, reported) in [(0, None), (1, Some(1)), (2, Some(1)), (600, Some(1)), (601, Some(601))] {
            let now = began + Duration::from_secs(later);
            watcher.apply(look(&at, &used), &tls.0, now);
            let (_, last) = watcher.bad.clone().expect("bad");
            assert_eq!(last, reported.map(|secs| began + Duration::from_secs(secs)), "after {later} s");
            assert_eq!(tls.failed_reloads(), u64::from(later > 0));
        }
    }
}
