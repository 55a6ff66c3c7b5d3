//! The load generator: datagrams are rendered once and sent at the wanted rate, with an exact count of what was sent.
//! The same seed gives the same datagrams.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::Socket;

use crate::http_client::refuses_lines;
use crate::random::Random;
use crate::sys::{MAX_SEGMENTS, Outgoing, send_batch, send_segmented};

/// Most bytes of a rendered datagram: the largest that crosses an Ethernet unfragmented.
pub const MAX_DATAGRAM_BYTES: usize = 1432;

/// Datagrams rendered in advance; more only if every series needs one.
const MIN_DATAGRAMS: usize = 512;
const MAX_DATAGRAMS: usize = 1 << 20;

/// Datagrams sent with one system call.
const BATCH: usize = 64;

/// At a wanted rate, the datagrams of this much time are sent with one system call.
const BURST: Duration = Duration::from_micros(50);

/// Bytes of one send that the kernel segments.
const SEGMENTED_BYTES: usize = 64_000;

/// The mix of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Counters only.
    Counters,
    /// Timers only.
    Timers,
    /// 50 % counters, 20 % gauges, 25 % timers, 5 % sets.
    Mixed,
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The mix of types.
    pub profile: Profile,
    /// Number of distinct names.
    pub series: usize,
    /// Lines in a datagram; fewer if they do not fit.
    pub lines_per_packet: usize,
    /// DogStatsD tags on each line.
    pub tags: usize,
    /// Lines a second, all threads together; `None` for unlimited.
    pub rate: Option<f64>,
    /// How long to send.
    pub length: Duration,
    /// Threads, each with its own socket.
    pub threads: usize,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Let the kernel cut large sends into equal datagrams (`UDP_SEGMENT`).
    pub segmented: bool,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sent {
    /// Datagrams.
    pub packets: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Lines.
    pub lines: u64,
    /// Lines that are counters.
    pub counters: u64,
    /// Lines that are gauges.
    pub gauges: u64,
    /// Lines that are timers.
    pub timers: u64,
    /// Lines that are sets.
    pub sets: u64,
    /// Sum of all counter values.
    pub counter_sum: u64,
    /// Sends that the kernel refused, for example because nobody listens; their datagrams are not counted above.
    pub refused: u64,
}

impl Sent {
    fn add(&mut self, other: &Sent, times: u64) {
        self.packets += times * other.packets;
        self.bytes += times * other.bytes;
        self.lines += times * other.lines;
        self.counters += times * other.counters;
        self.gauges += times * other.gauges;
        self.timers += times * other.timers;
        self.sets += times * other.sets;
        self.counter_sum += times * other.counter_sum;
        self.refused += times * other.refused;
    }
}

/// Where to send.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Datagrams.
    Udp(SocketAddr),
    /// A stream for each thread.
    Tcp(SocketAddr),
}

/// Rendered datagrams with the contents of each.
struct Rendered {
    datagrams: Vec<Vec<u8>>,
    contents: Vec<Sent>,
}

/// Sends, and returns exactly what was sent and how many seconds it took.
///
/// # Errors
/// If a socket cannot be made or connected, or a stream breaks.
pub fn run(plan: &Plan, target: Target) -> io::Result<(Sent, f64)> {
    let began = Instant::now();
    let threads: Vec<_> = (0..plan.threads.max(1))
        .map(|n| {
            let plan = plan.clone();
            std::thread::spawn(move || {
                let rendered = render(&plan, plan.seed.wrapping_add(n as u64));
                match target {
                    Target::Udp(to) => datagrams(&plan, &rendered, to),
                    Target::Tcp(to) => stream(&plan, &rendered, to),
                }
            })
        })
        .collect();
    let mut total = Sent::default();
    for thread in threads {
        let sent = thread.join().map_err(|_| io::Error::other("a sending thread failed"))??;
        total.add(&sent, 1);
    }
    Ok((total, began.elapsed().as_secs_f64()))
}

