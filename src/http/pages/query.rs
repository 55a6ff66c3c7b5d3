//! The state of a page is in its URL: what is searched, sorted, selected, pinned, and which time is shown. Every link keeps
//! what it does not change.

use utoipa::IntoParams;

use crate::protocol::Kind;
use crate::untrusted::in_url;
use crate::web::{FromGiven, Given};

use super::parts::rfc3339;

/// Longest and shortest time that a page shows, in seconds.
const LONGEST: f64 = 31.0 * 86_400.0;
const SHORTEST: f64 = 1.0;

/// Most series that are pinned or compared at a time.
const MOST_PINNED: usize = 20;

/// Ranges that the menu offers: their names in the URL, seconds, and words.
pub(super) const RANGES: [(&str, f64, &str); 6] = [
    ("5m", 300.0, "5 min"),
    ("15m", 900.0, "15 min"),
    ("30m", 1800.0, "30 min"),
    ("1h", 3600.0, "1 h"),
    ("6h", 21_600.0, "6 h"),
    ("24h", 86_400.0, "24 h"),
];

const USUAL: &str = "30m";

/// What goes on to another page.
const KEPT: [&str; 5] = ["range", "from", "to", "live", "tz"];

/// Parameters that every page has.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes what `State` is read from")]
pub(super) struct StateParameters {
    /// How long the time is that is shown, until now: `30m`, `6h`, `1d`, at most `31d`.
    #[param(pattern = r"^([1-9][0-9]{0,3}s|[1-9][0-9]{0,2}m|[1-9][0-9]?h|[12]?[1-9]d)?$")]
    range: Option<String>,
    /// Begin of the time that is shown, Unix seconds.
    #[param(minimum = 0)]
    from: Option<f64>,
    /// End of the time that is shown, Unix seconds.
    #[param(minimum = 0)]
    to: Option<f64>,
    /// `0`: the page stands still.
    #[param(pattern = "^[01]?$")]
    live: Option<String>,
    /// `utc` or `local`.
    #[param(pattern = "^(utc|local)?$")]
    tz: Option<String>,
    /// What is searched.
    q: Option<String>,
    /// The kind of series.
    #[param(pattern = "^(counter|gauge|timer|histogram|distribution|set|kv)?$")]
    kind: Option<String>,
    /// The order of the list.
    #[param(pattern = "^(name|loudest|changed|newest|lines|bytes|refused|new|state|since|default)?$")]
    sort: Option<String>,
    /// The id of the series that is selected.
    sel: Option<String>,
    /// The id of a series that is pinned; may be repeated.
    #[param(max_items = 20)]
    pin: Option<Vec<String>>,
    /// The id of a series that is compared; may be repeated.
    #[param(max_items = 20)]
    cmp: Option<Vec<String>>,
    /// `log` or `linear`.
    #[param(pattern = "^(log|linear)?$")]
    y: Option<String>,
}

/// The state of a page, as its URL has it.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// All of it as it was given.
    pairs: Vec<(String, String)>,
    /// Name of the range; empty for one of its own.
    pub(super) range: String,
    /// Seconds until now, where no time is given.
    span: f64,
    /// Unix seconds.
    from: Option<f64>,
    to: Option<f64>,
    pub(super) q: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) sort: Option<String>,
    pub(super) sel: Option<String>,
    pub(super) name: Option<String>,
    pub(super) tags: Vec<String>,
    pub(super) prefix: Option<String>,
    pub(super) cursor: Option<String>,
    pub(super) by: Option<String>,
    pub(super) sender: Option<String>,
    pub(super) line: Option<String>,
    pub(super) state: Option<String>,
    pub(super) instance: Option<String>,
    /// Whether values are drawn by their logarithms.
    pub(super) is_log: bool,
}

/// Kinds of series, as they are asked for.
const SORTS: [&str; 11] =
    ["name", "loudest", "changed", "newest", "lines", "bytes", "refused", "new", "state", "since", "default"];

