//! Broken configurations: every mistake with file, line, column, key and what would be right, all at once.

use std::collections::BTreeSet;

use crate::support::certs::{self, Authority};
use crate::support::{command, holds_what_is_generated, systole, text};

/// A configuration and what `systole check` says of it, without the file's name.
const BROKEN: [(&str, &[&str]); 58] = [
    ("intervall = \"10s\"", &["1:1: intervall: unknown key (did you mean `interval`?)"]),
    ("interval = \"soon\"", &["1:12: interval: `soon` is not a duration such as \"10s\", from 10ms to 1day"]),
    ("interval = 10", &["1:12: interval: `10` is not a duration such as \"10s\", from 10ms to 1day"]),
    ("interval = \"1ms\"", &["1:12: interval: `1ms` is not a duration such as \"10s\", from 10ms to 1day"]),
    ("profile = \"etsi\"", &["1:11: profile: `etsi` is none of `systole`, `etsy`, `dogstatsd` (did you mean `etsy`?)"]),
    (
        "[dogstatsd]\naggregates = [\"mean\"]",
        &["2:15: dogstatsd.aggregates[0]: `mean` is not one of max, min, median, avg, sum, count"],
    ),
    ("percentiles = 90", &["1:15: percentiles: `90` is not an array"]),
    ("percentiles = [50, 101]", &["1:20: percentiles[1]: `101` is not a number from -100 to 100"]),
    ("percentiles = [\"p50\"]", &["1:16: percentiles[0]: `p50` is not a number from -100 to 100"]),
    ("exact_samples = 0", &["1:17: exact_samples: `0` is not a whole number from 1 to 1000000"]),
    (
        "[[rule]]\nmatch = \"a\"\ninterval = \"1m\"",
        &["3:12: rule[0].interval: `1m` is not a number of intervals, such as 12: a whole number from 1 to 10000"],
    ),
    ("digits = 6", &["1:10: digits: `6` is not a whole number from 1 to 5"]),
    ("digits = 2.5", &["1:10: digits: `2.5` is not a whole number from 1 to 5"]),
    (
        "gauge_ttl = \"never\"",
        &["1:13: gauge_ttl: `never` is not a duration such as \"10s\", from 10ms to 366days, or \"forever\""],
    ),
    ("max_series = -1", &["1:14: max_series: `-1` is not a whole number from 1 to 1000000000"]),
    ("prefix = 1", &["1:10: prefix: `1` is not a string"]),
    (
        "prefix = \"${NO_SUCH_VARIABLE}.\"",
        &[
            "1:10: prefix: environment variable `NO_SUCH_VARIABLE` is not set; `${NO_SUCH_VARIABLE:-x}` is `x` without it",
        ],
    ),
    ("tags = \"a\"", &["1:8: tags: `a` is not a table of strings"]),
    ("tags = { host = 1 }", &["1:17: tags.host: `1` is not a string"]),
    ("self_metrics = \"yes\"", &["1:16: self_metrics: `yes` is not true or false"]),
    (
        "[[listen]]\nurl = \"udp://127.0.0.1\"",
        &["2:7: listen[0].url: `127.0.0.1` has no port; `udp://127.0.0.1:8125` is right"],
    ),
    (
        "[[listen]]\nurl = \"upd://127.0.0.1:1\"",
        &["2:7: listen[0].url: unknown scheme `upd` (did you mean `udp`?); `udp://127.0.0.1:8125` is right"],
    ),
    (
        "[[listen]]\nurl = \"127.0.0.1:8125\"",
        &["2:7: listen[0].url: `127.0.0.1:8125` has no scheme; `udp://127.0.0.1:8125` is right"],
    ),
    (
        "[[listen]]\nurl = \"udp://127.0.0.1:99999\"",
        &["2:7: listen[0].url: `99999` is no port; `udp://127.0.0.1:8125` is right"],
    ),
    (
        "[[listen]]\nurl = \"unix://run/s\"",
        &["2:7: listen[0].url: `run/s` is no absolute path of at most 107 bytes; `unix:///run/systole.sock` is right"],
    ),
    (
        "[[listen]]\nurl = \"unixgram:///run/s\"\nmode = \"rw\"\nframing = \"lines\"",
        &[
            "3:8: listen[0].mode: `rw` is not the rights of a file in octal, such as \"0660\"",
            "4:11: listen[0].framing: `lines` is none of `newline`, `length`",
        ],
    ),
    (
        "[[rule]]\nmatch = \"a.*\"\n[[rule]]\nrename = \"b\"\n[[rule]]\nmatch = \"a.*\"\nrename = \"$2\"\nttl = \"1hou\"",
        &[
            "1:1: rule: it does nothing; say what it does, such as `rename`, `drop`, `drop_tags` or `percentiles`",
            "3:1: rule[1].match: missing; for example `match = \"api.*\"`",
            "7:10: rule[2].rename: `$2` is not a text whose highest `$` is the number of stars in `match`, which is 1",
            "8:7: rule[2].ttl: `1hou` is not a duration such as \"10s\", from 10ms to 366days, or \"forever\"",
        ],
    ),
    ("[[listen]]\nworkers = 2", &["1:1: listen[0].url: missing; for example `url = \"udp://127.0.0.1:8125\"`"]),
    ("[listen]\nurl = \"udp://127.0.0.1:1\"", &["1:1: listen: expected tables `[[listen]]`"]),
    (
        "[[listen]]\nurl = \"udp://127.0.0.1:1\"\nworkers = 0",
        &["3:11: listen[0].workers: `0` is not \"auto\" or a whole number from 1 to 64"],
    ),
    (
        "[[listen]]\nurl = \"udp://127.0.0.1:1\"\nreceive_bufer = \"1MiB\"",
        &["3:1: listen[0].receive_bufer: unknown key (did you mean `receive_buffer`?)"],
    ),
    (
        "[[listen]]\nurl = \"udp://127.0.0.1:1\"\nreceive_buffer = \"1 parsec\"",
        &["3:18: listen[0].receive_buffer: `1 parsec` is not a size such as \"64KiB\", from 4KiB to 1GiB"],
    ),
    (
        "[[listen]]\nurl = \"udp://127.0.0.1:1\"\nallow = [\"10.0.0.0/33\"]",
        &["3:10: listen[0].allow[0]: `10.0.0.0/33` is not a network such as \"10.0.0.0/8\" or \"fd00::/8\""],
    ),
    (
        "[protocol]\nname_tags = [\"influxdb\"]",
        &[
            "2:14: protocol.name_tags[0]: `influxdb` is none of `graphite`, `influx`, `signalfx`, `librato` (did you mean `influx`?)",
        ],
    ),
    (
        "[protocol]\ngauge_sign = \"relative\"",
        &["2:14: protocol.gauge_sign: `relative` is none of `delta`, `absolute`"],
    ),
    ("[protocol]\nmax_name = 4096", &["2:12: protocol.max_name: `4096` is not a whole number from 1 to 1024"]),
    (
        "[idle]\ncounters = \"zeros\"",
        &["2:12: idle.counters: `zeros` is none of `drop`, `zero` (did you mean `zero`?)"],
    ),
    (
        "[[sink]]\ntype = \"grafite\"",
        &[
            "2:8: sink[0].type: `grafite` is none of `clickhouse`, `console`, `datadog`, `elasticsearch`, `exec`, `file`, `graphite`, `hdrlog`, `influx`, `kafka`, `nats`, `otlp`, `postgres`, `prometheus`, `remote_write`, `sqlite`, `statsd` (did you mean `graphite`?)",
        ],
    ),
    ("[[sink]]\nname = \"a\"", &["1:1: sink[0].type: missing; for example `type = \"graphite\"`"]),
    (
        "[[sink]]\ntype = \"file\"",
        &["1:1: sink[0].path: missing; for example `path = \"/var/log/systole/records.jsonl\"`"],
    ),
    (
        "[[sink]]\ntype = \"graphite\"\naddress = \"localhost\"",
        &["3:11: sink[0].address: `localhost` has no port; \"127.0.0.1:2003\" is right"],
    ),
    (
        "[[sink]]\ntype = \"console\"\n[[sink]]\ntype = \"console\"",
        &["3:1: sink[1].name: two sinks are called `console`; give one another `name`"],
    ),
    (
        "profile = \"statsd\"",
        &["1:11: profile: `statsd` is none of `systole`, `etsy`, `dogstatsd` (did you mean `etsy`?)"],
    ),
    ("digits = 3\ndigits = 3", &["2:1: duplicate key `digits`; leave one of them out"]),
    (
        "[[sink]]\ntype = \"graphite\"\naddress = \"127.0.0.1:2003\"\nspool = \"/x\"",
        &["4:9: sink[0].spool: it is no table; `spool = { … }`, or a head `[sink.spool]` of its own, is right"],
    ),
    ("[[presence.service]]\nmin = 2", &["1:1: presence.service[0].match: missing; for example `match = \"worker*\"`"]),
    (
        "[[listen]]\nurl = \"udp://127.0.0.1:9\"\n[[listen]]\nurl = \"udp://0.0.0.0:9\"\n[[listen]]\nurl = \"tcp://[::]:9\"",
        &["3:1: listen[1].url: `udp://0.0.0.0:9` is an address of `udp://127.0.0.1:9`, too; leave one of them out"],
    ),
    (
        "[[listen]]\nurl = \"tcp://127.0.0.1:9\"\n[management]\naddress = \"127.0.0.1:9\"",
        &[
            "4:11: management.address: `127.0.0.1:9` is taken by the listener tcp://127.0.0.1:9; give one of them another port",
        ],
    ),
    (
        "[[listen]]\nurl = \"tcp://[::]:9\"\n[management]\naddress = \"127.0.0.1:9\"",
        &[
            "4:11: management.address: `127.0.0.1:9` is taken by the listener tcp://[::]:9; give one of them another port",
        ],
    ),
    (
        "[[sink]]\ntype = \"prometheus\"\naddress = \"127.0.0.1:8127\"",
        &[
            "1:1: sink[0].address: `127.0.0.1:8127` is taken by the page (`http.address`); give one of them another port",
        ],
    ),
    (
        "[[sink]]\ntype = \"file\"\npath = \"/tmp/x\"\n[[sink]]\ntype = \"hdrlog\"\npath = \"/tmp/./x\"",
        &["4:1: sink[1].path: `/tmp/./x` is that of the sink `file`, too; give one of them another"],
    ),
    (
        "[[sink]]\ntype = \"graphite\"\naddress = \"a:1\"\nspool.path = \"/s\"\n[[sink]]\ntype = \"statsd\"\naddress = \"a:2\"\nspool.path = \"/s\"",
        &["5:1: sink[1].spool.path: `/s` is that of the sink `graphite`, too; give one of them another"],
    ),
    (
        "[presence]\nmax_instances_per_service = 2\n[[presence.expect]]\nservice = \"a\"\nmin = 3",
        &[
            "5:7: presence.expect[0].min: 3 instances cannot be: `max_instances_per_service` and `max_instances` leave room for 2",
        ],
    ),
    (
        "[[presence.expect]]\nservice = \"a\"\n[[presence.expect]]\nservice = \"a\"",
        &["1:1: presence.expect: service `a` is there twice; leave one of them out"],
    ),
    (
        "[http]\naddress = \"0.0.0.0:8127\"",
        &["2:11: http.address: `0.0.0.0:8127` is not on loopback, so `http.token` must be set"],
    ),
    (
        "[presence]\nwebhook = [\"ftp://x\"]\nmass_fraction = 7",
        &[
            "2:12: presence.webhook[0]: `ftp://x` begins with neither `http://` nor `https://`; `https://x` is right, or `http://` if it has no TLS",
            "3:17: presence.mass_fraction: `7` is not a number from 0 to 1.1",
        ],
    ),
    (
        "[[sink]]\ntype = \"remote_write\"\nurl = \"http://127.0.0.1\"\nbuckets = [2, 1]\ntls.key = \"k\"\nspool = { path = \"/x\", order = \"interleave\" }",
        &[
            "1:1: sink[0].spool.order: `interleave` is not for `remote_write`: it takes no interval after a later one",
            "4:11: sink[0].buckets: ascending bounds are right, such as [0.1, 1, 10]",
            "5:1: sink[0].tls.certificate: missing; for example `certificate = \"/etc/systole/client.pem\"`",
        ],
    ),
    (
        // Everything that is wrong, in the order of the file.
        "interval = 1\ndigits = 9\n[log]\nlevel = \"loud\"\nformt = \"json\"\n[[sink]]\ntype = \"console\"\nqueue = 0\n[htpp]\n",
        &[
            "1:12: interval: `1` is not a duration such as \"10s\", from 10ms to 1day",
            "2:10: digits: `9` is not a whole number from 1 to 5",
            "4:9: log.level: `loud` is none of `error`, `warn`, `info`, `debug`, `trace`",
            "5:1: log.formt: unknown key (did you mean `format`?)",
            "8:9: sink[0].queue: `0` is not a whole number from 1 to 10000",
            "9:2: htpp: unknown key (did you mean `http`?)",
        ],
    ),
];

