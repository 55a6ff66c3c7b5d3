//! What a manual page has beside the words of `--help`: files, environment, signals, examples. What commands of a kind share is
//! told by their options; tests parse every example.

use clap::Command;

/// A name, and what is said of it.
type Entry = (&'static str, &'static str);

/// A section: its head, and its entries.
pub(super) type Section = (&'static str, Vec<Entry>);

const CONFIGURATION: Entry = (
    "/etc/systole/systole.toml",
    "The configuration, if neither -c nor SYSTOLE_CONFIG names another. Without any the defaults hold.",
);
const STATE: Entry = (
    "$STATE_DIRECTORY, $XDG_STATE_HOME/systole or ~/.local/state/systole",
    "The folder of what outlives a restart, unless state_dir says otherwise.",
);
const NO_FILES: Entry = ("None", "It reads and writes no files but those that its options name.");

const OF_CONFIGURATION: [Entry; 3] = [
    ("SYSTOLE_CONFIG", "The file of the configuration, in place of -c."),
    (
        "SYSTOLE_KEY, SYSTOLE_SECTION__KEY",
        "A setting, such as SYSTOLE_INTERVAL=1s or SYSTOLE_HTTP__ADDRESS=off; above the file.",
    ),
    ("Others", "A text of the file may hold ${VARIABLE}, or ${VARIABLE:-text} with a text where it is not set."),
];
const OF_RUN: [Entry; 3] = [
    (
        "SYSTOLE_LISTEN, SYSTOLE_SINK",
        "URLs of listeners and sinks, with blanks between them, in place of --listen and --sink.",
    ),
    ("STATE_DIRECTORY, XDG_STATE_HOME, HOME", "Where the folder of the state is."),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS, LISTEN_FDNAMES, FDSTORE",
        "What a service manager says; see systemd.exec(5).",
    ),
];
const TOKEN: Entry = ("SYSTOLE_TOKEN", "The token, in place of --token: other users of the machine do not see it.");
const COLOURS: Entry =
    ("NO_COLOR, CLICOLOR_FORCE", "Without colours on a terminal, or with them elsewhere, too; TERM=dumb has none.");

const ENDS: Entry = ("SIGINT, SIGTERM", "End it at once.");

/// Signals of commands that do not just end.
fn signals(name: &str) -> Vec<Entry> {
    match name {
        "systole" | "systole run" => vec![
            (
                "SIGTERM, SIGINT",
                "Stop in order, within shutdown_grace: what the kernel holds is read, the last interval is \
                                 closed and delivered. A second one ends the process at once.",
            ),
            ("SIGHUP", "Reads the configuration again."),
            ("SIGUSR2", "Hands over to a new process of the program, without a datagram lost."),
            ("SIGUSR1", "Changes nothing; it is logged."),
        ],
        "systole capture" => vec![("SIGINT, SIGTERM", "End the capture, whose file has whole rows.")],
        "systole compare" => vec![("SIGINT, SIGTERM", "End the comparison; its report is printed.")],
        "systole beat" => vec![(
            "SIGINT, SIGTERM",
            "Are passed on to the command. Without one, and when it was asked to stop, a goodbye is sent.",
        )],
        _ => vec![ENDS],
    }
}

/// Examples of a command; each is a line for a shell.
fn examples(name: &str) -> Vec<Entry> {
    let of = EXAMPLES.iter().filter(|(of, ..)| *of == name);
    of.map(|(_, line, says)| (*line, *says)).collect()
}

/// The sections of a command's page.
pub(super) fn of(command: &Command) -> Vec<Section> {
    let name = command.get_bin_name().unwrap_or("systole");
    let has = |option: &str| command.get_arguments().any(|argument| argument.get_id() == option);
    let is_daemon = matches!(name, "systole" | "systole run");
    let mut files = Vec::new();
    files.extend(has("config").then_some(CONFIGURATION));
    files.extend((is_daemon || name.starts_with("systole state")).then_some(STATE));
    if files.is_empty() {
        files.push(NO_FILES);
    }
    let mut environment = Vec::new();
    environment.extend(has("config").then_some(OF_CONFIGURATION).into_iter().flatten());
    environment.extend(is_daemon.then_some(OF_RUN).into_iter().flatten());
    environment.extend(has("token").then_some(TOKEN));
    environment.push(COLOURS);
    vec![("FILES", files), ("ENVIRONMENT", environment), ("SIGNALS", signals(name)), ("EXAMPLES", examples(name))]
}

