use super::*;
use crate::aggregate::Sum;
use crate::memory::{Holder, Level, Memory};
use crate::protocol::Kind;
use crate::series::Series;
use crate::sinks::{Delivery, Order, Receipt, SinkError};
use crate::snapshot::CounterPoint;
use crate::sys::unix_time;

/// Fails while `broken`, hangs while `hung`; remembers what it took.
#[derive(Clone, Default)]
struct Fake {
    seen: Arc<Mutex<Vec<u64>>>,
    mode: Arc<Mutex<Mode>>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Mode {
    #[default]
    Good,
    Broken,
    Hung,
}

impl Sink for Fake {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let mode = *self.mode.lock().expect("no panic");
            match mode {
                Mode::Good => self.seen.lock().expect("no panic").push(snapshot.sequence),
                Mode::Broken => return Err(SinkError::new("broken")),
                Mode::Hung => std::future::pending().await,
            }
            Ok(Receipt::default())
        })
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn snapshot(sequence: u64) -> Arc<Snapshot> {
    let counter = CounterPoint { series: Series::new(Kind::Counter, "a", &[]), sum: Sum::default() };
    Arc::new(Snapshot { sequence, counters: vec![counter.clone(), counter], ..Snapshot::default() })
}

fn driver(fake: &Fake, queue: usize) -> SinkDriver {
    let timeout = Duration::from_secs(1);
    let options = DriverOptions { queue, timeout, ..DriverOptions::new("fake", "fake", Duration::from_secs(10)) };
    SinkDriver::start(options, Box::new(fake.clone())).expect("it has no spool")
}

fn adds_up(account: &SinkAccount) -> bool {
    account.offered == account.delivered + account.queued + account.spooled + account.dropped.total()
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_comes_back_gets_what_waited_in_order() {
    let fake = Fake::default();
    *fake.mode.lock().expect("no panic") = Mode::Broken;
    let driver = driver(&fake, 4);
    for n in 1..=3 {
        driver.offer(&snapshot(n));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(adds_up(&driver.account()));
    }
    assert_eq!((driver.account().queued, driver.account().last_error), (6, Some("broken".into())));
    *fake.mode.lock().expect("no panic") = Mode::Good;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*fake.seen.lock().expect("no panic"), [1, 2, 3]);
    assert_eq!((driver.account().delivered, driver.account().last_error), (6, None));
}

