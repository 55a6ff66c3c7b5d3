//! `systole import` through the front door: what is read, what is named as left out, and that what comes out is accepted.

use std::path::Path;

use crate::support::{systole, text};

/// What an import prints, which a check must accept, and what it says.
fn import(dir: &Path, file: &str) -> (String, String) {
    let output = systole(&["import", file], b"");
    let (toml, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    let imported = dir.join("imported.toml");
    // Variables of the machine that it is for.
    let set = toml.replace("${DC}", "eu").replace("${INFLUX_TOKEN}", "t");
    std::fs::write(&imported, set).expect("written");
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
            "#   prefixStats is `\"statsd\"`; the original asks `process.env.PREFIX` first, which is not executed",
            "#   backends: `statsd-elasticsearch-backend` is a module of its own",
            "#   keyFlush.interval:",
            "#   dumpMessages:",
            "#   fluhsInterval: no setting of the original",
            "#   keyFlush.interval: the page and `systole top` show",
        ],
    );
    assert!(said.contains("5 settings of tests/corpus/import/config.js could not be carried over"), "{said}");
}

/// The exit code, what an import of this text prints, and what it says.
fn import_text(dir: &Path, content: &str) -> (Option<i32>, String, String) {
    let file = dir.join("config.js");
    std::fs::write(&file, content).expect("written");
    let output = systole(&["import", file.to_str().expect("plain")], b"");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn code_is_carried_over_where_it_has_a_literal_and_refused_where_it_is_needed() {
    let dir = tempfile::tempdir().expect("a folder");
    let env = "{ graphiteHost: process.env.GRAPHITE || \"127.0.0.1\", graphitePort: +process.env.P || 2103, dumpMessages: f(1) }";
    let (code, toml, said) = import_text(dir.path(), env);
    assert_eq!(code, Some(0), "{said}");
    has(
        &toml,
        &[
            "address = \"127.0.0.1:2103\"",
            "#   graphiteHost is `\"127.0.0.1\"`; the original asks `process.env.GRAPHITE` first",
        ],
    );
    let (code, toml, said) = import_text(dir.path(), "{ graphiteHost: process.env.GRAPHITE, mine: f(1) }");
    assert_eq!(code, Some(1), "{said}");
    has(&toml, &["\nwrite_by_hand = [\"graphiteHost: process.env.GRAPHITE\"]\n", "#   mine: `f(1)` is code"]);
    assert!(!toml.contains("without graphiteHost"), "{toml}");
    assert!(said.contains("write_by_hand"), "{said}");
    let two = "{ port: 1, servers: [{ server: './servers/udp', port: 8125 }] }";
    let (code, toml, said) = import_text(dir.path(), two);
    assert_eq!(code, Some(0), "{said}");
    has(&toml, &["#   port: with `servers` each of these has its own, and the original does not look here"]);
}

#[test]
fn a_mapping_becomes_rules_that_do_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let (toml, said) = import(dir.path(), "tests/corpus/import/mapping.yml");
    assert!(said.contains("2 settings of tests/corpus/import/mapping.yml could not be carried over"), "{said}");
    has(
        &toml,
        &[
            "percentiles = [99, 50]",
            "gauge_ttl = \"forever\"",
            "#   mappings[3], line 32 (api.time.*).summary_options.max_age: a quantile is that of the last interval",
            "#   defaults.histogram_options.native_histogram_bucket_factor: the sink has native histograms",
            // The order is that of the reference, and each table says where it comes from.
            "\n\npercentiles = [99, 50]\ngauge_ttl = \"forever\"\n\n# its default, --statsd.listen-udp\n[[listen]]\nurl = \"udp://[::]:9125\"\n",
            "\n[[listen]]\nurl = \"tcp://[::]:9125\"\n\n[protocol]\nname_tags = [\"influx\", \"signalfx\", \"librato\"]\n",
            "\n# mappings[0], line 17: test.dispatcher.*.*.* (timers: bounds in milliseconds)\n[[rule]]\n\
             match_parts = \"test.dispatcher.*.*.*\"\ntype = \"timer\"\nrename = \"dispatcher_events_total\"\n\
             add_tags = { action = \"$2\", job = \"test_dispatcher\", outcome = \"$3\", processor = \"$1\" }\nbuckets = [5, 250, 2500]\n",
            "rename = \"dispatcher_events_total\"\nadd_tags = { action = \"$2\", job = \"test_dispatcher\", outcome = \"$3\", processor = \"$1\" }\n\
             buckets = [0.005, 0.25, 2.5]\n",
            "\n# mappings[3], line 32: api.time.*\n[[rule]]\nmatch_parts = \"api.time.*\"\n\
             type = [\"timer\", \"histogram\", \"distribution\"]\nrename = \"api_time\"\nhelp = \"How long\"\nscale = 0.001\npercentiles = [99.9]\nttl = \"1m\"\n",
            "match_regex = 'test\\.*(.*)'\ntype = \"timer\"\nrename = \"catch_all\"",
            "[[sink]]\ntype = \"prometheus\"\naddress = \"[::]:9102\"\nttl = \"1year\"\nnative_histograms = false\nnaming = \"exporter\"\n",
        ],
    );
    has(&toml, &["#   of `ms`, `h` and `d` lines under one name the sink shows the type that comes first"]);
    let file = dir.path().join("imported.toml");
    let explain = |line: &str| text(&systole(&["explain", "-c", file.to_str().expect("plain"), line], b"").stdout);
    let tags = "action=send;job=test_dispatcher;outcome=ok;processor=fast";
    has(&explain("test.dispatcher.fast.send.ok:1|c"), &[&format!("becomes dispatcher_events_total;{tags}")]);
    has(&explain("web.signup.mail.ok:1|c"), &["becomes signup_events_total;job=web_server;provider=mail"]);
    has(
        &explain("api.time.x:7|ms"),
        &["becomes api_time; values times 0.001; percentiles 99.9; forgotten after 60 s", "api_time.p99_9 0.007"],
    );
    // Globs go before regular expressions, and stars take one part.
    has(&explain("test.other:1|c"), &["(match_regex = \"test\\.*(.*)\"): becomes catch_all"]);
    assert!(!explain("web.signup.mail.more.ok:1|c").contains("signup_events"));
    assert!(!explain("api.time.x:7|c").contains("rule"));
    has(&explain("noise.a:1|c"), &["dropped"]);
    has(&explain("any.timer:100|ms"), &["any.timer.le_5 0", "any.timer.le_250 1", "any.timer.le_inf 1"]);
    has(&explain("any.size:1|h"), &["any.size.le_0_25 0", "any.size.le_2_5 1", "any.size.le_inf 1"]);
}

