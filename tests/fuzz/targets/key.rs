//! The key of a series from any name and tags, sections of up to 64 KiB: whole, canonical, and the same when it is built
//! again from what it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use systole::internals::aggregate::{Columns, Quota, Shard, ShardOptions, TimeWindow, TimerPolicy};
use systole::internals::protocol::Options;
use systole::internals::series::Series;

/// Writes sections as `data` says: a byte that picks the separator, two for a length, one that is repeated so often.
fn line(data: &[u8]) -> Vec<u8> {
    const BETWEEN: [&[u8]; 8] = [b"|#", b",", b":", b";", b"=", b"|", b"[", b""];
    let mut out = Vec::new();
    for part in data.chunks_exact(4) {
        out.extend(BETWEEN[usize::from(part[0]) % BETWEEN.len()]);
        let length = usize::from(u16::from_le_bytes([part[1], part[2]]));
        // Mostly short ones, so that there are many.
        let length = if part[0] & 0x80 == 0 { length % 16 } else { length };
        out.extend(std::iter::repeat_n(part[3], length));
        if out.len() > 256 << 10 {
            break;
        }
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let Some((&[way, kind], data)) = data.split_first_chunk::<2>() else { return };
    let body = if way & 1 == 0 { data.to_vec() } else { line(data) };
    let line = match kind % 4 {
        0 => [b"a:1|c|#", &body[..]].concat(),
        1 => [b"_sc|n|0|#", &body[..]].concat(),
        2 => [&body[..], b":1|ms"].concat(),
        _ => [b"_e{1,1}:a|b|#", &body[..]].concat(),
    };
    let mut shard = Shard::new(ShardOptions {
        timers: TimerPolicy::default(),
        fold_histograms: false,
        quota: Quota::new(1000),
        seed: 1,
        rules: None,
        heartbeats: None,
        times: TimeWindow::ANY,
    });
    let options = Options { sanitize: way & 2 == 2, ..Options::default() };
    shard.ingest(&line, &options, None, 0.0);
    let partial = shard.close([const { Vec::new() }; 5], Columns::default());
    for created in partial.created.iter().flatten() {
        let series = &created.series;
        let tags: Vec<_> = series.tags().collect();
        assert!(tags.is_sorted(), "{series:?}");
        assert_eq!(&Series::new(series.kind(), series.name(), &tags), series);
    }
});
