//! What the operating system offers beyond the standard library: datagrams in batches, socket options, priorities, limits,
//! sockets that a service manager passes, memory. rustix and socket2 do what they can; what needs `unsafe` is in [`raw`]
//! and [`allocator`].
//!
//! The benches use it too, so its items are public.

mod allocator;
mod clock;
mod descriptors;
mod files;
mod memory;
mod passed;
mod raw;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, setpriority_process};
use rustix::thread::{CpuSet, MembarrierCommand, membarrier, sched_setaffinity};
use socket2::Socket;

use raw::with_first_limits;

pub use allocator::CountingAllocator;
#[cfg(feature = "internals")]
pub use clock::set_unix_time;
pub use clock::{now, since, unix_time};
pub use descriptors::{Descriptors, KEPT_BACK, OF_EACH_PORT, Permit, count_own_descriptors, raise_descriptor_limit};
pub use files::{read_regular, read_text, read_text_or_pipe};
pub use memory::{Available, live_bytes, private_bytes, resident_bytes};
pub use passed::{
    MOST_PASSED, close_untaken, close_unwanted, kept_name, message_pair, message_socket_of_input, offer_socket,
    receive_with_descriptors, send_with_descriptors, take_bound, wait_for_end,
};
pub use raw::{
    BATCH_DATAGRAMS, Batch, Datagram, Outgoing, SocketMemory, realtime_thread, receive_coalesced, return_memory,
    send_batch, send_segmented, socket_memory, survive_file_size_limit, trim,
};

/// Most segments the kernel splits one send into (`UDP_MAX_SEGMENTS`, 64 before Linux 6.7).
pub const MAX_SEGMENTS: usize = 64;

/// Sets the receive buffer, beyond `net.core.rmem_max` if `force` and allowed. Returns what the kernel granted, in bytes of
/// its own accounting (it doubles the value).
///
/// # Errors
/// What the kernel says.
pub fn set_receive_buffer(socket: &Socket, bytes: u64, force: bool) -> io::Result<u64> {
    let wanted = i32::try_from(bytes).unwrap_or(i32::MAX) as usize;
    if !(force && set_socket_recv_buffer_size_force(socket, wanted).is_ok()) {
        socket.set_recv_buffer_size(wanted)?;
    }
    Ok(socket.recv_buffer_size()? as u64)
}

/// Lets a receive on an empty socket poll the device for some microseconds (`SO_BUSY_POLL`).
///
/// # Errors
/// If it is not allowed.
pub fn busy_poll(socket: &Socket, microseconds: u32) -> io::Result<()> {
    socket.set_busy_poll(microseconds.min(i32::MAX as u32))
}

/// Waits until one of two descriptors is readable, or closed at its other end.
///
/// # Errors
/// What the kernel says; `Interrupted` by a signal.
pub fn wait_readable(first: &impl AsFd, second: &impl AsFd) -> io::Result<()> {
    let mut watched = [PollFd::new(first, PollFlags::IN), PollFd::new(second, PollFlags::IN)];
    poll(&mut watched, None)?;
    Ok(())
}

/// Waits until a write would not block, with a timeout; returns whether that is so. A descriptor that cannot be polled
/// counts as writable, and a signal may end the wait early.
pub fn wait_writable(fd: &impl AsFd, longest: Duration) -> bool {
    // Without a timeout if it is longer than the kernel can represent.
    let longest = Timespec::try_from(longest).ok();
    poll(&mut [PollFd::new(fd, PollFlags::OUT)], longest.as_ref()) != Ok(0)
}

