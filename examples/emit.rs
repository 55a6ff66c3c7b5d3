//! Emission from a hot loop, without waiting: `cargo run --release --example emit -- 127.0.0.1:8125`. The socket does not
//! block, lines are packed into datagrams, and a full queue loses metrics rather than time.

use std::net::UdpSocket;
use std::time::Instant;

use cadence::{BufferedUdpMetricSink, Counted, QueuingMetricSink, StatsdClient, Timed};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8125".into());
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_nonblocking(true)?;
    let packing = BufferedUdpMetricSink::from(address.as_str(), socket)?;
    // A thread of its own sends; the loop only puts lines into its bounded queue.
    let queue = QueuingMetricSink::with_capacity(packing, 64 * 1024);
    let client = StatsdClient::builder("example", queue).with_error_handler(|_| {}).build();

    let began = Instant::now();
    let mut checksum = 0_u64;
    for n in 0..1_000_000_u64 {
        let work = Instant::now();
        checksum = checksum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n);
        client.count_with_tags("work.items", 1).with_tag("kind", "even").send();
        if n % 100 == 0 {
            client.time_with_tags("work.duration", work.elapsed()).with_tag("kind", "even").send();
        }
    }
    let each = began.elapsed().as_nanos() / 1_000_000;
    println!("1,000,000 items, {each} ns each with their metrics (checksum {checksum})");
    Ok(())
}