#[test]
fn telegrafs_input_is_carried_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let (toml, said) = import(dir.path(), "tests/corpus/import/telegraf.toml");
    has(
        &toml,
        &[
            "interval = \"10s\"",
            "url = \"udp://[::]:18125\"",
            "exact_samples = 1000",
            "series_ttl = \"10h\"",
            "tags = { dc = \"eu-1\", host = \"${HOSTNAME}\" }",
            "#   inputs.statsd.templates: `measurement.host.field` has a `field`",
            "#   inputs.statsd.allowed_pending_messages = 10000:",
            "# outputs.influxdb\n[[sink]]\ntype = \"influx\"\nurl = \"http://127.0.0.1:8086\"\ndatabase = \"telegraf\"\nnaming = \"telegraf\"\n",
            "#   agent.metric_buffer_limit = 10000: a sink keeps `queue` intervals",
            "#   inputs.cpu: telegraf goes on to collect it",
            "#   the sink influx has telegraf's names and types (`naming`)",
            "#   heartbeat.*: such names are heartbeats here (docs/presence.md) and no metrics; with `forward_raw = true` in [presence]",
        ],
    );
    assert!(said.contains("4 settings"), "{said}");
    let file = dir.path().join("imported.toml");
    let explain = |line: &str| text(&systole(&["explain", "-c", file.to_str().expect("plain"), line], b"").stdout);
    has(&explain("cpu.load.eu:1|c"), &["becomes cpu_load;host=a;region=eu"]);
    has(&explain("mem.web1.used.heap:1|g"), &["becomes mem_used.heap;host=web1"]);
}