#[tokio::test(start_paused = true)]
async fn an_interval_without_records_says_nothing_of_the_receiver() {
    let fake = Fake::default();
    let driver = driver(&fake, 4);
    driver.offer(&Arc::new(Snapshot { sequence: 1, ..Snapshot::default() }));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((fake.seen.lock().expect("no panic").len(), driver.account().last_success), (1, 0.0));
    driver.offer(&snapshot(2));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(driver.account().last_success > 0.0 && adds_up(&driver.account()));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_gives_up_its_oldest_and_counts_it() {
    let fake = Fake::default();
    *fake.mode.lock().expect("no panic") = Mode::Hung;
    let driver = driver(&fake, 2);
    for n in 1..=6 {
        driver.offer(&snapshot(n));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(adds_up(&driver.account()));
    }
    // One is being delivered, two wait, three are lost.
    let account = driver.account();
    assert_eq!((account.offered, account.queued, account.dropped.of("queue_full")), (12, 6, 6));
    *fake.mode.lock().expect("no panic") = Mode::Good;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*fake.seen.lock().expect("no panic"), [1, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_what_cannot_be_delivered_is_counted() {
    let fake = Fake::default();
    *fake.mode.lock().expect("no panic") = Mode::Broken;
    let driver = driver(&fake, 4);
    driver.offer(&snapshot(1));
    driver.offer(&snapshot(2));
    let account = driver.finish(Instant::now() + Duration::from_millis(300)).await;
    assert!(adds_up(&account));
    assert_eq!((account.queued, account.dropped.of("shutdown")), (0, 4));
}

/// Leaves out more than there is.
struct Boastful;

impl Sink for Boastful {
    fn deliver<'a>(&'a mut self, _: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        let dropped = vec![("unencodable", 1), ("refused", 7), ("other", u64::MAX)];
        Box::pin(std::future::ready(Ok(Receipt { dropped, ..Receipt::default() })))
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_left_out_than_there_was() {
    let options = DriverOptions::new("boastful", "fake", Duration::from_secs(10));
    let driver = SinkDriver::start(options, Box::new(Boastful)).expect("it has no spool");
    driver.offer(&snapshot(1));
    let account = driver.finish(Instant::now() + Duration::from_secs(1)).await;
    assert!(adds_up(&account), "{account:?}");
    assert_eq!((account.dropped.of("unencodable"), account.dropped.of("refused"), account.delivered), (1, 1, 0));
}

/// Says when a delivery begins, and holds its thread until it may end.
struct Stubborn {
    begun: tokio::sync::mpsc::UnboundedSender<()>,
    release: std::sync::mpsc::Receiver<()>,
}

impl Sink for Stubborn {
    fn deliver<'a>(&'a mut self, _: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        self.begun.send(()).expect("the test waits");
        let _ = self.release.recv();
        Box::pin(std::future::ready(Ok(Receipt::default())))
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_cannot_be_aborted_is_waited_for_and_counted_once() {
    for is_released_in_time in [true, false] {
        let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
        let (release, released) = std::sync::mpsc::channel();
        let options = DriverOptions::new("stubborn", "fake", Duration::from_secs(10));
        let driver = SinkDriver::start(options, Box::new(Stubborn { begun, release: released })).expect("no spool");
        let (stats, task) = (driver.stats(), driver.task.abort_handle());
        driver.offer(&snapshot(1));
        has_begun.recv().await.expect("a delivery");
        let finishing = tokio::spawn(driver.finish(Instant::now()));
        if is_released_in_time {
            // The deadline has passed; give the stop time to notice.
            tokio::time::sleep(Duration::from_millis(20)).await;
            release.send(()).expect("the sink waits");
        }
        let account = finishing.await.expect("no panic");
        let expected = if is_released_in_time { (2, 0) } else { (0, 2) };
        assert_eq!((account.delivered, account.dropped.of("shutdown"), account.queued), (expected.0, expected.1, 0));
        if !is_released_in_time {
            release.send(()).expect("the sink waits");
        }
        while !task.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What ends later changes nothing.
        assert_eq!(stats.account().delivered, expected.0);
        assert!(adds_up(&stats.account()));
    }
}

fn spooled(fake: &Fake, folder: &std::path::Path, order: Order) -> SinkDriver {
    let spool = SpoolOptions { path: folder.to_path_buf(), order, ..SpoolOptions::default() };
    let timeout = Duration::from_secs(1);
    let interval = Duration::from_secs(10);
    let options = DriverOptions { spool: Some(spool), timeout, ..DriverOptions::new("fake", "fake", interval) };
    SinkDriver::start(options, Box::new(fake.clone())).expect("a spool")
}

/// Offers an interval that ends now: others are too old to be kept.
async fn offer(driver: &SinkDriver, sequence: u64) {
    let fresh = Snapshot { end: unix_time(), ..Snapshot::clone(&snapshot(sequence)) };
    driver.offer(&Arc::new(fresh));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(adds_up(&driver.account()), "{:?}", driver.account());
}

#[tokio::test(start_paused = true)]
async fn with_a_spool_nothing_is_given_up_and_the_next_start_delivers_what_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    for mode in [Mode::Broken, Mode::Hung] {
        let fake = Fake::default();
        *fake.mode.lock().expect("no panic") = mode;
        let driver = spooled(&fake, folder.path(), Order::Strict);
        for n in 1..=20 {
            offer(&driver, n).await;
        }
        let account = driver.account();
        assert_eq!((account.queued, account.spooled, account.dropped.total()), (0, 40, 0));
        assert!(account.spool_bytes > 0 && account.oldest_waiting.is_some());
        // As if it were killed: nothing is told to end.
        driver.task.abort();
        while !driver.task.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        *fake.mode.lock().expect("no panic") = Mode::Good;
        let driver = spooled(&fake, folder.path(), Order::Strict);
        assert_eq!((driver.account().offered, driver.account().spooled), (40, 40));
        offer(&driver, 21).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(*fake.seen.lock().expect("no panic"), (1..=21).collect::<Vec<_>>());
        let account = driver.finish(Instant::now() + Duration::from_secs(1)).await;
        assert_eq!((account.delivered, account.spooled, account.spool_bytes), (42, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn while_its_next_spool_cannot_be_opened_a_sink_has_the_one_so_far() {
    let (one, other, fake) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"), Fake::default());
    let driver = spooled(&fake, one.path(), Order::Strict);
    offer(&driver, 1).await;
    let next = other.path().join("next");
    std::fs::write(&next, "no folder").expect("written");
    let spool = SpoolOptions { path: next.clone(), ..SpoolOptions::default() };
    let options = DriverOptions { spool: Some(spool), ..DriverOptions::new("fake", "fake", Duration::from_secs(10)) };
    driver.change(SinkChange { options, sink: None });
    *fake.mode.lock().expect("no panic") = Mode::Broken;
    offer(&driver, 2).await;
    assert_eq!((driver.spool().as_deref(), driver.account().spooled), (Some(one.path()), 2));
    *fake.mode.lock().expect("no panic") = Mode::Good;
    std::fs::remove_file(&next).expect("removed");
    tokio::time::sleep(Duration::from_secs(60)).await;
    offer(&driver, 3).await;
    assert_eq!((driver.spool(), driver.account().spooled), (Some(next), 0));
    assert_eq!(*fake.seen.lock().expect("no panic"), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn interleaved_what_is_new_comes_first_and_everything_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = Fake::default();
    *fake.mode.lock().expect("no panic") = Mode::Broken;
    let driver = spooled(&fake, folder.path(), Order::Interleave);
    for n in 1..=40 {
        offer(&driver, n).await;
    }
    *fake.mode.lock().expect("no panic") = Mode::Good;
    tokio::time::sleep(Duration::from_secs(31)).await;
    for n in 41..=43 {
        driver.offer(&Arc::new(Snapshot { end: unix_time(), ..Snapshot::clone(&snapshot(n)) }));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut seen = fake.seen.lock().expect("no panic").clone();
    assert!(seen.len() == 43, "{seen:?}");
    seen.sort_unstable();
    assert_eq!(seen, (1..=43).collect::<Vec<_>>());
    assert!(adds_up(&driver.account()));
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_on_disk_what_cannot_be_delivered() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = Fake::default();
    *fake.mode.lock().expect("no panic") = Mode::Hung;
    let driver = spooled(&fake, folder.path(), Order::Strict);
    offer(&driver, 1).await;
    driver.offer(&snapshot(2));
    let account = driver.finish(Instant::now() + Duration::from_millis(300)).await;
    assert!(adds_up(&account));
    assert_eq!((account.queued, account.spooled, account.dropped.total()), (0, 4, 0));
}

/// Bytes of an interval in a spool.
async fn bytes_of_one() -> u64 {
    let fake = Fake::default();
    *fake.mode.lock().expect("no panic") = Mode::Broken;
    let folder = tempfile::tempdir().expect("a folder");
    let driver = spooled(&fake, folder.path(), Order::Strict);
    offer(&driver, 1).await;
    driver.account().spool_bytes
}

/// A driver whose spool has room for three intervals.
fn with_small_spool(fake: &Fake, folder: &std::path::Path, order: Order, bytes: u64) -> SinkDriver {
    let spool = SpoolOptions { path: folder.to_path_buf(), order, max_bytes: bytes * 7 / 2, ..SpoolOptions::default() };
    let timeout = Duration::from_secs(1);
    let interval = Duration::from_secs(10);
    let options = DriverOptions { spool: Some(spool), timeout, ..DriverOptions::new("fake", "fake", interval) };
    SinkDriver::start(options, Box::new(fake.clone())).expect("a spool")
}

#[tokio::test(start_paused = true)]
async fn an_interval_that_makes_room_while_it_is_delivered_is_counted_at_a_stop() {
    let fake = Fake::default();
    let bytes = bytes_of_one().await;
    for (order, mode) in [Order::Strict, Order::Interleave]
        .into_iter()
        .flat_map(|order| [Mode::Broken, Mode::Hung].map(|mode| (order, mode)))
    {
        let folder = tempfile::tempdir().expect("a folder");
        *fake.mode.lock().expect("no panic") = mode;
        let driver = with_small_spool(&fake, folder.path(), order, bytes);
        for n in 1..=8 {
            offer(&driver, n).await;
        }
        let account = driver.finish(Instant::now() + Duration::from_millis(300)).await;
        assert!(adds_up(&account), "{account:?}");
        assert_eq!((account.queued, account.dropped.of("shutdown"), account.dropped.of("spool_full")), (0, 0, 10));
        // What the account has as spooled is there.
        let next = with_small_spool(&fake, folder.path(), order, bytes);
        assert_eq!(next.account().offered, account.spooled);
    }
}

#[tokio::test(start_paused = true)]
async fn an_interval_that_makes_room_while_it_is_delivered_counts_as_delivered_after_all() {
    let fake = Fake::default();
    *fake.mode.lock().expect("no panic") = Mode::Broken;
    let bytes = bytes_of_one().await;
    let folder = tempfile::tempdir().expect("a folder");
    let driver = with_small_spool(&fake, folder.path(), Order::Strict, bytes);
    for n in 1..=8 {
        offer(&driver, n).await;
    }
    *fake.mode.lock().expect("no panic") = Mode::Good;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*fake.seen.lock().expect("no panic"), [1, 6, 7, 8]);
    let account = driver.account();
    assert_eq!((account.delivered, account.spooled, account.dropped.of("spool_full")), (8, 0, 8));
}

#[tokio::test(start_paused = true)]
async fn a_sink_with_an_interval_of_its_own_gets_several_as_one() {
    let fake = Fake::default();
    let options = DriverOptions { every: 3, ..DriverOptions::new("fake", "fake", Duration::from_secs(10)) };
    let driver = SinkDriver::start(options, Box::new(fake.clone())).expect("it has no spool");
    for n in 1..=7 {
        driver.offer(&Arc::new(Snapshot { end: n as f64 * 10.0, ..Snapshot::clone(&snapshot(n)) }));
    }
    let account = driver.finish(Instant::now() + Duration::from_secs(1)).await;
    assert_eq!(*fake.seen.lock().expect("no panic"), [3, 6, 7]);
    assert!(adds_up(&account));
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_was_skipped_does_not_double_a_sinks_own_interval() {
    let fake = Fake::default();
    let options = DriverOptions { every: 3, ..DriverOptions::new("fake", "fake", Duration::from_secs(10)) };
    let driver = SinkDriver::start(options, Box::new(fake.clone())).expect("it has no spool");
    for n in [1, 2, 4, 5, 6, 7] {
        driver.offer(&Arc::new(Snapshot { end: n as f64 * 10.0, ..Snapshot::clone(&snapshot(n)) }));
    }
    driver.finish(Instant::now() + Duration::from_secs(1)).await;
    assert_eq!(*fake.seen.lock().expect("no panic"), [4, 6, 7]);
}

fn mixed(sequence: u64) -> Arc<Snapshot> {
    let counter = |name| CounterPoint { series: Series::new(Kind::Counter, name, &[]), sum: Sum::default() };
    Arc::new(Snapshot { sequence, counters: vec![counter("a"), counter("b"), counter("ab")], ..Snapshot::default() })
}

fn filtered(fake: &Fake, queue: usize) -> SinkDriver {
    let filter = Filter { include: Some(vec!["a*".into()]), ..Filter::default() };
    let options = DriverOptions { queue, filter, ..DriverOptions::new("fake", "fake", Duration::from_secs(10)) };
    SinkDriver::start(options, Box::new(fake.clone())).expect("it has no spool")
}

#[tokio::test(start_paused = true)]
async fn a_sinks_view_is_made_after_it_was_offered_and_counted_then() {
    let fake = Fake::default();
    let driver = filtered(&fake, 4);
    driver.offer(&mixed(1));
    assert_eq!(driver.account().offered, 0);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!((driver.account().offered, driver.account().delivered), (2, 2));
    // At the end, too.
    driver.offer(&mixed(2));
    let account = driver.finish(Instant::now() + Duration::from_secs(1)).await;
    assert_eq!((account.offered, account.delivered), (4, 4));
    assert_eq!(*fake.seen.lock().expect("no panic"), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn views_that_are_not_made_in_time_are_dropped_oldest_first_and_counted() {
    let fake = Fake::default();
    let driver = filtered(&fake, 2);
    (1..=5).for_each(|n| driver.offer(&mixed(n)));
    let account = driver.account();
    assert_eq!((account.offered, account.dropped.of("queue_full")), (6, 6));
    assert!(adds_up(&account));
    let account = driver.finish(Instant::now() + Duration::from_secs(1)).await;
    assert_eq!((account.offered, account.delivered), (10, 4));
    assert_eq!(*fake.seen.lock().expect("no panic"), [4, 5]);
}

/// Memory of which closed intervals may take so many bytes, and an interval of so many counters in it.
fn memory_for(bytes: u64) -> Memory {
    let percent = Memory::new(100 << 20).cap(Holder::ClosedIntervals) / (1 << 20);
    Memory::new(bytes / percent * 100)
}

fn held(sequence: u64, memory: &Memory) -> Arc<Snapshot> {
    let counter = CounterPoint { series: Series::new(Kind::Counter, "c", &[]), sum: Sum::default() };
    let counters = vec![counter; 1000];
    let mut snapshot = Snapshot { sequence, end: unix_time(), counters, ..Snapshot::default() };
    snapshot.hold(memory);
    Arc::new(snapshot)
}

fn driver_within(memory: &Memory, options: DriverOptions, fake: &Fake) -> SinkDriver {
    let (sink, supervisor) = (Box::new(fake.clone()), Supervisor::default());
    SinkDriver::supervised(memory, options, sink, None, &supervisor, &Gate::default()).expect("a spool, if it has one")
}

#[tokio::test(start_paused = true)]
async fn intervals_above_their_share_leave_the_oldest_first_and_are_counted() {
    let one = held(0, &Memory::unlimited()).footprint.bytes();
    let memory = memory_for(one * 3 + one / 2);
    let fake = Fake::default();
    *fake.mode.lock().expect("no panic") = Mode::Broken;
    let options = DriverOptions { queue: 100, ..DriverOptions::new("fake", "fake", Duration::from_secs(10)) };
    let driver = driver_within(&memory, options, &fake);
    for n in 1..=6 {
        driver.offer(&held(n, &memory));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!memory.is_over(Holder::ClosedIntervals), "after {n}");
    }
    let account = driver.account();
    assert!(adds_up(&account) && account.dropped.of("memory") >= 3000, "{account:?}");
    assert_eq!(account.dropped.of("queue_full"), 0);
    // At the last level the newest stays, until it has failed once more.
    memory.set_level(Level::Events);
    driver.give_way();
    assert!(driver.account().queued <= 2000);
    tokio::time::sleep(LONGEST_PAUSE * 4).await;
    let account = driver.account();
    assert_eq!((account.queued, account.dropped.of("memory")), (0, 6000));
    assert!(adds_up(&account));
    assert_eq!(memory.bytes(Holder::ClosedIntervals), 0);
    // And what comes is still tried.
    *fake.mode.lock().expect("no panic") = Mode::Good;
    driver.offer(&held(7, &memory));
    let account = driver.finish(Instant::now() + Duration::from_secs(60)).await;
    assert_eq!((account.delivered, memory.bytes(Holder::ClosedIntervals)), (1000, 0));
    assert_eq!(*fake.seen.lock().expect("no panic"), [7]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_and_is_on_disk_is_not_kept_in_memory_too_while_it_is_short() {
    let folder = tempfile::tempdir().expect("a folder");
    let memory = memory_for(1 << 20);
    memory.set_level(Level::Events);
    let fake = Fake::default();
    *fake.mode.lock().expect("no panic") = Mode::Broken;
    let spool = SpoolOptions { path: folder.path().to_path_buf(), ..SpoolOptions::default() };
    let options = DriverOptions { spool: Some(spool), ..DriverOptions::new("fake", "fake", Duration::from_secs(10)) };
    let driver = driver_within(&memory, options, &fake);
    for n in 1..=3 {
        driver.offer(&held(n, &memory));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((driver.account().spooled, memory.bytes(Holder::ClosedIntervals)), (n * 1000, 0));
    }
    *fake.mode.lock().expect("no panic") = Mode::Good;
    tokio::time::sleep(LONGEST_PAUSE * 4).await;
    let account = driver.finish(Instant::now() + Duration::from_secs(60)).await;
    assert_eq!((account.delivered, account.dropped.total(), memory.bytes(Holder::ClosedIntervals)), (3000, 0, 0));
    assert_eq!(*fake.seen.lock().expect("no panic"), [1, 2, 3]);
}

/// Counts exactly: what was gathered before the interval with which the intake failed is lost once, and never delivered.
#[cfg(feature = "internals")]
#[tokio::test]
async fn what_an_intake_lost_is_counted_once_and_not_delivered() {
    crate::fault::arm("sink:gathering:intake@2").expect("well-formed");
    let fake = Fake::default();
    let interval = Duration::from_secs(10);
    let options = DriverOptions { every: 2, ..DriverOptions::new("gathering", "fake", interval) };
    let driver = SinkDriver::start(options, Box::new(fake.clone())).expect("it has no spool");
    let of_tick = |tick: u64| {
        let end = tick as f64 * interval.as_secs_f64();
        Arc::new(Snapshot { end, ..Arc::unwrap_or_clone(snapshot(tick)) })
    };
    // The second fails while the first waits for it. The third is after the end of their interval.
    (1..=4).for_each(|tick| driver.offer(&of_tick(tick)));
    let account = driver.finish(Instant::now() + Duration::from_secs(10)).await;
    assert_eq!((account.dropped.of("failed"), account.delivered), (4, 4), "{account:?}");
    assert!(adds_up(&account), "{account:?}");
}

/// A sum over all intervals, which goes on.
#[derive(Clone, Default)]
struct Totals {
    fake: Fake,
    sum: Arc<Mutex<u64>>,
}

impl Sink for Totals {
    fn deliver<'a>(&'a mut self, snapshot: &'a Arc<Snapshot>) -> Delivery<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let receipt = self.fake.deliver(snapshot).await?;
            *self.sum.lock().expect("no panic") += snapshot.sequence;
            Ok(receipt)
        })
    }

    fn save(&self) -> Option<Vec<u8>> {
        Some(self.sum.lock().expect("no panic").to_le_bytes().to_vec())
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), SinkError> {
        let saved = saved.try_into().map_err(|_| SinkError::new("no number"))?;
        *self.sum.lock().expect("no panic") = u64::from_le_bytes(saved);
        Ok(())
    }

    fn close(&mut self) -> Delivery<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn totals_driver(totals: &Totals, queue: usize, kind: &'static str) -> SinkDriver {
    let options = DriverOptions { queue, ..DriverOptions::new("t", kind, Duration::from_secs(10)) };
    SinkDriver::start(options, Box::new(totals.clone())).expect("it has no spool")
}

/// What another process reads of a hand-over.
fn carried(handover: &Handover) -> Handover {
    let mut bytes = Vec::new();
    handover.write(&mut bytes).expect("memory");
    let contents = Contents::of(&bytes).expect("whole");
    assert_eq!(contents.intervals, handover.waiting.len() as u64);
    for cut in 0..bytes.len() {
        assert!(Handover::read(&bytes[..cut], &Memory::unlimited()).is_err(), "{cut} of {}", bytes.len());
    }
    Handover::read(&bytes, &Memory::unlimited()).expect("whole")
}

#[tokio::test(start_paused = true)]
async fn what_was_not_delivered_comes_first_with_the_next_driver_and_once() {
    for mode in [Mode::Broken, Mode::Hung] {
        let before = Totals::default();
        let driver = totals_driver(&before, 4, "fake");
        driver.offer(&snapshot(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
        *before.fake.mode.lock().expect("no panic") = mode;
        (2..=4).for_each(|n| driver.offer(&snapshot(n)));
        let stats = driver.stats();
        let handover = driver.hand_over(Instant::now() + Duration::from_millis(300)).await;
        let account = stats.account();
        // Those are queued still, for whoever takes over.
        assert!(adds_up(&account));
        assert_eq!((account.delivered, account.queued, account.dropped.total()), (2, 6, 0));

        let after = Totals::default();
        let driver = totals_driver(&after, 4, "fake");
        driver.resume(carried(&handover));
        driver.offer(&snapshot(5));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(*after.fake.seen.lock().expect("no panic"), [2, 3, 4, 5]);
        assert_eq!(*after.sum.lock().expect("no panic"), 15);
        let account = driver.account();
        assert!(adds_up(&account));
        assert_eq!((account.offered, account.delivered), (8, 8));

        // One of another kind has no use for the totals.
        let other = Totals::default();
        let driver = totals_driver(&other, 4, "other");
        driver.resume(handover);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((driver.account().delivered, *other.sum.lock().expect("no panic")), (6, 9));
    }
}

#[tokio::test(start_paused = true)]
async fn what_lies_in_the_spool_comes_after_what_the_sink_knows_of_earlier_intervals() {
    let folder = tempfile::tempdir().expect("a folder");
    let totals_driver = |totals: &Totals, gate: &Gate| {
        let spool = SpoolOptions { path: folder.path().to_path_buf(), ..SpoolOptions::default() };
        let options = DriverOptions { spool: Some(spool), ..DriverOptions::new("t", "fake", Duration::from_secs(10)) };
        let (memory, sink) = (Memory::unlimited(), Box::new(totals.clone()));
        SinkDriver::supervised(&memory, options, sink, None, &Supervisor::default(), gate).expect("a spool")
    };
    let before = Totals::default();
    (*before.sum.lock().expect("no panic"), *before.fake.mode.lock().expect("no panic")) = (100, Mode::Broken);
    let driver = totals_driver(&before, &Gate::default());
    offer(&driver, 1).await;
    assert_eq!(driver.account().spooled, 2);
    let handover = driver.hand_over(Instant::now()).await;
    let (after, gate) = (Totals::default(), Gate::closed());
    let driver = totals_driver(&after, &gate);
    // However long it takes until the state is read.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((driver.account().delivered, driver.account().spooled), (0, 2));
    driver.resume(carried(&handover));
    gate.open();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((driver.account().delivered, *after.sum.lock().expect("no panic")), (2, 101));
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_is_bounded_by_the_queue_and_what_nobody_takes_is_counted() {
    let before = Totals::default();
    *before.fake.mode.lock().expect("no panic") = Mode::Broken;
    let driver = totals_driver(&before, 4, "fake");
    for n in 1..=5 {
        driver.offer(&snapshot(n));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let stats = driver.stats();
    let handover = driver.hand_over(Instant::now()).await;
    let after = Totals::default();
    let driver = totals_driver(&after, 1, "fake");
    driver.resume(carried(&handover));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let account = driver.account();
    assert!(adds_up(&account));
    assert_eq!((account.delivered, account.dropped.of("queue_full")), (4, 6));
    assert_eq!(*after.fake.seen.lock().expect("no panic"), [4, 5]);
    handover.give_up();
    let account = stats.account();
    assert!(adds_up(&account));
    assert_eq!((account.queued, account.dropped.of("shutdown")), (0, 10));
}

#[tokio::test(start_paused = true)]
async fn what_a_sink_cannot_go_on_with_is_left() {
    let totals = Totals::default();
    let driver = totals_driver(&totals, 4, "fake");
    driver.resume(Handover { totals: Some(vec![1]), kind: "fake".into(), ..carried(&empty().await) });
    driver.offer(&snapshot(7));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*totals.sum.lock().expect("no panic"), 7);
}

async fn empty() -> Handover {
    totals_driver(&Totals::default(), 4, "fake").hand_over(Instant::now()).await
}