fn one_of(given: &Given, name: &'static str, words: &[&str]) -> Result<Option<String>, String> {
    // A form sends what was not filled in, too.
    let word = |text: &str| (text.is_empty() || words.contains(&text)).then(|| text.to_string());
    Ok(given.one_of(name, words, word)?.filter(|text| !text.is_empty()))
}

/// `30m`, `90s`, `2h`, `1d`, in seconds.
fn span(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    number.parse::<u32>().ok().map(|number| f64::from(number) * unit).filter(|secs| (SHORTEST..=LONGEST).contains(secs))
}

fn unix(text: &str) -> Option<f64> {
    text.parse().ok().filter(|secs: &f64| (0.0..2.5e11).contains(secs))
}

impl State {
    /// Reads it.
    fn read(given: &Given, names: &[&str]) -> Result<State, String> {
        let text = |name: &'static str| given.text(name).filter(|text| !text.is_empty()).map(String::from);
        let range = text("range").unwrap_or_else(|| USUAL.into());
        let right = "a length such as 30m, 6h or 1d, at most 31d";
        let secs = given.parsed("range", right, |text| if text.is_empty() { Some(1800.0) } else { span(text) })?;
        let time = |name: &'static str| given.parsed(name, "a time in Unix seconds", unix);
        let (from, to) = (time("from")?, time("to")?);
        // What is too short or too long is brought to what can be shown.
        let from = from.zip(to).map_or(from, |(from, to)| Some(from.clamp(to - LONGEST, to - SHORTEST)));
        for name in ["pin", "cmp"] {
            if given.all(name).count() > MOST_PINNED {
                return Err(format!("`{name}` is given at most {MOST_PINNED} times"));
            }
        }
        one_of(given, "live", &["0", "1"])?;
        one_of(given, "tz", &["utc", "local"])?;
        Ok(State {
            pairs: names
                .iter()
                .flat_map(|name| given.all(name).map(|value| (name.to_string(), value.to_string())))
                .collect(),
            range: if from.is_some() || to.is_some() { String::new() } else { range },
            span: secs.unwrap_or(1800.0),
            from,
            to,
            q: text("q"),
            kind: one_of(given, "kind", &Kind::OF_SERIES.map(Kind::name))?,
            sort: one_of(given, "sort", &SORTS)?,
            sel: text("sel"),
            name: text("name"),
            tags: given.all("tag").map(String::from).collect(),
            prefix: text("prefix"),
            cursor: text("cursor"),
            by: one_of(given, "by", &["address", "container", "process", "prefix"])?,
            sender: text("sender"),
            line: text("line"),
            state: text("state"),
            instance: text("instance"),
            is_log: one_of(given, "y", &["log", "linear"])?.as_deref() == Some("log"),
        })
    }

    /// The time that is shown, when it is `now`: from, to.
    pub(super) fn time(&self, now: f64) -> (f64, f64) {
        let to = self.to.unwrap_or(now);
        (self.from.unwrap_or(to - self.span), to)
    }

    /// The time that is shown, in words.
    pub(super) fn range_text(&self) -> String {
        if self.range.is_empty() {
            let time = |unix: Option<f64>| unix.map_or("now".into(), |unix| rfc3339(unix)[11..16].to_string());
            let to = if self.to.is_none() { "now".into() } else { time(self.to) };
            return format!("{} to {to}", time(self.from.or(self.to.map(|to| to - self.span))));
        }
        let known = RANGES.iter().find(|(name, ..)| *name == self.range);
        known.map_or_else(|| self.range.clone(), |(_, _, words)| (*words).to_string())
    }

    /// Words of the search in lower case, without those that are about tags and globs.
    pub(super) fn searched(&self) -> Vec<String> {
        let q = self.q.as_deref().unwrap_or("");
        q.split_whitespace().map(|word| word.trim_matches(['*', '?']).to_lowercase()).collect()
    }