/// What a configuration makes of a line.
fn explained(dir: &Path, line: &str) -> String {
    let file = dir.join("imported.toml");
    text(&systole(&["explain", "-c", file.to_str().expect("plain"), line], b"").stdout)
}

#[test]
fn everything_of_telegrafs_input_is_carried_over_or_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let (toml, said) = import(dir.path(), "tests/corpus/import/telegraf-all.toml");
    has(
        &toml,
        &[
            "interval = \"5s\"\nprefix = \"app_\"\ntags = { dc = \"${DC}\", host = \"web-1\", team = \"shop\" }",
            "url = \"tcp://0.0.0.0:8126\"\nreceive_buffer = 65535\nmax_connections = 50\n",
            "# namedrop: debug*\n[[rule]]\nmatch = \"debug*\"\ndrop = true\n",
            "# templates[1], names of ^([^.]*)\\.web\\.(.*)$: *.web.* .host.measurement*\n[[rule]]\nmatch_regex = '^([^.]*)\\.web\\.(.*)$'\n",
            "#   with delete_counters, delete_sets = false values go on",
            "type = \"graphite\"\ntimeout = \"2s\"\nprefix = \"telegraf.\"\naddress = \"g1:2003\"\n",
            "type = \"influx\"\nurl = \"http://i:8086\"\nversion = 2\norg = \"o\"\nbucket = \"b\"\ntoken = \"${INFLUX_TOKEN}\"\n",
            "type = \"prometheus\"\naddress = \"[::]:9273\"\n",
            "type = \"file\"\npath = \"/tmp/metrics.out\"\n",
            "type = \"otlp\"\nurl = \"http://collector:4318\"\n",
        ],
    );
    let left = toml.lines().skip_while(|line| *line != "# Not carried over:").skip(1).take_while(|line| *line != "#");
    let left: Vec<&str> =
        left.map(|line| line.trim_start_matches("#   ").split([':', ' ']).next().unwrap_or("")).collect();
    let expected = [
        "datadog_keep_container_tag",
        "inputs.statsd.namedrop",
        "inputs.statsd.templates",
        "inputs.statsd.number_workers_threads",
        "inputs.statsd.tagdrop",
        "inputs.statsd.tcp_keep_alive",
        "outputs.exec",
        "outputs.graphite.servers",
        "outputs.graphite.template",
        "processors.rename",
    ];
    let sorted: std::collections::BTreeSet<&str> = left.iter().copied().collect();
    assert_eq!(sorted, expected.into_iter().collect(), "{toml}");
    assert!(
        said.contains("10 settings")
            && said.contains("variable `DC` is not set")
            && said.contains("; the daemon needs it"),
        "{said}"
    );
    for (line, expected) in [
        ("cpu.load.eu.more:1|c", "becomes cpu_load_x;region=eu"),
        ("cpu.load.eu:1|c", "becomes cpu_load_x;region=eu"),
        ("cpu.load:1|c", "becomes cpu_load_x"),
        ("a.web.b.c:1|c", "becomes b.c_x;host=web"),
        ("debugger:1|c", "dropped"),
        ("other.name:1|c", "becomes other.name_x"),
        ("x.y.z:1|c", "becomes x.y.z_x"),
    ] {
        has(&explained(dir.path(), line), &[expected]);
    }
    assert!(!explained(dir.path(), "cpu.load:1|c").contains("region"));
}

/// Sinks that are not in every build.
#[cfg(all(feature = "kafka", feature = "nats", feature = "postgres"))]
#[test]
fn telegrafs_outputs_of_messages_become_sinks() {
    let dir = tempfile::tempdir().expect("a folder");
    let (toml, said) = import(dir.path(), "tests/corpus/import/telegraf-messages.toml");
    has(
        &toml,
        &[
            "type = \"kafka\"\nbrokers = [\"k:9092\"]\ntopic = \"t\"\n",
            "type = \"nats\"\nservers = [\"nats://n:4222\"]\nsubject = \"s\"\n",
            "type = \"postgres\"\nurl = \"postgres://p/db\"\n",
        ],
    );
    assert!(said.is_empty(), "{said}");
}