fn render(plan: &Plan, seed: u64) -> Rendered {
    let mut random = Random::new(seed);
    let per_packet = plan.lines_per_packet.max(1);
    let count = plan.series.div_ceil(per_packet).clamp(MIN_DATAGRAMS, MAX_DATAGRAMS);
    let mut rendered = Rendered { datagrams: Vec::with_capacity(count), contents: Vec::with_capacity(count) };
    let mut next = 0;
    for _ in 0..count {
        let (mut bytes, mut content) = (Vec::new(), Sent { packets: 1, ..Sent::default() });
        for _ in 0..per_packet {
            // A permutation of all series, so that each is sent, but not in an order that favours the cache.
            let n = (next * 7919) % plan.series.max(1);
            next += 1;
            let before = (bytes.len(), content);
            line(plan, n, &mut random, &mut bytes, &mut content);
            if bytes.len() > MAX_DATAGRAM_BYTES && before.0 > 0 {
                bytes.truncate(before.0);
                content = before.1;
                next -= 1;
                break;
            }
        }
        rendered.datagrams.push(bytes);
        rendered.contents.push(content);
    }
    if plan.segmented {
        // Segments must have one size; every reader trims blanks before the final newline.
        let longest = rendered.datagrams.iter().map(Vec::len).max().unwrap_or(0);
        for datagram in &mut rendered.datagrams {
            datagram.pop();
            datagram.resize(longest - 1, b' ');
            datagram.push(b'\n');
        }
    }
    for (datagram, content) in rendered.datagrams.iter().zip(&mut rendered.contents) {
        content.bytes = datagram.len() as u64;
    }
    rendered
}

fn line(plan: &Plan, n: usize, random: &mut Random, out: &mut Vec<u8>, content: &mut Sent) {
    // A name keeps its type, like real ones.
    let kind = match plan.profile {
        Profile::Counters => 0,
        Profile::Timers => 70,
        Profile::Mixed => (n * 61) % 100,
    };
    content.lines += 1;
    let text = match kind {
        0..50 => {
            let value = 1 + random.below(9);
            content.counters += 1;
            content.counter_sum += value;
            format!("app.web.requests.endpoint_{n:04}:{value}|c")
        }
        50..70 => {
            content.gauges += 1;
            format!("app.web.pool.connections_{n:04}:{}|g", random.below(1000))
        }
        70..95 => {
            content.timers += 1;
            format!("app.web.latency.endpoint_{n:04}:{}|ms", random.below(1000))
        }
        _ => {
            content.sets += 1;
            format!("app.web.users.endpoint_{n:04}:user{}|s", random.below(1000))
        }
    };
    out.extend_from_slice(text.as_bytes());
    const TAGS: [&str; 5] = ["env:prod", "host:web-1", "region:eu-west", "service:api", "version:1.2.3"];
    for tag in 0..plan.tags {
        out.extend_from_slice(if tag == 0 { b"|#" } else { b"," });
        match TAGS.get(tag) {
            Some(known) => out.extend_from_slice(known.as_bytes()),
            None => out.extend_from_slice(format!("tag{tag}:value").as_bytes()),
        }
    }
    out.push(b'\n');
}

/// Paces lines at a wanted rate.
struct Schedule {
    began: Instant,
    ends: Instant,
    lines_per_second: Option<f64>,
}

impl Schedule {
    fn new(plan: &Plan) -> Schedule {
        let began = Instant::now();
        let lines_per_second = plan.rate.map(|rate| rate / plan.threads.max(1) as f64);
        Schedule { began, ends: began + plan.length, lines_per_second }
    }

    /// Waits until `lines` may have been sent; `false` when the time is over.
    fn wait(&self, lines: u64) -> bool {
        let now = Instant::now();
        if now >= self.ends {
            return false;
        }
        if let Some(rate) = self.lines_per_second {
            let due = self.began + Duration::from_secs_f64(lines as f64 / rate);
            if due >= self.ends {
                std::thread::sleep(self.ends.saturating_duration_since(now));
                return false;
            }
            // Short waits spin: a sleep would take longer.
            match due.saturating_duration_since(now) {
                wait if wait > Duration::from_micros(200) => std::thread::sleep(wait),
                _ => {
                    while Instant::now() < due {
                        std::hint::spin_loop();
                    }
                }
            }
        }
        true
    }
}

fn datagrams(plan: &Plan, rendered: &Rendered, to: SocketAddr) -> io::Result<Sent> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    let socket = Socket::from(socket);
    let _ = socket.set_send_buffer_size(4 << 20);
    if plan.segmented {
        return segmented(plan, rendered, &socket);
    }
    let mut out = Outgoing::new(&rendered.datagrams);
    let pace = Schedule::new(plan);
    let mut times = vec![0_u64; out.len()];
    let (mut next, mut lines, mut refused) = (0, 0, 0);
    // At a wanted rate no more is sent at once than is due in BURST, instead of a whole batch.
    let in_a_burst =
        |rate: f64| rate / (plan.threads.max(1) * plan.lines_per_packet.max(1)) as f64 * BURST.as_secs_f64();
    let batch = plan.rate.map_or(BATCH, |rate| (in_a_burst(rate) as usize).clamp(1, BATCH));
    while pace.wait(lines) {
        match send_batch(&socket, &mut out, next, batch) {
            Ok(sent) => {
                for (count, content) in times[next..next + sent].iter_mut().zip(&rendered.contents[next..]) {
                    *count += 1;
                    lines += content.lines;
                }
                next = (next + sent) % out.len();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => refused += 1,
        }
    }
    Ok(tally(rendered, &times, refused))
}

