//! `systole check`: validates a configuration, and the files of TLS that it names, and prints the effective one.

use std::time::SystemTime;

use clap::Args;

use crate::assemble;
use crate::config::{Sources, example, print};
use crate::ports::ServerTls;

use super::{ConfigArgs, FAILED, load_config, sources};

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the effective configuration, secrets masked
    #[arg(long)]
    print: bool,
    /// Print a configuration with every setting, its default and what it means, and nothing else
    #[arg(long, conflicts_with_all = ["print", "connect", "config"])]
    print_example: bool,
    /// Try each sink
    #[arg(long)]
    connect: bool,
}

pub(super) fn run(args: &CheckArgs) -> u8 {
    if args.print_example {
        return if super::print(example("").as_bytes()) { 0 } else { FAILED };
    }
    let (sources, config) = match sources(&args.config).and_then(|sources| {
        let sources = Sources { reads_files: true, ..sources };
        let config = load_config(&sources)?;
        Ok((sources, config))
    }) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let (mut out, mut code) = (String::new(), 0);
    for (port, files) in assemble::tls_files(&config) {
        // What is wrong with them is reported already.
        let tls = ServerTls::load(files).ok().flatten();
        if let Some(warning) = tls.and_then(|tls| tls.near_end(SystemTime::now())) {
            super::print_error(format_args!("warning: {port}: {warning}"));
        }
    }
    for warning in assemble::warnings(&config) {
        super::print_error(format_args!("warning: {warning}"));
    }
    if args.print {
        out.push_str(&print(&config));
    } else {
        let file = sources.file.map_or("the defaults".to_string(), |(file, _)| file);
        out.push_str(&format!("{file}: good\n"));
        for watch in assemble::watches(&config).all() {
            let (service, instance) = (&watch.service, &watch.instance);
            out.push_str(&format!("watch {}: {service}/{instance}\n", watch.pattern));
        }
        for job in &config.presence.policy.jobs {
            out.push_str(&format!("job {}: {}\n", assemble::job_name(job), assemble::job_times(job)));
        }
        for target in assemble::listed_targets(&config) {
            out.push_str(&format!("notify {target}\n"));
        }
    }
    if args.connect {
        for sink in &config.sinks {
            match sink.kind.spec().probe() {
                Ok(found) => out.push_str(&format!("sink {}: {found}\n", sink.name)),
                Err(problem) => {
                    out.push_str(&format!("sink {}: {problem}\n", sink.name));
                    code = FAILED;
                }
            }
        }
    }
    if super::print(out.as_bytes()) { code } else { FAILED }
}