#[test]
fn every_mistake_is_told_with_its_place_its_key_and_what_would_be_right() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("broken.toml");
    let name = file.to_str().expect("plain").to_string();
    let mut wrong = Vec::new();
    for (toml, expected) in BROKEN {
        std::fs::write(&file, toml).expect("written");
        for subcommand in ["check", "run"] {
            let output = systole(&[subcommand, "-c", &name], b"");
            let said = text(&output.stderr);
            let mut lines: Vec<&str> = said.lines().collect();
            let summary = lines.pop().unwrap_or("");
            let full: Vec<String> = expected.iter().map(|line| format!("{name}:{line}")).collect();
            let count = expected.len();
            let counted = format!("systole: {count} mistake{} in the configuration", if count == 1 { "" } else { "s" });
            if output.status.code() != Some(2) || lines != full || summary != counted {
                wrong.push(format!("{toml}\n  expected {full:#?}\n  said {said}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn broken_toml_is_told_at_its_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("broken.toml");
    let name = file.to_str().expect("plain");
    for (toml, place) in [
        ("interval = \"10s\"\nprefix = \"x\nmax", "2:12"),
        ("a b = 1", "1:3"),
        ("[http\n", "1:6"),
        ("digits = 3\ndigits = 3", "2:1"),
    ] {
        std::fs::write(&file, toml).expect("written");
        let output = systole(&["check", "-c", name], b"");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(said.starts_with(&format!("{name}:{place}: ")), "{toml}: {said}");
    }
}

#[test]
fn the_environment_sets_scalars_and_its_mistakes_name_the_variable() {
    let mut good = command(&["check", "--print"]);
    good.env("SYSTOLE_INTERVAL", "2s").env("SYSTOLE_HTTP__ADDRESS", "off").env("SYSTOLE_PORT_8125_UDP", "x");
    let output = good.output().expect("it runs");
    let printed = text(&output.stdout);
    assert!(printed.contains("interval = \"2s\"") && printed.contains("address = \"off\""), "{printed}");

    let mut bad = command(&["check"]);
    bad.env("SYSTOLE_DIGITS", "many").env("SYSTOLE_HTTP__ADRESS", "off");
    let output = bad.output().expect("it runs");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("SYSTOLE_DIGITS: digits: `many` is not a whole number from 1 to 5"), "{said}");
    let unknown = "warning: SYSTOLE_HTTP__ADRESS: no such setting (did you mean `SYSTOLE_HTTP__ADDRESS`?)";
    assert!(said.contains(unknown), "{said}");
}

#[test]
fn an_unknown_variable_is_a_warning_and_those_of_others_are_none() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "prefix = \"${SYSTOLE_SITE}.\"\n").expect("written");
    let mut check = command(&["check", "-c", file.to_str().expect("plain")]);
    check.env("SYSTOLE_SINKS", "x").env("SYSTOLE_SITE", "a").env("SYSTOLE_TOKEN", "t");
    check.env("SYSTOLE_SERVICE_HOST", "10.0.0.1").env("SYSTOLE_PORT_8125_UDP_ADDR", "10.0.0.1");
    let output = check.output().expect("it runs");
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    let warnings: Vec<&str> = said.lines().collect();
    assert_eq!(warnings, ["systole: warning: SYSTOLE_SINKS: no such setting (did you mean `SYSTOLE_SINK`?)"]);
}

#[test]
fn a_flag_goes_before_a_variable_and_that_before_the_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    let config = "[[listen]]\nurl = \"udp://127.0.0.1:1\"\n[[sink]]\ntype = \"file\"\npath = \"/tmp/x\"\n";
    std::fs::write(&file, config).expect("written");
    let name = file.to_str().expect("plain");
    let listen = |sources: systole::internals::config::Sources| {
        let config = systole::internals::config::load(&sources).expect("it is right");
        let listen: Vec<String> = config.listen.iter().map(|listen| listen.url.to_string()).collect();
        let sinks: Vec<String> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
        (listen.join(" "), sinks.join(" "))
    };
    let of_file =
        systole::internals::config::Sources { file: Some((name.into(), config.into())), ..Default::default() };
    let mut of_variable = of_file.clone();
    of_variable.env.insert("SYSTOLE_LISTEN".into(), "udp://127.0.0.1:2 tcp://127.0.0.1:3".into());
    of_variable.env.insert("SYSTOLE_SINK".into(), "console: graphite://127.0.0.1:2003".into());
    let mut of_flag = of_variable.clone();
    of_flag.listen = vec!["udp://127.0.0.1:4".into()];
    of_flag.sink = vec!["exec:///bin/cat".into()];
    let pair = |listen: &str, sinks: &str| (listen.to_string(), sinks.to_string());
    assert_eq!(listen(of_file), pair("udp://127.0.0.1:1", "file"));
    assert_eq!(listen(of_variable), pair("udp://127.0.0.1:2 tcp://127.0.0.1:3", "console graphite"));
    assert_eq!(listen(of_flag), pair("udp://127.0.0.1:4", "exec"));

    // The file of the variable is read where no flag names another, and a mistake has the variable's name.
    let mut check = command(&["check"]);
    let output = check.env("SYSTOLE_CONFIG", name).output().expect("it runs");
    assert_eq!(text(&output.stdout), format!("{name}: good\n"));
    let mut check = command(&["check", "-c", "/nonexistent.toml"]);
    assert_eq!(check.env("SYSTOLE_CONFIG", name).output().expect("it runs").status.code(), Some(2));
    let mut check = command(&["check"]);
    let output = check.env("SYSTOLE_LISTEN", "upd://127.0.0.1:1").output().expect("it runs");
    let said = text(&output.stderr);
    assert!(said.contains("SYSTOLE_LISTEN: unknown scheme `upd` (did you mean `udp`?)"), "{said}");
    let help = text(&systole(&["run", "--help"], b"").stdout);
    for variable in ["SYSTOLE_CONFIG", "SYSTOLE_LISTEN", "SYSTOLE_SINK"] {
        assert!(help.contains(variable), "{help}");
    }
}