fn segmented(plan: &Plan, rendered: &Rendered, socket: &Socket) -> io::Result<Sent> {
    let size = rendered.datagrams.first().map_or(1, Vec::len);
    let size_of_segment =
        u16::try_from(size).map_err(|_| io::Error::other("datagrams are too large to be segmented"))?;
    send_segmented(socket, size_of_segment)?;
    let all = rendered.datagrams.concat();
    let at_once = (SEGMENTED_BYTES / size).clamp(1, MAX_SEGMENTS);
    let pace = Schedule::new(plan);
    let mut times = vec![0_u64; rendered.datagrams.len()];
    let (mut next, mut lines, mut refused) = (0, 0, 0);
    while pace.wait(lines) {
        let end = (next + at_once).min(times.len());
        match socket.send(&all[next * size..end * size]) {
            Ok(_) => {
                for (count, content) in times[next..end].iter_mut().zip(&rendered.contents[next..]) {
                    *count += 1;
                    lines += content.lines;
                }
                next = end % times.len();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => refused += 1,
        }
    }
    Ok(tally(rendered, &times, refused))
}

fn stream(plan: &Plan, rendered: &Rendered, to: SocketAddr) -> io::Result<Sent> {
    let mut socket = Socket::from(TcpStream::connect(to)?);
    let pace = Schedule::new(plan);
    let mut times = vec![0_u64; rendered.datagrams.len()];
    let (mut next, mut lines) = (0, 0);
    while pace.wait(lines) {
        if let Err(error) = socket.write_all(&rendered.datagrams[next]) {
            refuses_lines(&socket, Duration::ZERO)?;
            return Err(error);
        }
        times[next] += 1;
        lines += rendered.contents[next].lines;
        next = (next + 1) % times.len();
    }
    // What was refused at the beginning is known by now.
    refuses_lines(&socket, Duration::ZERO)?;
    socket.shutdown(std::net::Shutdown::Write)?;
    Ok(tally(rendered, &times, 0))
}

fn tally(rendered: &Rendered, times: &[u64], refused: u64) -> Sent {
    let mut total = Sent { refused, ..Sent::default() };
    rendered.contents.iter().zip(times).for_each(|(content, &times)| total.add(content, times));
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(profile: Profile) -> Plan {
        Plan {
            profile,
            series: 1000,
            lines_per_packet: 20,
            tags: 0,
            rate: None,
            length: Duration::from_millis(50),
            threads: 1,
            seed: 1,
            segmented: false,
        }
    }

    #[test]
    fn what_is_counted_is_what_is_rendered() {
        for profile in [Profile::Counters, Profile::Timers, Profile::Mixed] {
            let rendered = render(&mix(profile), 1);
            for (datagram, content) in rendered.datagrams.iter().zip(&rendered.contents) {
                let text = String::from_utf8_lossy(datagram);
                assert!(datagram.len() <= MAX_DATAGRAM_BYTES && text.ends_with('\n'));
                let of = |end: &str| text.lines().filter(|line| line.ends_with(end)).count() as u64;
                assert_eq!(text.lines().count() as u64, content.lines);
                assert_eq!(
                    [of("|c"), of("|g"), of("|ms"), of("|s")],
                    [content.counters, content.gauges, content.timers, content.sets]
                );
                let sum: u64 = text
                    .lines()
                    .filter(|l| l.ends_with("|c"))
                    .filter_map(|l| l.split([':', '|']).nth(1)?.parse::<u64>().ok())
                    .sum();
                assert_eq!(sum, content.counter_sum);
            }
            assert_eq!(render(&mix(profile), 1).datagrams, rendered.datagrams);
        }
    }

    #[test]
    fn every_series_is_sent_and_segments_are_of_one_size() {
        let mut plan = mix(Profile::Mixed);
        plan.segmented = true;
        let rendered = render(&plan, 3);
        let names: std::collections::HashSet<String> = rendered
            .datagrams
            .iter()
            .flat_map(|d| {
                String::from_utf8_lossy(d)
                    .lines()
                    .map(|l| l.split(':').next().unwrap_or("").to_string())
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(names.len(), plan.series);
        assert!(rendered.datagrams.iter().all(|d| d.len() == rendered.datagrams[0].len()));
    }
}
