//! The kernel and the C library, where no safe crate will do: datagrams in batches, socket options, the
//! allocator's arenas. The only `unsafe` of the house; each block says why it is sound.
//!
//! `recvmmsg` over reused buffers: fewer wake-ups and whole batches for the parser. Crates were measured and
//! left aside: quinn-udp hides truncation and costs 70 % more, nix rebuilds its slices for every call.
//!
//! The rest of the house has no `unsafe`; the benches use this room too, hence its public names.
#![allow(unsafe_code)]

mod receive;
mod send;

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::Socket;

pub use receive::{BATCH_DATAGRAMS, Batch, Datagram};
pub use send::{Outgoing, send_batch};

/// Most segments the kernel splits one send into (`UDP_MAX_SEGMENTS`, 64 before Linux 6.7).
pub const MAX_SEGMENTS: usize = 64;

/// Lets a write beyond the limit of a file's size (`ulimit -f`) fail as on a full disk: by default it ends the process.
pub fn survive_file_size_limit() {
    // SAFETY: ignoring a signal touches no memory of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Asks for a receive buffer, beyond `net.core.rmem_max` if `force` and allowed; what the kernel granted, in
/// bytes of its own accounting (it doubles what is asked for).
pub fn set_receive_buffer(socket: &Socket, bytes: u64, force: bool) -> io::Result<u64> {
    let wanted = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let forced = force && set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_ok();
    if !forced {
        set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, wanted)?;
    }
    Ok(socket.recv_buffer_size()? as u64)
}

/// Lets the kernel hand over datagrams that came in one piece (`UDP_GRO`): a sender that segments its sends is
/// then many times cheaper to read.
///
/// # Errors
/// If the kernel does not know it.
pub fn receive_coalesced(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Makes the kernel cut what is sent into datagrams of `bytes` bytes (`UDP_SEGMENT`); only the last may be shorter.
/// With 0 it is sent as it is.
///
/// # Errors
/// If the kernel does not know it.
pub fn send_segmented(socket: &Socket, bytes: u16) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, libc::c_int::from(bytes))
}

/// Lets a receive that finds nothing poll the device for so many microseconds (`SO_BUSY_POLL`).
///
/// # Errors
/// If it is not allowed.
pub fn busy_poll(socket: &Socket, microseconds: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(microseconds).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL, value)
}

/// Waits until one of two descriptors can be read, or is closed at its other end.
///
/// # Errors
/// What the kernel says; `Interrupted` by a signal.
pub fn wait_readable(first: RawFd, second: RawFd) -> io::Result<()> {
    let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut watched = [watch(first), watch(second)];
    // SAFETY: `watched` is a live array of two entries, as stated. A descriptor that is not open is reported in
    // its entry, nothing else.
    let result = unsafe { libc::poll(watched.as_mut_ptr(), 2, -1) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until a write would be taken, or fail, at once, at most so long; whether that is so. One that cannot be asked counts
/// as such, and a signal may end the wait early.
pub fn wait_writable(fd: &impl AsRawFd, longest: Duration) -> bool {
    let mut watched = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let longest_ms = libc::c_int::try_from(longest.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: `watched` is one live entry, as stated.
    let result = unsafe { libc::poll(&raw mut watched, 1, longest_ms) };
    result != 0
}

/// Keeps the calling thread on one core, counted from 0.
///
/// # Errors
/// If there is no such core, or it is not allowed.
pub fn pin_thread(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: a `cpu_set_t` of zeros is an empty set; the core was checked to lie in it; the call reads a set of
    // the stated size.
    let result = unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut cores);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cores)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The socket that whoever started us has opened (systemd's socket activation, sd_listen_fds(3)), by its name or its
/// number from 0. Each is given once.
///
/// # Errors
/// If there is none of that name.
pub fn inherited_socket(name: &str) -> io::Result<Socket> {
    static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
    /// The first descriptor that is passed.
    const FIRST: RawFd = 3;
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<i32>().ok());
    let meant_for_us =
        number("LISTEN_PID").is_none_or(|pid| u32::try_from(pid).is_ok_and(|pid| pid == std::process::id()));
    let count = if meant_for_us { number("LISTEN_FDS").unwrap_or(0) } else { 0 };
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let all = (0..count).filter(|n| names.get(*n as usize) == Some(&name) || n.to_string() == name);
    let Some(fd) = all.map(|n| FIRST + n).find(|fd| !taken.contains(fd)) else {
        let known = if count == 0 {
            "none was passed".to_string()
        } else {
            format!("{count} were passed: {}", names.join(", "))
        };
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("no socket `{name}` was passed; {known}")));
    };
    // SAFETY: the call takes a number; whether it is open is what is asked.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    taken.push(fd);
    // SAFETY: the descriptor is open, was passed for us to own, and is given to nobody else: `TAKEN` holds that.
    Ok(unsafe { Socket::from_raw_fd(fd) })
}