#[test]
fn the_printed_configuration_reads_back_as_the_same_and_hides_secrets() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = dir.path().join("token");
    std::fs::write(&secret, "s3cret\n").expect("written");
    let config = format!(
        r#"
profile = "etsy"
percentiles = [90, 99.9, -10]
tags = {{ host = "${{HOSTNAME}}", "a b" = "q\"uote" }}
gauge_ttl = "90s"
[[listen]]
url = "udp://[::1]:8125"
workers = 2
allow = ["10.0.0.0/8"]
protocol = {{ gauge_sign = "absolute", name_tags = [] }}
[[listen]]
url = "tcp://127.0.0.1:8125"
[[sink]]
type = "graphite"
address = "graphite.example:2003"
naming = "systole"
[[sink]]
type = "file"
path = "/tmp/x"
max_size = "1MiB"
max_age = "1h"
[[etsy.histogram]]
metric = "foo"
bins = [1, 2.5, "inf"]
[presence]
names = ["heartbeat", "prod.heartbeat"]
state_file = "/tmp/presence.json"
mass_hold = "2m"
misses = 3
min = 1
[[presence.service]]
match = "edge-*"
misses = "auto"
grace = "2s"
ephemeral = true
[[presence.expect]]
service = "payments"
min = 2
within = "1m"
[http]
address = "127.0.0.1:0"
token = "file:{}"
"#,
        secret.display()
    );
    let file = dir.path().join("c.toml");
    let print = |config: &str| {
        std::fs::write(&file, config).expect("written");
        let output = systole(&["check", "--print", "-c", file.to_str().expect("plain")], b"");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let once = print(&config);
    assert!(!once.contains("s3cret") && once.contains("********"), "{once}");
    assert_eq!(print(&once), once);
    assert_eq!(print(&print("")), print(""));
}

