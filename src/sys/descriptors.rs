//! File descriptors. Connections never use up what files, sinks and other ports need: each port takes a permit for a
//! connection from a pool that leaves [`KEPT_BACK`] of the process's limit free.

use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that no connection gets: for files, sinks, and what a start opens later.
pub const KEPT_BACK: usize = 64;

/// Descriptors that each port has for itself, so that one which is flooded leaves the others theirs.
pub const OF_EACH_PORT: usize = 16;

/// The limit that the process was started with, which its children get back.
static FIRST: OnceLock<Rlimit> = OnceLock::new();

/// Of this process, which all its ports share.
static POOL: Pool = Pool::new();

/// Raises the limit of open descriptors (`RLIMIT_NOFILE`) to its hard limit. Returns the limits before and after.
///
/// # Errors
/// What the kernel says; nothing has changed then.
pub fn raise_descriptor_limit() -> io::Result<(u64, u64)> {
    let first = *FIRST.get_or_init(|| getrlimit(Resource::Nofile));
    setrlimit(Resource::Nofile, Rlimit { current: first.maximum, maximum: first.maximum })?;
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    Ok((number(first.current), number(first.maximum)))
}

/// Sets the limit of open descriptors back to what the process was started with. It is for a child before it runs another
/// program, which may close every descriptor that it could have, or use `select`. Safe between `fork` and `exec`.
pub(super) fn restore_descriptor_limit() -> io::Result<()> {
    match FIRST.get() {
        Some(first) => Ok(setrlimit(Resource::Nofile, *first)?),
        None => Ok(()),
    }
}

/// Counts what is open now, beside connections, as the daemon's own: all the rest of the limit but [`KEPT_BACK`] is for
/// connections. To be called when a start is over.
pub fn count_own_descriptors() {
    POOL.count_own();
}

/// The descriptors of a process.
#[derive(Debug)]
struct Pool {
    /// All connections may hold so many.
    most: AtomicUsize,
    /// Ports, each with [`OF_EACH_PORT`] of its own.
    ports: AtomicUsize,
    /// Held by connections.
    held: AtomicUsize,
    /// Those of them that are not a port's own.
    shared: AtomicUsize,
}

impl Pool {
    const fn new() -> Pool {
        Pool {
            most: AtomicUsize::new(usize::MAX),
            ports: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            shared: AtomicUsize::new(0),
        }
    }

    fn count_own(&self) {
        let limit = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize);
        // Without /proc nothing is known of what is open; a start needs about as much as is kept back.
        let open = std::fs::read_dir("/proc/self/fd").map_or(KEPT_BACK, Iterator::count);
        let own = open.saturating_sub(self.held.load(Ordering::Relaxed));
        self.most.store(limit.saturating_sub(own + KEPT_BACK), Ordering::Relaxed);
    }

    /// What is not any port's own.
    fn shareable(&self) -> usize {
        self.most.load(Ordering::Relaxed).saturating_sub(self.ports.load(Ordering::Relaxed) * OF_EACH_PORT)
    }
}

/// Adds one, if fewer than `most` are held.
fn take(held: &AtomicUsize, most: usize) -> bool {
    held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| (held < most).then_some(held + 1)).is_ok()
}

/// The descriptors of a port.
#[derive(Clone, Debug)]
pub struct Descriptors(Arc<Port>);

#[derive(Debug)]
struct Port {
    pool: &'static Pool,
    /// Held of its own.
    own: AtomicUsize,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.pool.ports.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Descriptors {
    /// Those of one more port of this process.
    pub fn for_port() -> Descriptors {
        Descriptors::of(&POOL)
    }

    fn of(pool: &'static Pool) -> Descriptors {
        if pool.ports.fetch_add(1, Ordering::Relaxed) == 0 {
            pool.count_own();
        }
        Descriptors(Arc::new(Port { pool, own: AtomicUsize::new(0) }))
    }

    /// A permit for one connection, to be held while its descriptor is open; `None` if no descriptor is to spare.
    pub fn try_take(&self) -> Option<Permit> {
        let Port { pool, own } = &*self.0;
        let is_own = take(own, OF_EACH_PORT);
        if !is_own && !take(&pool.shared, pool.shareable()) {
            return None;
        }
        pool.held.fetch_add(1, Ordering::Relaxed);
        Some(Permit { port: Arc::clone(&self.0), is_own })
    }
}

/// Allows one connection to hold a descriptor. Dropping it gives that back.
#[derive(Debug)]
pub struct Permit {
    port: Arc<Port>,
    is_own: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Port { pool, own } = &*self.port;
        let of = if self.is_own { own } else { &pool.shared };
        of.fetch_sub(1, Ordering::Relaxed);
        pool.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(most: usize) -> &'static Pool {
        let pool: &Pool = Box::leak(Box::new(Pool::new()));
        // A port that is never dropped: only the first one counts what is open.
        pool.ports.store(1, Ordering::Relaxed);
        pool.most.store(most, Ordering::Relaxed);
        pool
    }

    fn all(port: &Descriptors) -> Vec<Permit> {
        std::iter::from_fn(|| port.try_take()).collect()
    }

    #[test]
    fn a_flooded_port_leaves_each_other_its_own() {
        let pool = pool(100);
        let (flooded, other) = (Descriptors::of(pool), Descriptors::of(pool));
        let held = all(&flooded);
        // Three ports: 48 are theirs, the rest is shared.
        assert_eq!(held.len(), 100 - 3 * OF_EACH_PORT + OF_EACH_PORT);
        assert_eq!(all(&other).len(), OF_EACH_PORT);
        drop(held);
        for port in [&other, &flooded] {
            assert_eq!(all(port).len(), 68);
        }
        assert_eq!((pool.held.load(Ordering::Relaxed), pool.shared.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_port_has_its_own_where_the_limit_is_lower_than_what_is_kept_back() {
        let port = Descriptors::of(pool(0));
        assert_eq!(all(&port).len(), OF_EACH_PORT);
    }

    #[test]
    fn what_the_process_has_open_is_not_for_connections() {
        let pool = pool(0);
        let files: Vec<_> = (0..10).map(|_| std::fs::File::open("/dev/null").expect("a file")).collect();
        pool.count_own();
        let limit = getrlimit(Resource::Nofile).current.expect("a limit") as usize;
        let most = pool.most.load(Ordering::Relaxed);
        assert!(most <= limit - KEPT_BACK - files.len(), "{most} of {limit}");
    }
}
