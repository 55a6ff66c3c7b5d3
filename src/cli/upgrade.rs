//! `systole upgrade`: hands a running daemon over to a new process of its program.

use std::time::{Duration, Instant};

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

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
    after_help = "Exit codes: 0 the new process reads; 1 there is no upgrade, for the reason that is given, and the old process goes on; 2 bad usage."
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
        return Err(client.refused(answered, &begun));
    }
    let (pid, version) = (&begun["pid"], text(&begun["version"]));
    // A process of an older version does not say what it has started.
    let program = begun["program"].as_str().map_or_else(String::new, |program| format!(", {}", Escaped(program)));
    let began = Instant::now();
    loop {
        // While one process leaves and the next begins nobody may answer.
        if let Ok((200, status)) = client.ask(Method::GET, "/api/v1/status", None).await
            && status["pid"] == *pid
        {
            return Ok(report(&status, &version, &program));
        }
        if began.elapsed() >= LEAVING {
            return Ok(format!(
                "systole {version} (process {pid}{program}) reads the sockets in place of {}, but nobody answers here: with the new \
                 configuration the page may be elsewhere, or off.\n",
                text(&begun["from"])
            ));
        }
        tokio::time::sleep(AGAIN).await;
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
