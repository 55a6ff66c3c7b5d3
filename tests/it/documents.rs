//! The documents say what is so: links and paths exist, configurations load, commands print what is shown, and the command
//! line is described whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use systole::internals::telemetry::{EntryKind, TABLE};

use crate::support::certs::{self, Authority};
use crate::support::{SYSTOLE, command, holds_what_is_generated, systole, text};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every document that is written by hand, with its text; the changelog speaks of the past.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(ROOT);
    let mut paths = vec![root.join("benches/README.md")];
    let mut folders = vec![root.to_path_buf(), root.join("docs")];
    while let Some(folder) = folders.pop() {
        let is_ours = folder != root;
        for path in fs::read_dir(folder).expect("a folder of ours").map(|entry| entry.expect("an entry").path()) {
            if is_ours && path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") && !path.ends_with("CHANGELOG.md") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("a readable file"))).collect()
}

/// Whether tests/oracle/tutorials.py follows it to the letter.
fn is_followed(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tutorials" || part.as_os_str() == "guides")
}

/// Fenced blocks of a kind, whatever is said of them behind it, each with the line it begins at.
fn blocks<'a>(document: &'a str, kind: &str) -> Vec<(usize, Vec<&'a str>)> {
    let mut found = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(opened) = line.strip_prefix("```") {
            let body = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            if opened.split_whitespace().next() == Some(kind) {
                found.push((number + 1, body));
            }
        }
    }
    found
}

