//! The `systole` command.

/// Counts the bytes that live, which decide what has to give way.
#[global_allocator]
static ALLOCATOR: systole::CountingAllocator = systole::CountingAllocator;

fn main() -> std::process::ExitCode {
    systole::command_line()
}