#[test]
fn the_originals_proxy_becomes_a_relay() {
    let dir = tempfile::tempdir().expect("a folder");
    let (toml, said) = import(dir.path(), "tests/corpus/import/proxy.js");
    has(
        &toml,
        &[
            "self_metrics = false",
            "[[listen]]\nurl = \"udp://0.0.0.0:8125\"\nworkers = 4\n",
            "# nodes\n[[relay]]\ntargets = [\"10.0.0.1:8127\", \"10.0.0.2:8129\"]\nmode = \"spread\"\nhealth_port = 8128\nhealth_every = \"1000ms\"\n",
            "# a proxy aggregates nothing\n[[rule]]\nmatch = \"*\"\ndrop = true\n",
            "[management]\naddress = \"127.0.0.1:8126\"\n",
            "#   names go to servers by another hash",
            "#   title:",
        ],
    );
    assert!(said.contains("1 setting "), "{said}");
    has(&explained(dir.path(), "a:1|c"), &["dropped"]);
}

#[test]
fn what_the_agent_says_of_dogstatsd_is_carried_over_or_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let (toml, said) = import(dir.path(), "tests/corpus/import/datadog.yaml");
    has(
        &toml,
        &[
            "profile = \"dogstatsd\"\npercentiles = [95, 99.9]\nprefix = \"acme.\"\ntags = { env = \"prod\", host = \"web-1\", team = \"shop\" }\n",
            "url = \"udp://[::]:9125\"",
            "# dogstatsd_socket\n[[listen]]\nurl = \"unixgram:///run/datadog/dsd.socket\"\nmode = \"0666\"\n",
            "aggregates = [\"max\", \"avg\"]",
            "[[relay]]\ntargets = [\"10.0.0.9:8130\"]\n",
            "type = \"datadog\"\nurl = \"https://api.datadoghq.eu\"\napi_key = \"0123\"\n",
            "# statsd_metric_blocklist\n[[rule]]\nmatch = \"debug*\"\ndrop = true\n",
            "# profile airflow, mapping 1, line 25: airflow.*_start\n[[rule]]\nmatch_parts = \"airflow.*_start\"\nrename = \"airflow.job.start\"\nadd_tags = { job_name = \"$1\" }\n",
            "match_regex = '^airflow\\.dag\\.(.*)\\.(\\w+)$'\n",
            "#   profile wide, mapping 1, line 33: names that `*.*.done` matches outside of the profile's prefix `job.` are mapped, too",
            "#   dogstatsd_origin_detection: tags of containers are not looked up",
            "#   extra_tags: `bare` has no value",
            "#   apm_config, logs_enabled: of the agent, not of DogStatsD",
        ],
    );
    assert!(said.contains("4 settings"), "{said}");
    for (line, expected) in [
        ("airflow.etl_start:1|c", "becomes airflow.job.start;job_name=etl"),
        ("airflow.dag.a.b.c:1|c", "becomes airflow.dag;dag=a.b;task=c"),
        ("job.x.done:1|c", "becomes done.x"),
        ("debugging:1|c", "dropped"),
    ] {
        has(&explained(dir.path(), line), &[expected]);
    }
    assert!(!explained(dir.path(), "airflow.a.b_start:1|c").contains("job.start"));
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
        ("mappings:\n- match: a\n  name: 0a\n", "mappings[0], line 2: `0a` is no name of a metric"),
        (
            "mappings:\n- match: a\n  name: a\n  labels:\n    x: y\n",
            "`x` is no name of a label: statsd_exporter wants two characters or more",
        ),
        (
            "dogstatsd_mapper_profiles:\n- prefix: a\n  mappings:\n  - match: \"a**\"\n    name: b\n",
            "line 4: `a**` is no wildcard",
        ),
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
