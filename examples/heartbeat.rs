//! An instance that beats with `cadence`: `cargo run --example heartbeat -- 127.0.0.1:8125 checkout web-1 10`. Beat from
//! the loop that does the work: a thread of its own would go on beating while the work hangs.

use std::net::UdpSocket;
use std::time::Duration;

use cadence::{Gauged, StatsdClient, UdpMetricSink};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, service, instance, seconds] = args.as_slice() else {
        return Err("usage: heartbeat HOST:PORT SERVICE INSTANCE SECONDS".into());
    };
    let seconds: u64 = seconds.parse()?;
    let sink = UdpMetricSink::from(address.as_str(), UdpSocket::bind("127.0.0.1:0")?)?;
    let client = StatsdClient::from_sink("", sink);
    loop {
        // The promise: you will hear from me again within so many seconds.
        client.gauge_with_tags("heartbeat", seconds).with_tag("service", service).with_tag("instance", instance).send();
        std::thread::sleep(Duration::from_secs(seconds));
    }
}