#[test]
fn check_connect_tries_each_sink() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let file = dir.path().join("c.toml");
    let check = |port: u16| {
        let config =
            format!("[[sink]]\ntype = \"graphite\"\naddress = \"127.0.0.1:{port}\"\n[[sink]]\ntype = \"console\"\n");
        std::fs::write(&file, config).expect("written");
        systole(&["check", "--connect", "-c", file.to_str().expect("plain")], b"")
    };
    assert_eq!(check(port).status.code(), Some(0));
    // A port that was free a moment ago may be another test's now; this one is nobody's.
    let output = check(1);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("cannot reach 127.0.0.1"), "{}", text(&output.stdout));
}

#[test]
fn the_example_is_generated_and_lists_every_setting_with_its_default() {
    holds_what_is_generated("examples/systole.toml", "config::", systole::internals::config::example);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/systole.toml");
    let example = std::fs::read_to_string(file).expect("the example");
    let printed = |args: &[&str]| {
        let output = systole(args, b"");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    // What it sets is what holds without it.
    assert_eq!(printed(&["check", "--print", "-c", file]), printed(&["check", "--print"]));
    // With the examples it is still good.
    let shown = |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_string();
    let whole = example.lines().map(|line| shown(line) + "\n").collect::<String>();
    let dir = tempfile::tempdir().expect("a folder");
    let all = dir.path().join("all.toml");
    // A job has a schedule or runs every so often.
    let possible = whole.replace("\nevery = \"1h\"\n", "\n");
    // A rule has one pattern.
    let is_further = |line: &str| ["match_parts = ", "match_regex = "].iter().any(|key| line.starts_with(key));
    let possible: String = possible.split_inclusive('\n').filter(|line| !is_further(line)).collect();
    // TLS is for tcp://, and its files are read.
    let authority = Authority::new();
    authority.setting(dir.path(), Some(&authority));
    let readable = certs::readable(&possible.replace("url = \"udp://", "url = \"tcp://"), dir.path());
    std::fs::write(&all, readable).expect("written");
    let printed = printed(&["check", "--print", "-c", all.to_str().expect("plain")]);
    // Every key is in it: what is printed of it has none that it does not have.
    let (set, effective) = (keys_of(&whole), keys_of(&printed));
    let missing: Vec<&String> = effective.difference(&set).collect();
    assert!(missing.is_empty(), "the example does not have {missing:?}");
    assert!(effective.len() > 200, "{} keys", effective.len());
}

#[test]
fn check_runs_the_tests_of_a_configuration_and_says_what_came_in_place_of_what_was_wanted() {
    const RULES: &str = r#"tags = { host = "h" }
percentiles = [50]
[[rule]]
match = "api.*.hits"
rename = "api.hits"
add_tags = { verb = "$1" }
[[rule]]
match = "debug.*"
drop = true
"#;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    let name = file.to_str().expect("plain");
    let check = |tests: &str| {
        std::fs::write(&file, format!("{RULES}{tests}")).expect("written");
        let output = systole(&["check", "-c", name], b"");
        let said = text(&output.stderr).replace(&format!("{name}:"), "");
        (output.status.code(), text(&output.stdout), said.lines().map(str::to_string).collect::<Vec<_>>())
    };
    let good = r#"
[[test]]
name = "verbs become a tag"
lines = ["api.get.hits:2|c", "api.get.hits:1|c", "debug.x:1|c", "t:10|ms\nt:30|ms", "pool:7|g", "no metric"]
malformed = 1
only = true
expect = [
  { name = "api.hits", type = "counter", tags = { verb = "get" }, value = 3, rate = 0.3 },
  { name = "debug.*", absent = true },
  { name = "t", tags = {}, count = 2, mean = 20, percentiles = { 50 = 10 } },
  { name = "p?ol", tags = { host = "h" }, value = 7 },
]
"#;
    assert_eq!(check(good), (Some(0), format!("{name}: good\ntests: 1 of 1 passed\n"), vec![]));
    // The daemon does not look at them, and neither does who wants to see what is effective.
    let broken = good.replace("value = 3", "value = 4");
    std::fs::write(&file, format!("{RULES}{broken}")).expect("written");
    assert_eq!(systole(&["check", "--print", "-c", name], b"").status.code(), Some(0));
    for (was, is, said) in [
        (
            "value = 3,",
            "value = 4,",
            "17:3: test `verbs become a tag`: `counter api.hits;verb=get`: value is 3 in place of 4",
        ),
        ("rate = 0.3 ", "min = 1 ", "17:3: test `verbs become a tag`: `counter api.hits;verb=get`: it has no min"),
        ("50 = 10", "50 = 11", "19:3: test `verbs become a tag`: `timer t`: percentiles.50 is 10 in place of 11"),
        ("debug.*", "po*", "18:3: test `verbs become a tag`: `gauge pool` came, which must not"),
        (
            "malformed = 1",
            "malformed = 0",
            "11:1: test `verbs become a tag`: malformed lines: 1 in place of 0: `no metric`: no `|type` follows; a line reads `name:value|type`",
        ),
    ] {
        let (code, out, err) = check(&good.replacen(was, is, 1));
        assert_eq!((code, out.as_str()), (Some(1), "tests: 0 of 1 passed\n"), "{err:?}");
        assert_eq!(err, [said]);
    }
    let (_, _, err) = check(&good.replace("\"t\", tags = {}", "\"t\", tags = { verb = \"get\" }"));
    let wanted = [
        "11:1: test `verbs become a tag`: `timer t` came, which nothing expects",
        "19:3: test `verbs become a tag`: `t;verb=get` did not come; `timer t`, `gauge pool`, `counter api.hits;verb=get` came",
    ];
    assert_eq!(BTreeSet::from_iter(err.iter().map(String::as_str)), BTreeSet::from(wanted));
    // What cannot be a test is a mistake like any other.
    let (code, _, err) = check("[[test]]\nname = \"x\"\nlines = [\"a:1|c\"]\nexpect = [{ nam = \"a\", valu = 1 }]\n");
    assert_eq!(code, Some(2));
    assert!(err.iter().any(|line| line.contains("test[0].expect[0].name: missing")), "{err:?}");
    assert!(err.iter().any(|line| line.contains("unknown key (did you mean `value`?)")), "{err:?}");
}

#[test]
fn the_reference_in_the_documents_is_generated() {
    let marks = ("<!-- generated: settings -->\n", "<!-- end generated: settings -->");
    holds_what_is_generated("docs/configuration.md", "config::", |text| {
        let (before, rest) = text.split_once(marks.0).expect("the mark of the beginning");
        let (old, after) = rest.split_once(marks.1).expect("the mark of the end");
        format!("{before}{}{}\n{}{after}", marks.0, systole::internals::config::reference(old), marks.1)
    });
}

/// Keys of a TOML text, those of items without their numbers. What is a table of the user's own words is one key.
fn keys_of(text: &str) -> BTreeSet<String> {
    fn walk(path: &str, value: &toml::Value, keys: &mut BTreeSet<String>) {
        match value {
            toml::Value::Table(table) if !["tags", "add_tags"].contains(&path.rsplit('.').next().unwrap_or("")) => {
                if !path.is_empty() {
                    keys.insert(path.to_string());
                }
                for (key, value) in table {
                    let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&inner, value, keys);
                }
            }
            toml::Value::Array(all) if all.iter().any(toml::Value::is_table) => {
                all.iter().for_each(|value| walk(path, value, keys));
            }
            _ => {
                keys.insert(path.to_string());
            }
        }
    }
    let (mut keys, table) = (BTreeSet::new(), text.parse::<toml::Table>().expect("TOML"));
    walk("", &toml::Value::Table(table), &mut keys);
    keys
}

