//! `systole load`: generates load to size a machine. Prints as JSON exactly what was sent.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::config::{ListenUrl, listen_url};
use crate::load::{self, Plan, Profile, Sent, Target};

use super::progress::Progress;
use super::{FAILED, USAGE, duration, print, print_error};

#[derive(Args)]
pub(super) struct LoadArgs {
    /// Where to: udp://HOST:PORT or tcp://HOST:PORT
    #[arg(long, value_name = "URL", default_value = "udp://127.0.0.1:8125")]
    to: String,
    /// What to send
    #[arg(long, value_name = "PROFILE", default_value = "counters")]
    profile: Kinds,
    /// Number of distinct names
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    series: u32,
    /// Lines in a datagram, as far as they fit into 1,432 bytes
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    lines_per_packet: u16,
    /// Lines a second, all threads together; unlimited by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// How long to send
    #[arg(long = "for", value_name = "DUR", default_value = "10s", value_parser = duration)]
    length: Duration,
    /// DogStatsD tags on each line
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=50))]
    tags: u16,
    /// Threads, each with its own socket
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Seed of the random values: the same seed sends the same datagrams
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Let the kernel cut large sends into equal datagrams (UDP_SEGMENT)
    #[arg(long)]
    gso: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kinds {
    /// Counters only
    Counters,
    /// Timers only
    Timers,
    /// 50 % counters, 20 % gauges, 25 % timers, 5 % sets
    Mixed,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    sent: Sent,
    seconds: f64,
    lines_per_second: f64,
}

pub(super) fn run(args: &LoadArgs) -> u8 {
    let target = match listen_url(&args.to) {
        Ok(ListenUrl::Udp(address)) => Target::Udp(address),
        Ok(ListenUrl::Tcp(address)) => Target::Tcp(address),
        Ok(url) => {
            print_error(format_args!("--to: `{url}` cannot be loaded; udp://HOST:PORT or tcp://HOST:PORT is right"));
            return USAGE;
        }
        Err(problem) => {
            print_error(format_args!("--to: {problem}"));
            return USAGE;
        }
    };
    if args.gso && matches!(target, Target::Tcp(_)) {
        print_error("--gso is for udp://");
        return USAGE;
    }
    let plan = Plan {
        profile: match args.profile {
            Kinds::Counters => Profile::Counters,
            Kinds::Timers => Profile::Timers,
            Kinds::Mixed => Profile::Mixed,
        },
        series: args.series as usize,
        lines_per_packet: usize::from(args.lines_per_packet),
        tags: usize::from(args.tags),
        rate: args.rate.map(|rate| rate as f64),
        length: args.length,
        threads: usize::from(args.threads),
        seed: args.seed,
        segmented: args.gso,
    };
    let sending = Progress::of_time("sending", Some(args.length));
    let outcome = load::run(&plan, target);
    drop(sending);
    match outcome {
        Ok((sent, seconds)) => {
            let report = Report { sent, seconds, lines_per_second: sent.lines as f64 / seconds };
            let mut out = Vec::new();
            crate::codec::write_json(&report, &mut out);
            out.push(b'\n');
            let written = print(&out);
            if sent.refused > 0 {
                print_error(format_args!("{} sends were refused: does anybody listen on {}?", sent.refused, args.to));
            }
            if written && sent.refused == 0 { 0 } else { FAILED }
        }
        Err(error) => {
            print_error(format_args!("cannot send to {}: {error}", args.to));
            FAILED
        }
    }
}
