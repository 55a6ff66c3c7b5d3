//! `systole cluster`: prepares the streams of a cluster, and asks a node about it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZeroU16;
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::assemble;
use crate::cluster::batch::partition_of;
use crate::cluster_bus::BusError;
use crate::config::{Config, Origins, Role};
use crate::daemon::connect_bus;
use crate::untrusted::Escaped;

use super::client::ClientArgs;
use super::figures::{bytes, clock, delay, percent};
use super::{ConfigArgs, asking, load_config, print, print_error, sources};

/// Longest wait of `init` for the bus.
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(500);

/// Rows of each list that are shown.
const MAX_ROWS: usize = 20;

/// An edge that was silent for longer is named.
const SILENT_SECS: f64 = 30.0;

#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 all is well; 1 something is wrong, and the text says what; 2 bad usage or configuration."
)]
pub(super) struct ClusterArgs {
    #[command(subcommand)]
    command: Ask,
}

#[derive(Subcommand)]
enum Ask {
    /// Create the streams of the configured cluster on its bus, or compare them with what they should be
    Init {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Show nodes, edges and partitions, as a running node sees them
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: ClientArgs,
    },
    /// Let a running node give up its partitions and take none again until its next start; it still receives
    Drain {
        #[command(flatten)]
        daemon: ClientArgs,
    },
    /// Show in which partition the series of a line are, who has it, and which edges send to it
    Explain {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        daemon: ClientArgs,
        /// A line, such as `api.hits:1|c|#region:eu`
        #[arg(value_name = "LINE")]
        line: String,
    },
}

pub(super) fn run(args: &ClusterArgs) -> u8 {
    let config = match &args.command {
        Ask::Init { config } | Ask::Explain { config, .. } => Some(configured(config)),
        Ask::Status { .. } | Ask::Drain { .. } => None,
    };
    let config = match config.transpose() {
        Ok(config) => config.unwrap_or_default(),
        Err(code) => return code,
    };
    asking(async {
        match &args.command {
            Ask::Init { .. } => init(&config).await,
            Ask::Status { json, daemon } => status(daemon, *json).await,
            Ask::Drain { daemon } => drain(daemon).await,
            Ask::Explain { daemon, line, .. } => explain(&config, daemon, line).await,
        }
    })
}

fn configured(args: &ConfigArgs) -> Result<Config, u8> {
    let config = sources(args).and_then(|sources| load_config(&sources))?;
    if config.cluster.role == Role::Standalone {
        print_error("`cluster.role` is \"standalone\": this configuration has no cluster");
        return Err(super::USAGE);
    }
    Ok(config)
}

