//! `systole import` through the front door: what is read, what is named as left out, and that what comes out is accepted.

use std::path::Path;

use crate::support::{systole, text};

/// What an import prints, which a check must accept, and what it says.
fn import(dir: &Path, file: &str) -> (String, String) {
    let output = systole(&["import", file], b"");
    let (toml, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    let imported = dir.join("imported.toml");
    std::fs::write(&imported, &toml).expect("written");
    let check = systole(&["check", "--print", "-c", imported.to_str().expect("plain")], b"");
    assert_eq!(check.status.code(), Some(0), "{}\n{toml}", text(&check.stderr));
    (toml + "\n# effective:\n" + &text(&check.stdout), said)
}

fn has(all: &str, expected: &[&str]) {
    for line in expected {
        assert!(all.contains(line), "{line}\nis not in\n{all}");
    }
}

#[test]
fn the_originals_configuration_is_carried_over_and_what_is_not_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let (toml, said) = import(dir.path(), "tests/corpus/import/config.js");
    has(
        &toml,
        &[
            "profile = \"etsy\"",
            "interval = \"2s 500ms\"",
            "percentiles = [90, 99.9, -10]",
            "url = \"udp://127.0.0.1:18125\"",
            "address = \"10.1.2.3:18126\"\nhealth = \"down\"",
            "address = \"graphite.example.org:2104\"\nprotocol = \"pickle\"\nnaming = \"etsy\"",
            "legacy_namespace = false\nglobal_prefix = \"s\"\nglobal_suffix = \"\"",
            "flush_counts = false",
            "calculated_timer_metrics = [\"count\", \"upper_percent\"]",
            "delete_counters = true",
            "delete_gauges = false",
            "gauges_max_ttl = 3",
            "metric = \"render\"\nbins = [0.01, 1, \"inf\"]",
            "metric = \"\"\nbins = []",
            "sanitize = false",
            "level = \"debug\"",
            "targets = [\"10.10.10.10:8125\"]\nmode = \"mirror\"",
            "#   graphite.globalSuffix: `require('os').hostname().split('.')[0]` is code, which is not executed",
            "#   prefixStats: `process.env.PREFIX || \"statsd\"` is code",
            "#   backends: `statsd-elasticsearch-backend` is a module of its own",
            "#   keyFlush.interval:",
            "#   dumpMessages:",
            "#   fluhsInterval: no such setting",
        ],
    );
    assert!(said.contains("7 settings of tests/corpus/import/config.js could not be carried over"), "{said}");
}

#[test]
fn a_mapping_becomes_rules_that_do_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let (toml, _) = import(dir.path(), "tests/corpus/import/mapping.yml");
    has(
        &toml,
        &[
            "percentiles = [99, 50]",
            "gauge_ttl = \"forever\"",
            "#   mappings[2] (test\\.*(.*)): regular expressions are not matched",
            "#   mappings[3].scale (api.time.*):",
            "#   mappings[3].summary_options.max_age:",
            "#   defaults.histogram_options.native_histogram_bucket_factor:",
            "#   buckets are in milliseconds",
            "type = [\"timer\", \"histogram\", \"distribution\"]",
        ],
    );
    let file = dir.path().join("imported.toml");
    let explain = |line: &str| text(&systole(&["explain", "-c", file.to_str().expect("plain"), line], b"").stdout);
    let tags = "action=send;job=test_dispatcher;outcome=ok;processor=fast";
    has(&explain("test.dispatcher.fast.send.ok:1|c"), &[&format!("becomes dispatcher_events_total;{tags}")]);
    has(&explain("web.signup.mail.ok:1|c"), &["becomes signup_events_total;job=web_server;provider=mail"]);
    has(&explain("api.time.x:7|ms"), &["becomes api_time; percentiles 99.9; forgotten after 60 s", "api_time.p99_9 7"]);
    assert!(!explain("api.time.x:7|c").contains("rule"));
    has(&explain("noise.a:1|c"), &["dropped"]);
    has(&explain("any.timer:100|h"), &["any.timer.le_5 0", "any.timer.le_250 1", "any.timer.le_inf 1"]);
}

#[test]
fn telegrafs_input_is_carried_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let (toml, said) = import(dir.path(), "tests/corpus/import/telegraf.toml");
    has(
        &toml,
        &[
            "interval = \"30s\"",
            "url = \"udp://[::]:18125\"",
            "exact_samples = 1000",
            "series_ttl = \"10h\"",
            "dc = \"eu-1\"",
            "#   inputs.statsd.templates: `measurement.host.field` has no rule",
            "#   inputs.statsd.allowed_pending_messages:",
            "#   outputs.influxdb: outputs are not read",
        ],
    );
    assert!(said.contains("3 settings"), "{said}");
    let file = dir.path().join("imported.toml");
    let explain = |line: &str| text(&systole(&["explain", "-c", file.to_str().expect("plain"), line], b"").stdout);
    has(&explain("cpu.load.eu:1|c"), &["becomes cpu_load;host=a;region=eu"]);
    has(&explain("mem.web1.used.heap:1|g"), &["becomes mem_used.heap;host=web1"]);
}

#[test]
fn what_is_no_configuration_is_an_error_that_says_where() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x");
    let name = file.to_str().expect("plain");
    let deep = format!("{{ a: {}1{} }}", "[".repeat(20_000), "]".repeat(20_000));
    for (content, expected) in [
        ("", "neither statsd's config.js"),
        ("hello\n", "neither statsd's config.js"),
        ("{ port: 8125\n, backends: [\n", "line 1: the object is not closed"),
        ("mappings:\n- match: [\n", "line"),
        ("mappings: 5\n", "`mappings` must be a list"),
        ("[[inputs.statsd]]\nx = \n", "line 2"),
    ] {
        std::fs::write(&file, content).expect("written");
        let output = systole(&["import", name], b"");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{content}: {said}");
        assert!(said.contains(expected) && said.contains(name), "{content}: {said}");
        assert!(output.stdout.is_empty());
    }
    // Nesting is no way to bring it down.
    std::fs::write(&file, deep).expect("written");
    assert_eq!(systole(&["import", name], b"").status.code(), Some(2));
    assert_eq!(systole(&["import", "/no/such/file"], b"").status.code(), Some(2));
}
