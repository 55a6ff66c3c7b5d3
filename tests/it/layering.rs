//! Who may import whom: from plain values (0) to what puts everything together (4). A room imports only from rooms of a lower layer,
//! or of its own layer if they stand before it here. Nothing imports `daemon` but `cli`, and nothing below
//! layer 4 imports `config`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::sources::{inside_src, rust_files};

/// Layer, rooms in order.
const LAYERS: [(u8, &[&str]); 5] = [
    (
        0,
        &[
            "memory",
            "named",
            "hyperloglog",
            "protocol",
            "series",
            "untrusted",
            "acl",
            "glob",
            "settings",
            "fault",
            "watches",
            "random",
        ],
    ),
    // Workers and snapshots carry parts of the ledger.
    (1, &["telemetry", "senders", "aggregate", "presence"]),
    (2, &["snapshot", "prometheus_text", "rollup", "codec", "journal", "history", "cluster"]),
    (
        3,
        &[
            "sys",
            "supervise",
            "log",
            "reloads",
            "hints",
            "disk",
            "state",
            "http_client",
            "nats_client",
            "web",
            "capture",
            "tail",
            "notify",
            "presence_driver",
            "ports",
            "net",
            "load",
            "sinks",
            "cluster_bus",
            "explain",
            "flush",
            "cluster_driver",
            "management",
            "http",
        ],
    ),
    (4, &["config", "assemble", "aggregator", "daemon", "cli"]),
];

/// Rooms of the outside don't know each other.
const STRANGERS: [&str; 4] = ["net", "sinks", "http", "management"];

/// Layers 0 to 2 know no socket, task, thread or clock.
const IMPURE: [&str; 8] =
    ["tokio", "std::thread", "std::fs", "Instant::now", "SystemTime::now", "UdpSocket", "TcpStream", "std::process"];

fn rank(room: &str) -> Option<(u8, usize)> {
    LAYERS.iter().find_map(|(layer, rooms)| Some((*layer, rooms.iter().position(|known| *known == room)?)))
}

/// Every source file with the room it belongs to and its text without comments.
fn sources() -> Vec<(String, PathBuf, String)> {
    rust_files("src")
        .into_iter()
        .filter_map(|(path, text)| {
            let room = inside_src(&path).iter().next()?.to_str()?.trim_end_matches(".rs").to_string();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            (room != "lib" && room != "main").then_some((room, path, code))
        })
        .collect()
}

/// Modules between a file and the root of the crate.
fn depth(path: &Path) -> usize {
    let inside = inside_src(path);
    inside.iter().count() - usize::from(inside.ends_with("mod.rs"))
}

/// The identifier at the start of a text.
fn word(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// What follows `crate::`: the first name of the path, or of every path of a group.
fn first_names(path: &str) -> Vec<&str> {
    let Some(group) = path.strip_prefix('{') else { return vec![word(path)] };
    let (mut names, mut depth, mut expected) = (Vec::new(), 1, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => expected = true,
            _ if expected && !c.is_whitespace() => {
                names.push(word(&group[at..]));
                expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Rooms that a text names by a path from the root: `crate::a::b`, `crate::{a::b, c}`, or `super::` as often as the file
/// lies deep.
fn imports(code: &str, depth: usize) -> Vec<&str> {
    let climb = "super::".repeat(depth);
    let mut names: Vec<&str> =
        code.match_indices("crate::").flat_map(|(at, word)| first_names(&code[at + word.len()..])).collect();
    for (at, _) in code.match_indices(&climb) {
        let is_whole = !code[..at].ends_with("super::") && !code[at + climb.len()..].starts_with("super::");
        if is_whole {
            names.extend(first_names(&code[at + climb.len()..]));
        }
    }
    names
}

#[test]
fn imports_are_found_in_every_form() {
    for (code, depth, expected) in [
        ("use crate::net::udp;", 1, &["net"][..]),
        ("use crate::{a::b, c};", 1, &["a", "c"]),
        ("use crate::{\n    a::{self, b::{c, d}},\n    e::*,\n};\nuse std::{fs, io};", 1, &["a", "e"]),
        ("fn f(x: &crate::log::Log) -> crate::sys::Fd { $crate::flush::now() }", 1, &["log", "sys", "flush"]),
        ("use super::net::udp;", 1, &["net"]),
        ("use super::udp;\nuse super::super::{net, sinks::x};", 2, &["net", "sinks"]),
        ("use super::super::udp;", 3, &[]),
    ] {
        assert_eq!(imports(code, depth), expected, "{code}");
    }
}

#[test]
fn rooms_import_only_from_lower_layers() {
    let mut wrong = Vec::new();
    for (room, path, code) in sources() {
        let own = rank(&room).unwrap_or_else(|| panic!("{}: `{room}` is in no layer", path.display()));
        for import in imports(&code, depth(&path)) {
            let Some(other) = rank(import) else { continue };
            let strangers = STRANGERS.contains(&room.as_str()) && STRANGERS.contains(&import);
            let house = import == "daemon" && room != "cli" || import == "config" && own.0 < 4;
            if import != room && (other >= own || strangers || house) {
                wrong.push(format!("{} imports {import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_is_pure() {
    let mut wrong = Vec::new();
    for (room, path, code) in sources() {
        // Tests of the core may use threads.
        if rank(&room).is_some_and(|(layer, _)| layer <= 2) && !path.ends_with("tests.rs") {
            let code = code.split("#[cfg(test)]").next().unwrap_or("");
            let found = IMPURE.iter().filter(|word| code.contains(**word));
            wrong.extend(found.map(|word| format!("{}: {word}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_switches_on_the_lint_against_clocks() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let core = LAYERS.iter().filter(|(layer, _)| *layer <= 2).flat_map(|(_, rooms)| rooms.iter());
    for room in core {
        let root = [src.join(format!("{room}.rs")), src.join(room).join("mod.rs")];
        let text = root.iter().find_map(|path| fs::read_to_string(path).ok()).expect("a room has a file");
        assert!(text.contains("#![deny(clippy::disallowed_methods)]"), "{room}");
    }
}

#[test]
fn unsafe_code_lives_in_one_small_room() {
    for (_, path, code) in sources() {
        // Everywhere else the lint `unsafe_code` of Cargo.toml denies it.
        let allowed = path.to_string_lossy().contains("/src/sys/");
        assert!(allowed || !code.contains("allow(unsafe_code)"), "{}", path.display());
    }
}

#[test]
fn tests_wait_and_pause_by_way_of_support() {
    for (path, code) in rust_files("tests/it") {
        // This file has the words.
        if path.ends_with("layering.rs") || path.to_string_lossy().contains("/support/") {
            continue;
        }
        // `poll` has a deadline, `pause` says that nothing rests on it.
        assert!(!code.contains("thread::sleep"), "{} sleeps by itself", path.display());
    }
}

#[test]
fn the_documents_show_the_layers() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let page = fs::read_to_string(page).expect("a readable file");
    for (layer, rooms) in LAYERS {
        let row = format!("| {layer} | `{}` |", rooms.join("`, `"));
        assert!(page.contains(&row), "docs/architecture.md lacks {row}");
    }
}