/// Prepares the streams. A bus that is only being started is waited for.
async fn init(config: &Config) -> Result<bool, String> {
    let bus = connect_bus(config)?;
    let began = tokio::time::Instant::now();
    loop {
        match bus.prepare().await {
            Ok(()) => break,
            Err(error @ BusError::Different { .. }) => return Err(error.to_string()),
            Err(error) if began.elapsed() >= PATIENCE => return Err(error.to_string()),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
    // There is nothing on its way.
    let _ = bus.close().await;
    let cluster = &config.cluster;
    let text = format!(
        "The streams of the cluster `{}` are there: {} partitions, {} replicas.\n",
        cluster.name, cluster.partitions, cluster.replicas
    );
    Ok(print(text.as_bytes()))
}

async fn ask(daemon: &ClientArgs) -> Result<Value, String> {
    let daemon = daemon.client()?;
    let (code, status) = daemon.ask(Method::GET, "/api/v1/cluster", None).await?;
    if code == 200 { Ok(status) } else { Err(daemon.refused(code, &status)) }
}

async fn status(daemon: &ClientArgs, as_json: bool) -> Result<bool, String> {
    let status = ask(daemon).await?;
    if as_json {
        return Ok(print(format!("{}\n", Escaped(&status.to_string())).as_bytes()));
    }
    let (text, problems) = report(&status);
    Ok(print(text.as_bytes()) && problems == 0)
}

async fn drain(daemon: &ClientArgs) -> Result<bool, String> {
    let client = daemon.client()?;
    let asked = client.good(Method::POST, "/api/v1/cluster/drain", Some(json!({}))).await;
    asked.map_err(|problem| {
        format!("{problem}. A stop of the node gives its partitions up as well, without the token")
    })?;
    let began = tokio::time::Instant::now();
    loop {
        let status = ask(daemon).await?;
        let left = list(&status, "partitions").filter(|one| one["is_ours"] == true).count();
        if left == 0 {
            return Ok(print(b"It has no partitions any more.\n"));
        }
        if began.elapsed() >= PATIENCE {
            return Err(format!("{left} partitions are not given up yet; sinks may have to take intervals first"));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn explain(config: &Config, daemon: &ClientArgs, line: &str) -> Result<bool, String> {
    let flushed = assemble::explainer(config, &Origins::default()).flushed(line.as_bytes());
    let partitions = NonZeroU16::new(config.cluster.partitions).ok_or("there are no partitions")?;
    let points = (0..flushed.len()).filter_map(|n| flushed.point(n));
    let series: Vec<_> = points.map(|point| point.series().clone()).collect();
    if series.is_empty() {
        return Err("nothing is flushed of this line; `systole explain` says why".into());
    }
    let status = ask(daemon).await?;
    let mut out = String::new();
    for series in series {
        let number = partition_of(&series, partitions);
        let partition = list(&status, "partitions").find(|one| one["partition"] == number);
        let _ = writeln!(out, "{}  partition {number} of {partitions}", Escaped(&series.id()));
        match partition {
            Some(partition) => one(&mut out, partition, config.interval.as_secs_f64()),
            None => out.push_str("  this node knows of no partitions; ask one that merges\n"),
        }
    }
    Ok(print(out.as_bytes()))
}

/// What is known of one partition.
fn one(out: &mut String, partition: &Value, interval_secs: f64) {
    let owner = partition["owner"]["node"].as_str().map_or("nobody".to_string(), |node| Escaped(node).to_string());
    let time = |interval: &Value| clock((number(interval) + 1.0) * interval_secs);
    let _ = writeln!(
        out,
        "  owner     {owner}\n  sealed    up to {}, at the sinks up to {}",
        time(&partition["sealed"]),
        time(&partition["emitted"])
    );
    for edge in list(partition, "edges") {
        let left = if edge["left"] == true { ", left" } else { "" };
        let _ = writeln!(
            out,
            "  edge      {}: up to {}, batch {}, last heard {}{left}",
            text(&edge["name"]),
            time(&edge["last"]),
            edge["n"],
            clock(number(&edge["heard"])),
        );
    }
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value[key].as_array().into_iter().flatten()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn text(value: &Value) -> String {
    Escaped(value.as_str().unwrap_or("")).to_string()
}

/// The screen, and how many problems it names.
fn report(status: &Value) -> (String, usize) {
    let problems: Vec<String> = list(status, "problems").map(text).collect();
    let mut out = String::new();
    let _ = match problems.len() {
        0 => writeln!(out, "All is well."),
        _ => problems.iter().try_for_each(|problem| writeln!(out, "! {problem}")),
    };
    let _ = writeln!(
        out,
        "\nnode        {} ({})\nbus         {}",
        text(&status["node"]),
        text(&status["role"]),
        text(&status["bus"])
    );
    if status["edge"].is_object() {
        let edge = &status["edge"];
        let _ = writeln!(
            out,
            "waits       {} batches, {}; {} dropped",
            edge["spooled_batches"],
            bytes(number(&edge["spooled_bytes"])),
            edge["dropped_batches"]
        );
    }
    if status["last"].is_object() {
        let last = &status["last"];
        let behind: Vec<String> = list(last, "edges_behind").map(text).collect();
        let behind = if behind.is_empty() { String::new() } else { format!("; behind: {}", behind.join(", ")) };
        let _ = writeln!(
            out,
            "interval    up to {}: {} of {} edges, {} complete{behind}",
            clock(number(&last["end"])),
            last["edges_heard"],
            last["edges_expected"],
            percent(number(&last["completeness"])),
        );
    }
    nodes(&mut out, status);
    edges(&mut out, status);
    partitions(&mut out, status);
    (out, problems.len())
}

fn nodes(out: &mut String, status: &Value) {
    for node in list(status, "nodes").take(MAX_ROWS) {
        let is_live = match (node["has_left"] == true, node["is_live"] == true) {
            (true, _) => ", stopped",
            (false, true) => "",
            (false, false) => ", dead",
        };
        let draining = if node["is_draining"] == true { ", drained" } else { "" };
        let role = text(&node["role"]);
        let what = match &*role {
            "edge" => role,
            _ if node["has_left"] == true => role,
            _ => format!("{role}, {} partitions{draining}", node["load"]),
        };
        let _ = writeln!(
            out,
            "node        {}: {what}, {} batches wait, heard {} ago{is_live}",
            text(&node["id"]["node"]),
            node["spooled"],
            delay(number(&node["age"]))
        );
    }
}

/// The edges by all partitions: of each the one that is furthest behind.
fn edges(out: &mut String, status: &Value) {
    let mut all: BTreeMap<String, (f64, f64, bool)> = BTreeMap::new();
    for edge in list(status, "partitions").filter(|one| one["is_ours"] == true).flat_map(|one| list(one, "edges")) {
        let (heard, lag) = (number(&edge["heard"]), number(&edge["lag"]));
        let entry = all.entry(text(&edge["name"])).or_insert((heard, lag, true));
        (entry.0, entry.1) = (entry.0.min(heard), entry.1.max(lag));
        entry.2 &= edge["left"] == true;
    }
    let newest = all.values().map(|(heard, ..)| *heard).fold(0.0, f64::max);
    for (name, (heard, lag, left)) in all.into_iter().take(MAX_ROWS) {
        let note = match (left, newest - heard > SILENT_SECS) {
            (true, _) => ", left",
            (false, true) => ", silent",
            (false, false) => "",
        };
        let _ = writeln!(
            out,
            "edge        {name}: last batch {}, clock behind by at most {}{note}",
            clock(heard),
            delay(lag)
        );
    }
}

fn partitions(out: &mut String, status: &Value) {
    let count = list(status, "partitions").count();
    if count == 0 {
        return;
    }
    let ours = list(status, "partitions").filter(|one| one["is_ours"] == true).count();
    let catching_up = list(status, "partitions").filter(|one| one["catching_up"] == true).count();
    // What is marked as emitted is in the record with the next interval, so of others nothing can be said.
    let own = list(status, "partitions").filter(|one| one["is_ours"] == true);
    let waiting = own.fold(0.0, |sum, one| sum + number(&one["unemitted"]));
    let _ = writeln!(
        out,
        "partitions  {count}, {ours} here; {catching_up} catching up, {waiting} sealed intervals wait for sinks here"
    );
}