    /// A place of this daemon with the state, but for what changes: a name without a value is left out.
    pub(super) fn link(&self, path: &str, changes: &[(&str, Option<&str>)]) -> String {
        // Whoever asks for something else begins with its first page.
        let is_same = |name: &str| name != "cursor" && changes.iter().all(|(changed, _)| *changed != name);
        let kept = self.pairs.iter().filter(|(name, _)| is_same(name)).map(|(name, value)| (&**name, &**value));
        let changed = changes.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
        to_url(path, kept.chain(changed))
    }

    /// A place of another page: of the state, only the time goes with it.
    pub(super) fn elsewhere(&self, path: &str) -> String {
        to_url(path, self.kept())
    }

    fn kept(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.pairs.iter().filter(|(name, _)| KEPT.contains(&&**name));
        pairs.map(|(name, value)| (&**name, &**value))
    }

    /// What goes on to another page, as the end of a URL; empty if nothing does.
    pub(super) fn kept_query(&self) -> String {
        to_url("", self.kept())
    }

    /// The names and values that a form has to send along, but for those it has fields for.
    pub(super) fn hidden<'a>(&'a self, fields: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = self.pairs.iter().filter(|(name, _)| name != "cursor" && !fields.contains(&&**name));
        pairs.map(|(name, value)| (&**name, &**value))
    }
}

fn to_url<'a>(path: &str, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = path.to_string();
    for (n, (name, value)) in pairs.enumerate() {
        out.push(if n == 0 { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        out.push_str(&in_url(value));
    }
    out
}

/// The parameters of a page: those that all pages have, and its own.
macro_rules! asked {
    ($($(#[$about:meta])* $name:ident [$($own:literal),*];)+) => {
        $(
            $(#[$about])*
            #[derive(Clone, Debug)]
            pub(super) struct $name(pub(super) State);

            impl FromGiven for $name {
                const NAMES: &'static [&'static str] =
                    &["range", "from", "to", "live", "tz", "q", "kind", "sort", "sel", "pin", "cmp", "y", $($own),*];
                const REPEATED: &'static [&'static str] = &["pin", "cmp", "tag"];

                fn from_given(given: &Given) -> Result<$name, String> {
                    State::read(given, Self::NAMES).map($name)
                }
            }
        )+
    };
}

asked! {
    /// A page without parameters of its own.
    Plain [];
    /// The list of series.
    OfMetrics ["tag", "prefix", "cursor"];
    /// One series.
    OfSeries ["name", "tag"];
    /// The board.
    OfBoard ["state"];
    /// Maintenance.
    OfService ["instance"];
    /// Senders.
    OfSenders ["by", "sender"];
    /// Lines to explain.
    OfExplain ["line"];
    /// Events, of a kind.
    OfEvents ["state"];
    /// Settings, all or those that are set.
    OfConfig ["state"];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::given;

    fn read(query: &str) -> Result<State, String> {
        Plain::from_given(&given(query).expect("it can be decoded")).map(|plain| plain.0)
    }

    #[test]
    fn a_link_keeps_what_it_does_not_change() {
        let state = read("range=1h&q=a+b&sort=loudest&live=0").expect("it is right");
        assert_eq!(
            state.link("/series", &[("sort", None), ("kind", Some("timer"))]),
            "/series?range=1h&live=0&q=a%20b&kind=timer"
        );
        assert_eq!(state.elsewhere("/presence"), "/presence?range=1h&live=0");
        assert_eq!((state.range_text(), state.time(7200.0)), ("1 h".into(), (3600.0, 7200.0)));
        let state = read("from=60&to=3660").expect("it is right");
        assert_eq!((state.range_text(), state.time(1e9)), ("00:01 to 01:01".into(), (60.0, 3660.0)));
    }

    #[test]
    fn what_cannot_be_shown_is_said() {
        for (query, says) in [
            ("range=40d", "`range` is a length"),
            ("range=x", "`range` is a length"),
            ("from=x", "`from` is a time"),
            ("kind=timr", "`kind` is one of counter"),
            ("y=cubic", "`y` is one of log"),
        ] {
            assert!(read(query).is_err_and(|error| error.contains(says)), "{query}");
        }
    }
}