/// Sends a signal to a process.
///
/// # Errors
/// If it is gone, or not ours.
pub fn signal_process(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|&pid| pid > 0);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: the call takes two integers; a positive process number names a single process.
    let result = unsafe { libc::kill(pid, signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the calling thread give way to threads of ordinary priority, by 10 steps of `nice`.
pub fn yielding_thread() {
    // SAFETY: the call takes three integers; thread 0 is the calling one. Giving way is always allowed.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// Lets the calling thread run before every thread of ordinary priority (`SCHED_RR`, the lowest priority of that
/// class). Threads that it starts don't inherit it. The kernel leaves others 5 % of the time by default
/// (`kernel.sched_rt_runtime_us`).
///
/// # Errors
/// If it is not allowed: that takes `CAP_SYS_NICE`, or a limit `RLIMIT_RTPRIO` of at least 1.
pub fn realtime_thread() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the call reads the parameters, which live until it returns; thread 0 is the calling one.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_option(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is a live `c_int` and its size is stated; the descriptor is open as long as `socket`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Datagrams that the kernel has dropped at this socket since it was made, modulo 2^32 (`SO_MEMINFO`).
pub fn dropped_datagrams(socket: &Socket) -> io::Result<u32> {
    /// `SK_MEMINFO_DROPS` and `SK_MEMINFO_VARS` of linux/sock_diag.h.
    const DROPS: usize = 8;
    const VARS: usize = 9;
    let mut info = [0_u32; VARS];
    let mut length = size_of::<[u32; VARS]>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which is that long.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(info[DROPS]) } else { Err(io::Error::last_os_error()) }
}

/// Waits until no processor is still delivering a datagram to a socket that it looked up before this call: until every one
/// has passed a quiescent state (`membarrier`(2), 5 to 40 ms). Where the kernel refuses that, a pause has to do.
pub fn await_deliveries() {
    /// Longer than any processor spends on one datagram.
    const PAUSE: Duration = Duration::from_millis(10);
    // SAFETY: the call takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        std::thread::sleep(PAUSE);
    }
}

/// Bytes that a stream has received and nobody has read yet (`FIONREAD`); 0 if the kernel does not say.
pub fn unread_bytes(stream: &impl AsRawFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one `c_int`, which lives until the call returns; the descriptor is open as long as `stream`.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// The machine's name, never empty.
///
/// # Errors
/// What the kernel says, or that it has none.
pub fn host_name() -> io::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_string();
    if name.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, "it has none")) } else { Ok(name) }
}

/// Wall time in Unix seconds; 0 on a clock that stands before 1970.
pub fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Makes the allocator give memory back. Snapshots are allocated by one thread and freed by others, and the arenas
/// that glibc gives each thread then grow with names that come and go: 400 intervals with 10 % new names took
/// memory from 32 to 38 MiB, with one arena it stays at 24. Threads contend for it only when something new is
/// allocated, which the receive path seldom does for known series. Tables are mapped each for itself, and so returned
/// whole; by default glibc stops doing so once a large one was freed. To be called before threads start.
pub fn return_memory() {
    // SAFETY: `mallopt` may be called at any time; it takes two integers and touches no memory of ours. That it
    // refuses does no harm.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 512 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 512 << 10);
    }
}

/// Lets the pages of our own code go that the start alone needed: reading a configuration, a command line, certificates.
/// What is run again is mapped again from the file. Nothing is lost if it fails.
pub fn forget_start_up_code() {
    let (Ok(maps), Ok(exe)) = (std::fs::read_to_string("/proc/self/maps"), std::fs::read_link("/proc/self/exe")) else {
        return;
    };
    for line in maps.lines().filter(|line| line.contains(" r-xp ") && line.ends_with(&*exe.to_string_lossy())) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let address = |text: &str| usize::from_str_radix(text, 16).ok();
        let Some((Some(start), Some(end))) = range.map(|(start, end)| (address(start), address(end))) else { continue };
        // SAFETY: the range is one mapping of this process, as the kernel has just said: its own program text, private,
        // executable and not writable, so that every page of it equals the file's and can be read from there again.
        #[allow(unsafe_code)]
        unsafe {
            libc::madvise(start as *mut libc::c_void, end.saturating_sub(start), libc::MADV_DONTNEED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn the_kernel_says_how_many_datagrams_it_dropped() {
        let receiver = Socket::from(UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        set_receive_buffer(&receiver, 4096, false).expect("a small buffer");
        let to = receiver.local_addr().expect("bound").as_socket().expect("an IP address");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for _ in 0..1000 {
            sender.send_to(&[b'x'; 100], to).expect("sent");
        }
        let mut batch = Batch::new();
        let mut read = 0;
        while let Ok(count) = batch.receive(receiver.as_raw_fd(), false) {
            read += count;
        }
        assert_eq!(read + dropped_datagrams(&receiver).expect("a count") as usize, 1000);
        assert!(read < 1000);
    }
}