#[test]
fn what_is_no_text_is_named_and_what_acts_on_a_terminal_is_escaped() {
    use std::os::unix::ffi::OsStrExt;
    let with = |name: &str, value: &[u8]| {
        let output = crate::support::command(&["check"])
            .env(name, std::ffi::OsStr::from_bytes(value))
            .output()
            .expect("it ends");
        (output.status.code(), crate::support::text(&output.stderr))
    };
    let (code, said) = with("SYSTOLE_INTERVAL", b"\xff");
    assert!(code == Some(2) && said.contains("SYSTOLE_INTERVAL: its value is not UTF-8"), "{said}");
    assert_eq!(with("ANOTHER", b"\xff").0, Some(0));
    let (code, said) = with("SYSTOLE_INTERVAL", b"\x1b[2J5");
    assert!(code == Some(2) && said.contains("\\u{1b}[2J5") && !said.contains('\x1b'), "{said}");
    let (code, said) = with("SYSTOLE_\x1b[2J", b"1");
    assert!(code == Some(0) && said.contains("no such setting") && !said.contains('\x1b'), "{said}");
}

#[test]
fn a_file_for_a_secret_that_is_empty_is_a_mistake() {
    let dir = tempfile::tempdir().expect("a folder");
    let (secret, file) = (dir.path().join("token"), dir.path().join("systole.toml"));
    let path = secret.display();
    std::fs::write(&file, format!("[http]\ntoken = \"file:{path}\"\n")).expect("written");
    for (text, code) in [("s3cret\n", 0), (" \n", 2), ("", 2)] {
        std::fs::write(&secret, text).expect("written");
        let output = systole(&["check", "-c", &file.display().to_string()], b"");
        assert_eq!(output.status.code(), Some(code), "{text:?}");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(errors.contains(&format!("systole.toml:2:9: http.token: `{path}` is empty")), code == 2, "{errors}");
    }
}

