//! statsite's binary protocol: frames cover the datagram, good ones are what they say, and values are finite.
#![no_main]

use libfuzzer_sys::fuzz_target;
use systole::internals::protocol::{BINARY_MAGIC, Options, binary_frames};

fuzz_target!(|data: &[u8]| {
    let mut datagram = vec![BINARY_MAGIC];
    datagram.extend_from_slice(data);
    let options = Options { binary: true, ..Options::default() };
    let mut read = 0;
    for (frame, metric) in binary_frames(&datagram, &options) {
        read += frame.len();
        if let Ok(metric) = metric {
            assert_eq!(frame[0], BINARY_MAGIC);
            assert!(metric.values.numbers().all(f64::is_finite));
            assert!(metric.values.gauge().all(|(_, value)| value.is_finite()));
        }
    }
    assert!(read <= datagram.len());
});
