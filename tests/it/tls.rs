//! TLS on our ports.

use crate::support::certs::{Authority, put};
use crate::support::{systole, text};

#[test]
fn check_reads_the_files_of_tls_and_says_which_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let setting = authority.setting(dir.path(), Some(&authority));
    let file = put(dir.path(), "c.toml", &format!("[[listen]]\nurl = \"tcp://127.0.0.1:8125\"\n{setting}\n"));
    let check = || systole(&["check", "-c", file.to_str().expect("plain")], b"");
    let output = check();
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), format!("{}: good\n", file.display())));
    let (expired, stranger) = (authority.expired("127.0.0.1"), authority.issue("127.0.0.1"));
    for (name, content, problem) in [
        ("server.pem", expired.cert.as_str(), "the certificate has expired on 2002-02-03T00:00:00Z"),
        ("server.pem", &authority.issue("127.0.0.1").cert, "this is not the key of the first certificate"),
        ("server.key", &stranger.cert, "there is no private key in it"),
        ("clients.pem", &stranger.key, "there is no certificate in it"),
    ] {
        authority.setting(dir.path(), Some(&authority));
        let wrong = put(dir.path(), name, content);
        let output = check();
        let said = text(&output.stdout);
        let begins = format!("tcp://127.0.0.1:8125: tls: {}", wrong.display());
        let names_it = said.starts_with(&begins) || problem.starts_with("this is not") && said.contains("server.key");
        assert!(output.status.code() == Some(1) && names_it && said.contains(problem), "{said}");
    }
    put(dir.path(), "c.toml", &format!("[[listen]]\nurl = \"udp://127.0.0.1:8125\"\n{setting}\n"));
    assert!(text(&check().stderr).contains("`tls` is for tcp:// alone"));
}