/// Of each command: its name, a line, and what it does.
const EXAMPLES: &[(&str, &str, &str)] = &[
    ("systole", "systole", "Listen on udp://127.0.0.1:8125, and show every ten seconds what came in."),
    ("systole", "systole --interval 1s --sink graphite://127.0.0.1:2003", "Deliver to a Graphite every second."),
    ("systole", "systole send 'hello:1|c'", "Send it something."),
    ("systole run", "systole run -c /etc/systole/systole.toml", "Run the daemon with a configuration."),
    (
        "systole run",
        "systole run --listen udp://[::]:8125 --sink prometheus://127.0.0.1:9125",
        "Take metrics from everywhere, to be scraped.",
    ),
    ("systole check", "systole check /etc/systole/systole.toml", "Show every mistake of a configuration."),
    ("systole check", "systole check --print --connect", "Show what holds, and try every sink."),
    ("systole check", "systole check --print-example > systole.toml", "Begin with every setting and its default."),
    (
        "systole explain",
        "systole explain 'api.hits:2|c|@0.1|#route:a'",
        "Show how a line is read, and what would be flushed.",
    ),
    ("systole explain", "systole explain --json < lines", "Answer each row with an object of JSON."),
    ("systole replay", "systole replay capture.jsonl", "Show what a capture would have come to."),
    (
        "systole replay",
        "systole replay capture.jsonl.gz --absolute --as graphite",
        "Show what Graphite would have been sent, with the times it had.",
    ),
    (
        "systole diff",
        "systole diff /etc/systole/systole.toml new.toml capture.jsonl",
        "Show what a change of the rules makes of a capture.",
    ),
    (
        "systole compare",
        "systole compare tcp://127.0.0.1:2003 tcp://127.0.0.1:2004 --for 10m",
        "Compare for ten minutes what the old server writes to one port and the new one to the other.",
    ),
    (
        "systole compare",
        "systole compare old.txt new.txt --tolerance 0.001",
        "Compare two files; a thousandth is no difference.",
    ),
    (
        "systole capture",
        "systole capture --listen udp://127.0.0.1:8125 --out capture.jsonl --for 1m",
        "Record a minute.",
    ),
    (
        "systole capture",
        "systole capture --listen udp://127.0.0.1:8125 --out - | gzip > capture.jsonl.gz",
        "Record until it is ended, packed.",
    ),
    (
        "systole beat",
        "systole beat checkout --every 10s -- ./checkout",
        "Run a program, and say that it lives while it does.",
    ),
    (
        "systole beat",
        "systole beat backup --job --every 24h -- /usr/local/bin/backup",
        "Run a job, and say how it ended.",
    ),
    ("systole status", "systole status", "Show on one screen how a daemon does; exit with 1 if something is wrong."),
    ("systole status", "systole status --ready", "Ask no more than whether it works."),
    ("systole reload", "systole reload", "Have a daemon read its configuration again, and show what has changed."),
    ("systole top", "systole top", "Watch a daemon of this machine."),
    ("systole tail", "systole tail 'api.*'", "Show lines as they arrive, each with what became of it."),
    ("systole presence", "systole presence list", "Show who is there."),
    ("systole presence list", "systole presence list --state down", "Show who is down."),
    ("systole presence show", "systole presence show checkout/web-1", "Show one instance."),
    (
        "systole presence check",
        "systole presence check checkout --min 2",
        "Answer a monitoring system; two instances are enough.",
    ),
    (
        "systole presence wait",
        "systole presence wait checkout --up 3 --timeout 2m",
        "Wait for three instances after a deployment.",
    ),
    ("systole presence events", "systole presence events --follow", "Show what happened, and what happens."),
    (
        "systole presence maintenance",
        "systole presence maintenance checkout 30m 'new disks'",
        "Expect silence for half an hour.",
    ),
    ("systole presence maintenance", "systole presence maintenance checkout 0", "End it."),
    (
        "systole presence test-alert",
        "systole presence test-alert --severity warning",
        "Try the targets of notifications.",
    ),
    (
        "systole presence forget",
        "systole presence forget checkout/web-1",
        "Forget an instance that will not come back.",
    ),
    ("systole cluster", "systole cluster status", "Show nodes, edges and partitions."),
    ("systole cluster init", "systole cluster init -c /etc/systole/systole.toml", "Make the streams on the bus."),
    ("systole cluster status", "systole cluster status --json", "Show what a node knows of the cluster."),
    ("systole cluster drain", "systole cluster drain", "Let a node give up its partitions before it is stopped."),
    ("systole cluster explain", "systole cluster explain 'api.hits:1|c'", "Show who merges a series."),
    ("systole state", "systole state show", "Show what is kept over restarts."),
    ("systole state show", "systole state show --dir /var/lib/systole", "Show what is in a folder."),
    ("systole upgrade", "systole upgrade", "Hand over to the program that is installed by now."),
    (
        "systole conformance",
        "systole conformance --server 'systole --interval 1s --listen udp://127.0.0.1:{port} --sink graphite://127.0.0.1:{out} --http off'",
        "Judge Systole itself.",
    ),
    (
        "systole conformance",
        "systole conformance --list --profile etsy",
        "Show the vectors that a server like the original is judged by.",
    ),
    ("systole send", "systole send 'api.hits:1|c' 'pool.size:17|g'", "Send two lines."),
    ("systole send", "systole send --to tcp://127.0.0.1:8125 < lines", "Send the rows of a file over one connection."),
    ("systole load", "systole load --rate 100000 --for 30s", "Send 100,000 lines a second for half a minute."),
    ("systole import", "systole import /etc/statsd/config.js > systole.toml", "Convert the configuration of statsd."),
    ("systole import", "systole import - < mapping.yml", "Convert a mapping of statsd_exporter."),
    ("systole completions", "systole completions bash > /etc/bash_completion.d/systole", "Install completions."),
    ("systole man", "systole man presence list | man -l -", "Read a page."),
    ("systole man", "systole man --out /usr/local/share/man/man1", "Install all pages."),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    /// The words of a line up to what is the shell's.
    fn arguments(line: &str) -> Vec<String> {
        let pieces = line.split('\'').enumerate();
        let words = pieces.flat_map(|(n, piece)| match n % 2 {
            0 => piece.split_whitespace().map(String::from).collect(),
            _ => vec![piece.to_string()],
        });
        words.take_while(|word| !["|", "<", ">"].contains(&&**word)).collect()
    }

    fn names(command: &Command, all: &mut BTreeSet<String>) {
        all.insert(command.get_bin_name().unwrap_or("systole").to_string());
        command.get_subcommands().for_each(|inner| names(inner, all));
    }

    #[test]
    fn every_command_has_examples_and_they_are_right() {
        let mut program = Cli::command().disable_help_subcommand(true);
        program.build();
        let mut all = BTreeSet::new();
        names(&program, &mut all);
        let with_examples: BTreeSet<String> = EXAMPLES.iter().map(|(name, ..)| (*name).to_string()).collect();
        let missing: Vec<_> = all.difference(&with_examples).collect();
        assert!(missing.is_empty(), "{missing:?} have no example");
        let gone: Vec<_> = with_examples.difference(&all).filter(|name| *name != "systole top").collect();
        assert!(gone.is_empty(), "{gone:?} are no commands");
        for (name, line, _) in EXAMPLES.iter().filter(|(name, ..)| all.contains(*name)) {
            assert!(line.starts_with("systole"), "{line}");
            if let Err(problem) = Cli::command().try_get_matches_from(arguments(line)) {
                panic!("an example of {name}, {line}: {problem}");
            }
        }
    }
}
