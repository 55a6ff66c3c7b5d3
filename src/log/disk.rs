//! A disk for tests: it takes as many bytes as it has room for, and then reports that it is full.

use std::io::{self, Write};

/// A file on such a disk.
#[derive(Default)]
pub(crate) struct Disk {
    /// Bytes that are free.
    pub(crate) room: usize,
    /// What was written.
    pub(crate) bytes: Vec<u8>,
    /// A pipe cannot be truncated.
    pub(crate) is_pipe: bool,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let fits = bytes.len().min(self.room);
        self.room -= fits;
        self.bytes.extend_from_slice(&bytes[..fits]);
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
