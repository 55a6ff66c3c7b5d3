//! Names that proved to be riddles stay away: none of the words below is the name of a module, a type, a constant or a
//! function again, in the meaning it had. What took their place is the field's word.

use syn::{ImplItem, Item, TraitItem};

use crate::support::sources::sources;

/// A word, where it stays usable because it means something else there (the beginning of a path below `src`), and what
/// took its place.
type Retired = (&'static str, &'static [&'static str], &'static str);

const RETIRED: &[Retired] = &[
    ("vigil", &[], "presence_driver"),
    ("Vigil", &[], "PresenceHandle"),
    ("Keeper", &[], "Driver"),
    ("Kept", &[], "StateFile"),
    ("Seal", &[], "Trailer"),
    ("Desk", &[], "AlertBook or ManagementState"),
    ("desk", &[], "alert_book"),
    ("Topic", &[], "AlertKey"),
    ("Notice", &[], "Notification or Record"),
    ("notices", &[], "records"),
    ("Told", &[], "Receiver"),
    ("told", &[], "what it returns"),
    ("Crew", &[], "Notifiers"),
    ("snitch", &[], "dead_man_switch"),
    ("Pulse", &[], "Watchdog"),
    ("pulse", &[], "watchdog"),
    ("hear", &[], "observe"),
    ("judge", &[], "evaluate"),
    ("judge_service", &[], "evaluate_service"),
    ("words", &[], "describe"),
    ("gaps", &[], "arrival_window"),
    ("Gaps", &[], "ArrivalWindow"),
    ("Company", &[], "ServiceContext"),
    ("Facts", &[], "InstanceContext"),
    ("Quiet", &[], "Suppression"),
    ("Beat", &[], "Heartbeat"),
    ("promise", &[], "declared_interval"),
    ("Said", &[], "HeartbeatTags"),
    ("tape", &[], "capture::writer"),
    ("Tape", &[], "CaptureWriter"),
    ("Reel", &[], "CaptureFile"),
    ("record", &["aggregate/", "cluster/", "cluster_bus/", "codec/", "history/", "presence/"], "capture"),
    ("witness", &[], "replay_presence"),
    ("Witness", &[], "ReplayPresence"),
    ("inert", &[], "untrusted"),
    ("Plain", &[], "Escaped"),
    ("allow", &[], "acl"),
    ("Allow", &[], "AccessList"),
    ("fetch", &[], "http_client"),
    ("Fetch", &[], "HttpClient"),
    ("plan", &[], "assemble"),
    ("House", &[], "AppState"),
    ("Mouth", &[], "ListenerHandle"),
    ("Others", &[], "Taps"),
    ("Inlet", &[], "RelayHandle"),
    ("Relayed", &[], "RelayStats"),
    ("frozen", &[], "codec"),
    ("Frozen", &[], "Encoded"),
    ("freeze", &[], "encode"),
    ("thaw", &[], "decode"),
    ("book", &[], "series_table"),
    ("Book", &[], "SeriesTable"),
    ("Seat", &[], "Slot"),
    ("standing", &[], "gauges"),
    ("Standing", &[], "HeldGauge"),
    ("pace", &[], "multi_interval"),
    ("Pace", &[], "MultiInterval"),
    ("treated", &[], "overrides"),
    ("Treated", &[], "SnapshotOverrides"),
    ("treatment", &[], "overrides"),
    ("Treatment", &[], "SeriesOverrides"),
    ("Marks", &[], "GaugeLevels"),
    ("Note", &[], "EventOrCheck"),
    ("NoteBody", &[], "EventOrCheckBody"),
    ("Stamped", &[], "TimestampedSample"),
    ("Fate", &[], "RuleOutcome"),
    ("fate", &[], "outcome"),
    ("heed", &[], "try_heartbeat"),
    ("Heed", &[], "HeartbeatOutcome"),
    ("Waiting", &[], "PendingLine"),
    ("TOGETHER", &[], "LOOKUP_BATCH"),
    ("settle", &["presence/"], "flush_pending"),
    ("alias", &[], "key_cache"),
    ("Aliases", &[], "KeyCache"),
    ("Spelling", &[], "CachedKey"),
    ("peek", &[], "inspect"),
    ("Peeked", &[], "Inspected"),
    ("outlet", &[], "driver"),
    ("Outlet", &[], "SinkDriver"),
    ("drive", &[], "task"),
    ("spooler", &[], "spool"),
    ("Form", &[], "OptionVisitor"),
    ("Field", &["protocol/"], "Opt"),
    ("Site", &["log/"], "SinkContext"),
    ("insist", &[], "require"),
    ("demand", &[], "require_one"),
    ("within", &["telemetry/"], "in_table"),
    ("locate", &[], "set_from_url"),
    ("takes_old", &[], "accepts_out_of_order"),
    ("complain", &[], "log_losses"),
    ("tell", &[], "log_event"),
    ("tell_status", &[], "log_status"),
    ("rest_easy", &[], "shrink"),
    ("answer", &[], "handle_request"),
    ("lasting", &[], "an enum"),
    // Names with one meaning left: the line of the wire, and where a series lies in a shard.
    ("Line", &["protocol/", "log/"], "Target"),
    ("Place", &["aggregate/"], "AlertState"),
    ("Watch", &[], "PresenceState"),
];

/// Every name that an item of a file defines.
fn names(items: &[Item], out: &mut Vec<String>) {
    for item in items {
        match item {
            Item::Mod(item) => {
                out.push(item.ident.to_string());
                if let Some((_, inner)) = &item.content {
                    names(inner, out);
                }
            }
            Item::Struct(item) => out.push(item.ident.to_string()),
            Item::Enum(item) => out.push(item.ident.to_string()),
            Item::Type(item) => out.push(item.ident.to_string()),
            Item::Const(item) => out.push(item.ident.to_string()),
            Item::Static(item) => out.push(item.ident.to_string()),
            Item::Fn(item) => out.push(item.sig.ident.to_string()),
            Item::Trait(item) => {
                out.push(item.ident.to_string());
                for inner in &item.items {
                    if let TraitItem::Fn(function) = inner {
                        out.push(function.sig.ident.to_string());
                    }
                }
            }
            Item::Impl(item) => {
                for inner in &item.items {
                    if let ImplItem::Fn(function) = inner {
                        out.push(function.sig.ident.to_string());
                    }
                }
            }
            _ => {}
        }
    }
}

#[test]
fn no_item_bears_a_retired_name() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, file) in sources() {
        let mut defined = Vec::new();
        names(&file.items, &mut defined);
        seen += defined.len();
        for name in defined {
            let retired = RETIRED.iter().find(|(word, allowed, _)| {
                *word == name && !allowed.iter().any(|beginning| path.starts_with(beginning))
            });
            wrong.extend(retired.map(|(word, _, instead)| format!("{path}: `{word}`; say {instead}")));
        }
    }
    assert!(seen > 1000, "only {seen} names were found: the sources are not read whole");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
