//! Every kind that three Rust clients have: clients PORT

use std::net::UdpSocket;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("usage: clients PORT")?.parse()?;
    let to = format!("127.0.0.1:{port}");
    cadence(&to)?;
    dogstatsd(&to)?;
    exporter(&to)
}

fn cadence(to: &str) -> Result<(), Box<dyn std::error::Error>> {
    use cadence::{Counted, Distributed, Gauged, Histogrammed, Metered, Setted, StatsdClient, Timed, UdpMetricSink};
    let sink = UdpMetricSink::from(to, UdpSocket::bind("127.0.0.1:0")?)?;
    let c = StatsdClient::builder("cadence", sink).with_tag("env", "prod").build();
    c.count("c", 3)?;
    c.count_with_tags("c", -1).with_tag("k", "v").with_tag_value("bare").try_send()?;
    c.gauge("g", 7.5)?;
    c.time("t", 12)?;
    c.histogram("h", vec![1_u64, 2, 3])?;
    c.distribution("d", 4_u64)?;
    c.meter("m", 2)?;
    c.set("s", 7)?;
    Ok(())
}

fn dogstatsd(to: &str) -> Result<(), Box<dyn std::error::Error>> {
    let options = dogstatsd::OptionsBuilder::new().to_addr(to.to_string()).namespace("crate".into()).build();
    let c = dogstatsd::Client::new(options)?;
    c.count("c", 3, ["k:v"])?;
    c.incr("c", ["k:v"])?;
    c.decr("c", ["k:v"])?;
    c.gauge("g", "7.5", ["k:v"])?;
    c.timing("t", 12, ["k:v"])?;
    c.histogram("h", "3", ["k:v"])?;
    c.distribution("d", "4", ["k:v"])?;
    c.set("s", "u1", ["k:v"])?;
    c.event("title", "text", ["k:v"])?;
    c.service_check("sc", dogstatsd::ServiceStatus::Warning, ["k:v"], None)?;
    Ok(())
}

fn exporter(to: &str) -> Result<(), Box<dyn std::error::Error>> {
    metrics_exporter_dogstatsd::DogStatsDBuilder::default()
        .with_remote_address(to)?
        .with_telemetry(false)
        .install()?;
    metrics::counter!("exporter_c", "k" => "v").increment(3);
    metrics::gauge!("exporter_g").set(7.5);
    metrics::histogram!("exporter_h").record(0.5);
    metrics::histogram!("exporter_h").record(1.5);
    // It sends every three seconds.
    std::thread::sleep(Duration::from_secs(5));
    Ok(())
}
