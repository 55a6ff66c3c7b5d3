//! `systole upgrade`: hands a running daemon over to a new process of its program.

use std::time::{Duration, Instant};

use clap::Args;
use hyper::{Method, Uri};
use serde_json::{Value, json};

use crate::http::NO_PAGE;
use crate::http_client::without_login;
use crate::untrusted::Escaped;

use super::client::ClientArgs;
use super::progress::Progress;
use super::{asking, print};

/// Longest wait for the new process to read the sockets.
const READING: Duration = Duration::from_secs(45);

/// Longest wait for the new process to answer, and how often is asked meanwhile.
const LEAVING: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(50);

#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 the new process reads; 1 there is no upgrade, for the reason that is given, and the old process goes on, or the new one does not answer; 2 bad usage."
)]
pub(super) struct UpgradeArgs {
    #[command(flatten)]
    daemon: ClientArgs,
}

pub(super) fn run(args: &UpgradeArgs) -> u8 {
    asking(async { upgrade(&args.daemon).await.map(|text| print(text.as_bytes())) })
}

/// What came of it, as text.
async fn upgrade(daemon: &ClientArgs) -> Result<String, String> {
    let client = daemon.client()?;
    let _waiting = Progress::of_time("waiting for the new process", None);
    let (answered, begun) = client.ask_within(Method::POST, "/api/v1/upgrade", Some(json!({})), READING).await?;
    if answered == 401 {
        return Err(format!("{}, or send SIGUSR2 to the process", client.refused(answered, &begun)));
    }
    if answered != 200 {
        return Err(format!(
            "there is no upgrade, and the process so far goes on: {}",
            client.refused(answered, &begun)
        ));
    }
    let (pid, version) = (&begun["pid"], text(&begun["version"]));
    // A process of an older version does not say what it has started.
    let program = begun["program"].as_str().map_or_else(String::new, |program| format!(", {}", Escaped(program)));
    let reads =
        format!("systole {version} (process {pid}{program}) reads the sockets in place of {}", text(&begun["from"]));
    let next = match begun["page"].as_str() {
        None => client,
        Some(NO_PAGE) => return Ok(format!("{reads}; with its configuration it has no page.\n")),
        Some(page) => {
            let url = seen_from(&client.url, page);
            client.at(url)
        }
    };
    let began = Instant::now();
    loop {
        // While one process leaves and the next begins nobody may answer.
        if let Ok((200, status)) = next.ask(Method::GET, "/api/v1/status", None).await
            && status["pid"] == *pid
        {
            let page = begun["page"].as_str().map(|_| format!("Its page is at {}.\n", Escaped(&next.url)));
            return Ok(report(&status, &version, &program) + &page.unwrap_or_default());
        }
        if began.elapsed() >= LEAVING {
            return Err(format!("{reads}, but does not answer at {}", Escaped(&without_login(&next.url))));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The URL of a page for somebody who has reached another one of the same machine at `asked`.
fn seen_from(asked: &str, page: &str) -> String {
    let host = asked.parse::<Uri>().ok().and_then(|asked| asked.host().map(str::to_string));
    let any = ["://0.0.0.0:", "://[::]:"].into_iter().find(|any| page.contains(any));
    match (any, host) {
        (Some(any), Some(host)) => page.replacen(any, &format!("://{host}:"), 1),
        _ => page.to_string(),
    }
}

fn report(status: &Value, version: &str, program: &str) -> String {
    let upgrade = &status["upgrade"];
    let secs = |field: &str| upgrade[field].as_f64().unwrap_or(0.0);
    let pause = secs("pause_secs") * 1e3;
    let mut out = format!(
        "systole {version} (process {}{program}) runs in place of {}: it reads the sockets after a pause of {pause:.0} ms; the old process left after {:.1} s.\n",
        status["pid"],
        text(&upgrade["from"]),
        secs("took_secs")
    );
    if let Some(why) = upgrade["no_state"].as_str() {
        let why = Escaped(why);
        out.push_str(&format!(
            "It does not go on with the state of the old process, which closed and delivered its interval itself: {why}.\n"
        ));
    }
    if upgrade["is_clean"] == false {
        out.push_str("The old process ended before it had saved its state: what it held is lost, see the log.\n");
    }
    out
}

fn text(value: &Value) -> String {
    Escaped(value.as_str().unwrap_or("?")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_at_any_address_is_where_the_machine_was_reached() {
        for (asked, page, expected) in [
            ("http://stats.example:8127/", "http://0.0.0.0:9000", "http://stats.example:9000"),
            ("https://[::1]:8127", "https://[::]:9000", "https://[::1]:9000"),
            ("http://127.0.0.1:8127", "http://10.0.0.1:8127", "http://10.0.0.1:8127"),
        ] {
            assert_eq!(seen_from(asked, page), expected);
        }
    }
}
