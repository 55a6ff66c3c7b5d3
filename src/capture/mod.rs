//! Captures: the wire with its times, as `systole capture` writes it and `systole replay` reads it. The format is
//! described in [`reader`]; [`writer`] writes it without ever making a receive worker wait.

pub mod hex;
pub mod reader;
pub mod writer;

pub use writer::{CaptureCounter, CaptureSummary, CaptureWriter, start};