#[test]
fn check_lists_who_is_told_without_secrets_and_warns_of_programs_that_cannot_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").expect("written");
    let file = dir.path().join("systole.toml");
    let exec = |name: &str, program: &str| {
        format!("[[notify]]\ntype = \"exec\"\nname = \"{name}\"\ncommand = [\"{program}\", \"--key=s3cret\"]\n")
    };
    let config = [
        exec("gone", "/no/such/program"),
        exec("plain", plain.to_str().expect("plain")),
        exec("nowhere", "no-such-program"),
        exec("good", "sh"),
        "[[notify]]\ntype = \"slack\"\nurl = \"https://hooks.slack.com/services/T0/B0/s3cret\"\nservice = [\"pay*\"]\n\
         severity = \"critical\"\nresolved = false\n"
            .into(),
    ];
    std::fs::write(&file, config.concat()).expect("written");
    let output = systole(&["check", "-c", file.to_str().expect("plain")], b"");
    let (out, warnings) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), warnings.lines().count()), (Some(0), 3), "{warnings}");
    for part in [
        "notify gone: the program `/no/such/program` does not exist",
        "/plain` is not executable",
        "notify nowhere: the program `no-such-program` is in no folder of PATH",
    ] {
        assert!(warnings.contains(part), "{warnings}");
    }
    assert!(out.contains("notify good: exec sh, all alerts\n"), "{out}");
    assert!(
        out.contains("notify slack: slack https://hooks.slack.com/***, critical alerts of pay* without their ends\n"),
        "{out}"
    );
    assert!(!(out + &warnings).contains("s3cret"));
}

