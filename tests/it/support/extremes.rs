//! Lines of every kind with everything at its end: values and rates that leave a double's range when they are added up, names
//! and tags of every character and length, times from 1970 to never, texts that are something in some format.

use super::Random;

const VALUES: [&str; 22] = [
    "0",
    "-0",
    "1",
    "-1",
    "0.5",
    "1e-5",
    "5",
    "1e15",
    "9007199254740993",
    "18446744073709551615",
    "9223372036854775807",
    "1e30",
    "1e300",
    "-1e300",
    "1.7976931348623157e308",
    "-1.7976931348623157e308",
    "5e-324",
    "-5e-324",
    "1e-400",
    "nan",
    "-inf",
    "1e999",
];

const RATES: [&str; 12] =
    ["1", "0.5", "0.1", "0.3", "0", "2", "1e-18", "1e-19", "1e-300", "1e-307", "5.6e-309", "5e-324"];

const TIMES: [&str; 10] = [
    "1",
    "1700000000",
    "4294967295",
    "4294967296",
    "9223372036",
    "9223372037",
    "253402300799",
    "253402300800",
    "9999999999999",
    "18446744073709551615",
];

/// Pieces that mean something somewhere.
const PIECES: [&str; 40] = [
    "a",
    "b.c",
    "api",
    "x y",
    "ü",
    "\u{202e}",
    "\u{1b}[2J",
    "\"",
    "\\",
    "\\u0000",
    "\\n",
    "'",
    "`",
    "#",
    "#x",
    ";",
    "=",
    "{",
    "}",
    "[",
    "]",
    "<b>",
    "%s",
    "$1",
    "~",
    "/",
    "..",
    "+++",
    "__name__",
    "le",
    "quantile",
    "host",
    "time",
    "metric_type",
    "_total",
    "ledger",
    "NaN",
    "\u{1f600}",
    "\u{e0001}",
    "\u{7f}",
];

fn text(random: &mut Random) -> String {
    match random.below(20) {
        0 => random.pick(&PIECES).repeat(1 + random.below(300) as usize),
        1 => "n".repeat(1 + random.below(1024) as usize),
        _ => (0..1 + random.below(3)).map(|_| *random.pick(&PIECES)).collect(),
    }
}

fn tags(random: &mut Random, out: &mut String) {
    out.push_str("|#");
    let count = if random.below(10) == 0 { random.below(200) } else { 1 + random.below(3) };
    for n in 0..count {
        let tag = match random.below(4) {
            0 => text(random),
            1 => format!("{}:", text(random)),
            _ => format!("{}:{}", text(random), text(random)),
        };
        out.push_str(if n == 0 { "" } else { "," });
        out.push_str(&tag.replace(['|', '\n'], "_"));
    }
    if random.below(20) == 0 {
        // Hexadecimal digits hardly get shorter.
        out.push_str(",long:");
        (0..random.below(1000)).for_each(|_| out.push_str(&format!("{:016x}", random.next())));
    }
}

fn note(random: &mut Random) -> String {
    let clean = |text: String| text.replace(['|', '\n'], "_");
    let mut out = if random.below(2) == 0 {
        let (title, mut body) = (text(random), text(random));
        if random.below(10) == 0 {
            body = body.repeat(1 + 40_000 / body.len());
        }
        format!("_e{{{},{}}}:{title}|{body}", title.len(), body.len())
    } else {
        format!("_sc|{}|{}", clean(text(random)), random.below(4))
    };
    if random.below(2) == 0 {
        out.push_str(&format!("|d:{}", random.pick(&TIMES)));
    }
    for key in ["h", "k", "s", "p", "t", "m"] {
        if random.below(3) == 0 {
            out.push_str(&format!("|{key}:{}", clean(text(random))));
        }
    }
    if random.below(3) == 0 {
        tags(random, &mut out);
    }
    out
}

/// One line, mostly good.
pub fn line(random: &mut Random) -> Vec<u8> {
    if random.below(8) == 0 {
        return note(random).into_bytes();
    }
    // Few names, so that values meet.
    let name = if random.below(3) == 0 { text(random) } else { format!("n{}", random.below(4)) };
    let name = name.replace(['|', ':', '\n'], "_");
    let kind = *random.pick(&["c", "c", "g", "g", "ms", "ms", "h", "d", "s", "m", "kv"]);
    let count = if random.below(6) == 0 { 1 + random.below(60) } else { 1 };
    let values: Vec<&str> = (0..count).map(|_| *random.pick(&VALUES[..if count > 1 { 19 } else { 22 }])).collect();
    let sign = if kind == "g" && random.below(3) == 0 { "+" } else { "" };
    let mut out = format!("{name}:{sign}{}|{kind}", values.join(":"));
    if random.below(2) == 0 {
        out.push_str(&format!("|@{}", random.pick(&RATES)));
    }
    if random.below(3) == 0 {
        tags(random, &mut out);
    }
    if random.below(5) == 0 {
        out.push_str(&format!("|T{}", random.pick(&TIMES)));
    }
    let mut out = out.into_bytes();
    if random.below(30) == 0 && !out.is_empty() {
        let at = random.below(out.len() as u64) as usize;
        out[at] = random.next() as u8;
    }
    out
}

/// Some lines.
pub fn lines(random: &mut Random) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..1 + random.below(60) {
        all.extend(line(random));
        all.push(b'\n');
    }
    if random.below(10) == 0 {
        all.extend(format!("long:1|c|#long:{}\n", "x".repeat(16_370)).bytes());
        // A set that becomes an estimate, and a timer that becomes a histogram.
        (0..2100).for_each(|n| all.extend(format!("many:m{n}|s\n").bytes()));
        (0..100).for_each(|n| all.extend(format!("large:{}|ms|@{}\n", VALUES[n % 13], RATES[n % 8]).bytes()));
    }
    all
}
