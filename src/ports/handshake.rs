//! Why a handshake of TLS failed, in words: what the client did, or what is to be done.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

/// Says why a handshake failed; `None` if the client closed without a word: a probe of the port, or it was stopped.
pub fn refusal(error: &io::Error) -> Option<String> {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => Some(in_words(error)),
        None if error.kind() == io::ErrorKind::UnexpectedEof => None,
        None => Some(format!("the connection broke in the handshake: {error}")),
    }
}

fn in_words(error: &Error) -> String {
    match error {
        Error::InvalidMessage(_) => "the client does not speak TLS, but plain text most likely".into(),
        Error::NoCertificatesPresented => "the client shows no certificate, and `client_ca` asks for one".into(),
        Error::InvalidCertificate(problem) => certificate(problem),
        Error::AlertReceived(alert) => alert_of_client(*alert),
        Error::PeerIncompatible(_) => {
            format!("the client and this port have no version or cipher of TLS in common: {error}")
        }
        _ => format!("the handshake of TLS failed: {error}"),
    }
}

/// What is wrong with the certificate of a client.
fn certificate(problem: &CertificateError) -> String {
    let day = |time: &UnixTime| -> SystemTime { UNIX_EPOCH + Duration::from_secs(time.as_secs()) };
    match problem {
        CertificateError::Expired => "the certificate of the client has expired".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate of the client has expired on {}", format_rfc3339_seconds(day(not_after)))
        }
        CertificateError::NotValidYet => "the certificate of the client does not hold yet".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the certificate of the client holds from {} on", format_rfc3339_seconds(day(not_before)))
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the certificate of the client is not signed by any of `client_ca`".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate of the client is not for clients (`extendedKeyUsage = clientAuth`)".into()
        }
        // rustls has no word of its own for it.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the client shows the certificate of an authority as its own; it needs one that the authority has signed"
                .into()
        }
        other => format!("the certificate of the client is no good: {other}"),
    }
}

/// What a client says that refuses us.
fn alert_of_client(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            format!(
                "the client does not trust the certificate of this port ({alert:?}): give it the root that signed `cert`, and \
             connect to a name that is in it"
            )
        }
        AlertDescription::CertificateExpired => "the client says that the certificate of this port has expired".into(),
        other => format!("the client has ended the handshake of TLS: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use rustls::{InvalidMessage, OtherError};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn words_say_what_is_wrong() {
        #[derive(Debug, thiserror::Error)]
        #[error("CaUsedAsEndEntity")]
        struct Authority;
        let at = |secs| UnixTime::since_unix_epoch(Duration::from_secs(secs));
        let expired = CertificateError::ExpiredContext { time: at(2_000_000_000), not_after: at(1_000_000_000) };
        let authority = CertificateError::Other(OtherError(Arc::new(Authority)));
        for (error, words) in [
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "plain text"),
            (Error::NoCertificatesPresented, "shows no certificate"),
            (Error::InvalidCertificate(expired), "has expired on 2001-09-09T01:46:40Z"),
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "not signed by any of `client_ca`"),
            (Error::InvalidCertificate(authority), "certificate of an authority as its own"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "does not trust the certificate of this port"),
        ] {
            let said = refusal(&io::Error::new(io::ErrorKind::InvalidData, error)).expect("words");
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(refusal(&io::ErrorKind::UnexpectedEof.into()), None);
        assert!(refusal(&io::ErrorKind::ConnectionReset.into()).is_some_and(|said| said.contains("broke")));
    }
}