#[test]
fn what_cannot_come_to_anything_is_warned_of() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("systole.toml");
    for (config, warnings) in [
        (
            "[[rule]]\nmatch = \"a.*\"\ntags = { env = \"p*\" }\nttl = \"1h\"\n[[rule]]\nmatch = \"a.b\"\nttl = \"1h\"\n\
             [[rule]]\nmatch = \"a.b.*\"\ntags = { env = \"prod\", x = \"*\" }\ndrop = true\n",
            &[
                "rule 3 (match = \"a.b.*\") is never met: rule 1 (match = \"a.*\") before it takes all that it could; move it up",
            ] as &[&str],
        ),
        (
            "[[rule]]\nmatch = \"*\"\ntype = \"timer\"\nttl = \"1h\"\n[[rule]]\nmatch = \"a\"\nttl = \"1h\"\n\
             [[rule]]\nmatch = \"a\"\ntype = \"timer\"\ndrop = true\n",
            &[
                "rule 3 (match = \"a\") is never met: rule 1 (match = \"*\") before it takes all that it could; move it up",
            ],
        ),
        (
            "[[rule]]\nmatch_parts = \"heartbeat.*.*\"\nttl = \"1h\"\n[[rule]]\nmatch = \"heartbeats.*\"\nttl = \"1h\"\n\
             [[rule]]\nmatch_regex = '^heartbeat\\.x'\nttl = \"1h\"\n",
            &[
                "rule 1 (match = \"heartbeat.*.*\") has names of heartbeats, which are no metrics and meet no rule: with \
                 `presence.forward_raw = true` they are both, without \"heartbeat\" in `presence.names` metrics alone",
                "rule 3 (match = \"^heartbeat\\.x\") has names of heartbeats, which are no metrics and meet no rule: with \
                 `presence.forward_raw = true` they are both, without \"heartbeat\" in `presence.names` metrics alone",
            ],
        ),
        ("[presence]\nforward_raw = true\n[[rule]]\nmatch = \"heartbeat.*\"\nttl = \"1h\"\n", &[]),
        (
            "[[presence.expect]]\nservice = \"a\"\n[[presence.service]]\nmatch = \"a\"\nallow = []\n",
            &["presence.expect: service `a`: its `allow` is empty, so it can be heard from nowhere"],
        ),
        (
            "[presence]\nnames = []\n[[presence.expect]]\nservice = \"a\"\n",
            &["presence.expect: service `a`: `presence.names` is empty, so nobody can be heard"],
        ),
        (
            "[[presence.expect]]\nservice = \"a\"\n[[presence.service]]\nmatch = \"a\"\nnotify = \"never\"\n",
            &["presence.expect: service `a`: its `notify` is \"never\", so nobody is told that it is missing"],
        ),
    ] {
        std::fs::write(&file, format!("state_dir = \"/tmp\"\n{config}")).expect("written");
        let output = systole(&["check", "-c", file.to_str().expect("plain")], b"");
        let said = text(&output.stderr);
        let expected: Vec<String> = warnings.iter().map(|warning| format!("systole: warning: {warning}")).collect();
        assert_eq!(
            (said.lines().collect::<Vec<_>>(), output.status.code()),
            (expected.iter().map(|s| &**s).collect(), Some(0)),
            "{config}"
        );
    }
}

#[test]
fn a_variable_that_is_not_set_or_empty_may_have_something_in_its_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "prefix = \"${SYSTOLE_SITE:-here}.${NO_SUCH_VARIABLE:-}\"\n").expect("written");
    for (site, prefix) in [(None, "here."), (Some(""), "here."), (Some("there"), "there.")] {
        let mut check = command(&["check", "--print", "-c", file.to_str().expect("plain")]);
        check.envs(site.map(|site| ("SYSTOLE_SITE", site)));
        let output = check.output().expect("it runs");
        let (printed, said) = (text(&output.stdout), text(&output.stderr));
        assert!(printed.contains(&format!("prefix = \"{prefix}\"\n")), "{printed}{said}");
        assert!(!said.contains("SYSTOLE_SITE"), "the file uses it: {said}");
    }
}
