//! The `systole` command.

fn main() -> std::process::ExitCode {
    systole::sys::return_memory();
    systole::cli::main()
}