/// Keeps the calling thread on one core, counted from 0.
///
/// # Errors
/// If there is no such core, or it is not allowed.
pub fn pin_thread(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(rustix::io::Errno::INVAL.into());
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Offers the sockets that the service manager has kept since an earlier process to whoever binds their addresses, which are
/// returned.
pub fn offer_kept_sockets() -> Vec<String> {
    // Without a service manager there are none.
    let Ok(passed) = sd_notify::listen_fds_with_names() else { return Vec::new() };
    let mut addresses = Vec::new();
    for (fd, name) in passed.filter(|(_, name)| passed::is_kept_name(name)) {
        let Some(socket) = raw::adopt_passed(fd) else { continue };
        if let Ok(address) = socket.local_addr() {
            let path = address.as_pathname().map(|path| path.display().to_string());
            addresses.extend(address.as_socket().map(|address| address.to_string()).or(path));
        }
        offer_socket(&name, socket.into());
    }
    addresses
}

/// The socket that the service manager has opened (systemd's socket activation, sd_listen_fds(3)), by its name or its
/// number from 0, or that the process before this one has handed over. Each is returned once.
///
/// # Errors
/// If there is none of that name.
pub fn inherited_socket(name: &str) -> io::Result<Socket> {
    if let Some(socket) = passed::take_named(name) {
        return Ok(socket);
    }
    let passed: Vec<_> = sd_notify::listen_fds_with_names()?.collect();
    let named = passed.iter().enumerate().filter(|(n, (_, own))| own == name || n.to_string() == name);
    if let Some(socket) = named.map(|(_, (fd, _))| *fd).find_map(raw::adopt_passed) {
        return Ok(socket);
    }
    let names: Vec<&str> = passed.iter().map(|(_, own)| own.as_str()).collect();
    let known = match names.len() {
        0 => "none was passed".to_string(),
        count => format!("{count} were passed: {}", names.join(", ")),
    };
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no socket `{name}` was passed; {known}")))
}

/// Sends a signal to a process.
///
/// # Errors
/// If the process is gone, or belongs to another user.
pub fn signal_process(pid: u32, signal: i32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    let signal = Signal::from_named_raw(signal).ok_or(rustix::io::Errno::INVAL)?;
    Ok(kill_process(pid, signal)?)
}

/// Kills a group of processes, by the number of the one that leads it.
///
/// # Errors
/// If nobody is in it any more, or they belong to another user.
pub fn kill_group(leader: u32) -> io::Result<()> {
    let leader = i32::try_from(leader).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    Ok(kill_process_group(leader, Signal::KILL)?)
}

/// Variables that a command inherits, beside `LC_…`.
const INHERITED: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"];

/// A command without a shell, with the limits that this process was started with, the part of its environment that says where
/// and how programs run, and these variables.
pub fn command_of(program: &str, arguments: &[String], env: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(program);
    with_first_limits(&mut command);
    command.args(arguments).env_clear().envs(least_environment()).envs(env);
    command
}

/// The part of our environment that says where and how programs run; the rest may hold secrets.
fn least_environment() -> impl Iterator<Item = (OsString, OsString)> {
    let is_inherited =
        |name: &OsStr| name.to_str().is_some_and(|name| INHERITED.contains(&name) || name.starts_with("LC_"));
    std::env::vars_os().filter(move |(name, _)| is_inherited(name))
}

/// Lowers the priority of the calling thread by 10 steps of `nice`.
pub fn yielding_thread() {
    // On Linux the priority is per thread, here the calling one. Lowering it is always allowed.
    let _ = setpriority_process(None, 10);
}

/// Waits until no processor is still delivering a datagram to a socket that it looked up before this call: until each has
/// passed a quiescent state (`membarrier`(2), 5 to 40 ms). Where the kernel refuses that, it pauses instead.
pub fn await_deliveries() {
    /// Longer than any processor spends on one datagram.
    const PAUSE: Duration = Duration::from_millis(10);
    if membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(PAUSE);
    }
}

/// Bytes that a stream has received and that are not read yet (`FIONREAD`); 0 if that is not known.
pub fn unread_bytes(stream: &impl AsFd) -> usize {
    rustix::io::ioctl_fionread(stream).map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0))
}

/// Reads from a descriptor that does not block, whatever a runtime knows of it.
///
/// # Errors
/// `WouldBlock` if there is nothing, or what the kernel says.
pub fn read_directly(from: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(from, buffer)?)
}

/// Whether the kernel may let only one socket of a kind listen at both addresses. A port that it chooses is another one.
pub fn may_collide(one: &SocketAddr, other: &SocketAddr) -> bool {
    // A socket of `[::]` takes IPv4, too; one of `0.0.0.0` takes nothing of IPv6.
    let takes = |one: IpAddr, other: IpAddr| one == other || one.is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    let is_same = takes(one.ip(), other.ip()) || takes(other.ip(), one.ip());
    one.port() == other.port() && one.port() != 0 && is_same
}

/// The host name, never empty.
///
/// # Errors
/// The kernel's error, or that there is no name.
pub fn host_name() -> io::Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().trim().to_string();
    if name.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, "it has none")) } else { Ok(name) }
}

/// The name of a process, as `ps` shows it; `None` if there is none with this number any more, or it cannot be seen.
pub fn process_name(pid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = String::from_utf8_lossy(name.trim_ascii()).into_owned();
    (!name.is_empty()).then_some(name)
}