/// The text outside of fenced blocks.
fn prose(document: &str) -> String {
    let mut is_code = false;
    let lines = document.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The anchor of a heading, as GitHub and GitLab make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn anchors(document: &str) -> BTreeSet<String> {
    prose(document)
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let mut broken = Vec::new();
    for (path, document) in documents() {
        let text = prose(&document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().expect("a folder").join(file) };
            let is_there = match fs::read_to_string(&file) {
                Ok(text) => heading.is_empty() || anchors(&text).contains(heading),
                // A picture or a folder has no headings.
                Err(_) => heading.is_empty() && file.exists(),
            };
            if !is_there {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn every_page_has_its_place_in_the_summary() {
    let docs = Path::new(ROOT).join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).expect("a readable file");
    let listed: Vec<PathBuf> =
        summary.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(|target| docs.join(target)).collect();
    let mut wrong: Vec<String> =
        listed.iter().filter(|path| !path.is_file()).map(|path| format!("no page: {}", path.display())).collect();
    for (path, _) in documents() {
        let count = listed.iter().filter(|one| **one == path).count();
        if path.starts_with(&docs) && !path.ends_with("SUMMARY.md") && count != 1 {
            wrong.push(format!("{} times in the summary: {}", count, path.display()));
        }
    }
    assert_none(&wrong);
}

#[test]
fn paths_named_in_documents_exist() {
    let mut missing = Vec::new();
    for (path, document) in documents() {
        for word in document.split(|c: char| c.is_whitespace() || "`()[]<>|\",;".contains(c)) {
            let word = word.trim_start_matches("../").trim_end_matches(['.', ':', '…']);
            let is_ours =
                ["src/", "tests/", "benches/", "examples/", "docs/", ".ci/"].iter().any(|f| word.starts_with(f));
            // A path with a placeholder in capitals names a file to be made.
            let is_pattern = word.contains('*') || word.contains('{') || word.contains("NAME");
            let file = word.split(['#', ':']).next().unwrap_or("");
            if is_ours && !is_pattern && !Path::new(ROOT).join(file).exists() {
                missing.push(format!("{}: {word}", path.display()));
            }
        }
    }
    assert_none(&missing);
}

#[test]
fn configurations_in_documents_load() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("systole.toml");
    // The files of TLS are read.
    let authority = Authority::new();
    authority.setting(dir.path(), Some(&authority));
    let mut wrong = Vec::new();
    for (path, document) in documents() {
        for (line, block) in blocks(&document, "toml") {
            if path.ends_with("CONTRIBUTING.md") {
                continue;
            }
            let config = certs::readable(&block.join("\n"), dir.path());
            fs::write(&file, config).expect("a file");
            let mut check = command(&["check", "-c", file.to_str().expect("a plain path")]);
            let output = check
                .env("HOSTNAME", "web-1")
                .env("API_KEY", "a secret")
                .env("PAGERDUTY_KEY", "a secret")
                .env("NTFY_TOKEN", "a secret")
                .env("CREDENTIALS_DIRECTORY", dir.path())
                .output()
                .expect("it runs");
            if !output.status.success() {
                wrong.push(format!("{}:{line}: {}", path.display(), text(&output.stderr)));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn commands_that_need_no_daemon_print_what_is_shown() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, document) in documents() {
        for (line, block) in blocks(&document, "console") {
            let commands: Vec<&str> = block.iter().filter_map(|line| line.strip_prefix("$ ")).collect();
            let shown: Vec<&str> = block.iter().filter(|line| !line.starts_with("$ ")).copied().collect();
            let is_alone = |one: &&str| one.starts_with("printf ") || one.starts_with("systole explain ");
            let is_checked = |one: &&str| one.starts_with("systole check -c bad.toml");
            if is_followed(&path) || shown.is_empty() || !commands.iter().all(|one| is_alone(one) || is_checked(one)) {
                continue;
            }
            count += 1;
            let dir = tempfile::tempdir().expect("a folder");
            let folder = Path::new(SYSTOLE).parent().expect("a folder");
            let search = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
            let script = format!("exec 2>&1\n{}", commands.join("\n"));
            let output = Command::new("sh")
                .args(["-c", &script])
                .current_dir(dir.path())
                .env("PATH", search)
                .env("XDG_STATE_HOME", dir.path())
                .output()
                .expect("a shell");
            let printed = text(&output.stdout);
            if printed.trim_end() != shown.join("\n") {
                wrong.push(format!("{}:{line}: prints\n{printed}", path.display()));
            }
        }
    }
    assert_none(&wrong);
    assert!(count >= 3, "only {count} were found");
}

/// The first word of each entry under a heading of clap's help, and its flags.
fn entries(help: &str, heading: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != heading).skip(1);
    // Entries are indented less than their texts.
    let mine = lines.take_while(|line| line.is_empty() || line.starts_with(' ')).filter(|line| !line.is_empty());
    mine.filter(|line| line.len() - line.trim_start().len() <= 6)
        .flat_map(|line| line.split_whitespace().take(2).map(|word| word.trim_end_matches(['.', ',']).to_string()))
        .collect()
}

#[test]
fn the_command_line_is_described_whole() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/command-line.md")).expect("a readable file");
    let words: BTreeSet<&str> = page.split(|c: char| c.is_whitespace() || "`[]()|…".contains(c)).collect();
    let mut flags = BTreeSet::from(["--help".to_string(), "--version".to_string(), "-h".to_string(), "-V".to_string()]);
    let mut missing = Vec::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(command) = open.pop() {
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = text(&systole(&args, b"").stdout);
        let commands = entries(&help, "Commands:").chunks(2).map(|pair| pair[0].clone()).collect::<Vec<_>>();
        for name in commands.into_iter().filter(|name| name != "help") {
            if !words.contains(name.as_str()) {
                missing.push(format!("{} {name}", command.join(" ")));
            }
            open.push(command.iter().cloned().chain([name]).collect());
        }
        let options = entries(&help, "Options:").into_iter().filter(|word| word.starts_with('-'));
        for flag in options.filter(|flag| !matches!(flag.as_str(), "-h" | "--help" | "-V" | "--version")) {
            if !words.contains(flag.as_str()) {
                missing.push(format!("{} {flag}", command.join(" ")));
            }
            flags.insert(flag);
        }
    }
    // The other way round: no flag is described that no command has.
    let described = words.iter().filter(|word| word.starts_with("--") && word.len() > 3);
    for word in described.filter(|word| word[2..].bytes().all(|b| b.is_ascii_alphabetic() || b == b'-')) {
        if word[2..].starts_with('-') || flags.contains(*word) {
            continue;
        }
        missing.push(format!("no command has {word}"));
    }
    assert_none(&missing);
}

/// Whether a line is one that is shown, where `…` stands for anything.
fn is_shown_as(shown: &str, line: &str) -> bool {
    let (head, tail) = shown.split_once('…').unwrap_or((shown, ""));
    if shown.contains('…') { line.starts_with(head) && line.ends_with(tail) } else { line == shown }
}

#[test]
fn samples_of_sinks_are_what_replay_prints() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/sinks.md")).expect("a readable file");
    let (_, sinks) = page.split_once("\n## The sinks").expect("a part on the sinks");
    let (before, sections) = sinks.split_once("\n### ").expect("a section a sink");
    let lines = blocks(before, "text").pop().expect("the lines that the samples are of").1.join("\n");
    let dir = tempfile::tempdir().expect("a folder");
    let capture = dir.path().join("capture.jsonl");
    fs::write(&capture, serde_json::json!({"t": 1_700_000_003, "data": lines}).to_string()).expect("a file");
    let mut wrong = Vec::new();
    let mut count = 0;
    for (kind, block) in
        [("file", "json"), ("graphite", "text"), ("prometheus", "text"), ("influx", "text"), ("statsd", "text")]
    {
        let section = sections.split("\n### ").find(|section| section.starts_with(kind)).expect("a section");
        let format = if kind == "file" { "json" } else { kind };
        let capture = capture.to_str().expect("a plain path");
        let output = systole(&["replay", capture, "--absolute", "--interval", "10s", "--as", format], b"");
        let printed = text(&output.stdout);
        for shown in blocks(section, block).into_iter().flat_map(|(_, lines)| lines) {
            // An event, which is not among the lines.
            if shown.starts_with("systole_notices") {
                continue;
            }
            count += 1;
            if !printed.lines().any(|line| is_shown_as(shown, line)) {
                wrong.push(format!("{kind}: {shown}"));
            }
        }
    }
    assert_none(&wrong);
    assert!(count > 15, "only {count} lines were compared");
}

#[test]
fn every_reason_of_a_malformed_line_is_described() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/protocol.md")).expect("a readable file");
    let reasons = systole::internals::protocol::Reason::ALL.map(systole::internals::protocol::Reason::name);
    let missing: Vec<_> = reasons.into_iter().filter(|name| !page.contains(&format!("| `{name}` |"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The table of `docs/ledger.md`, as the table of counters has it.
fn table_of_counters() -> String {
    let mut out = String::from("| ledger | series | metric | kind | counts |\n|---|---|---|---|---|\n");
    for (part, labels, entries) in TABLE {
        for entry in entries.iter() {
            let field = if part.is_empty() { entry.field.to_string() } else { format!("{part}.{}", entry.field) };
            let code = |name: &str, tags: &[String]| {
                let tags = if tags.is_empty() { String::new() } else { format!("{{{}}}", tags.join(",")) };
                format!("`{name}{tags}`")
            };
            let own =
                |by: Option<&str>| -> Vec<String> { labels.iter().copied().chain(by).map(str::to_string).collect() };
            let series = entry.series.map_or(String::new(), |name| {
                let mut tags = own(entry.by.filter(|_| !entry.is_summed));
                tags.extend(entry.tag.map(|(key, value)| format!("{key}:{value}")));
                code(&format!("systole.{name}"), &tags)
            });
            let total = if entry.kind == EntryKind::Counter { "_total" } else { "" };
            let shared = entry.family.map(|(family, value)| {
                code(&format!("{}{total}", family.name), &[format!("{}=\"{value}\"", family.label)])
            });
            let metric = entry.metric.map(|name| code(&format!("{name}{total}"), &own(entry.by)));
            let metrics: Vec<String> = shared.into_iter().chain(metric).collect();
            let kind = match entry.kind {
                EntryKind::Counter => "counter",
                EntryKind::Gauge => "gauge",
                EntryKind::Detail => "detail",
                EntryKind::Accounts => "accounts",
            };
            out.push_str(&format!("| `{field}` | {series} | {} | {kind} | {} |\n", metrics.join(" "), entry.help()));
        }
    }
    out
}

#[test]
fn every_counter_is_described_as_the_table_has_it() {
    holds_what_is_generated("docs/ledger.md", "documents::", |page| {
        let (begin, end) = ("<!-- generated: counters -->\n", "<!-- end generated: counters -->");
        let (before, rest) = page.split_once(begin).expect("a place for the table");
        let (_, after) = rest.split_once(end).expect("an end of the table");
        format!("{before}{begin}{}{end}{after}", table_of_counters())
    });
}

#[test]
fn the_front_page_stays_short() {
    let page = fs::read_to_string(Path::new(ROOT).join("README.md")).expect("a readable file");
    let length = page.lines().count();
    assert!(length <= 150, "{length} lines");
}
