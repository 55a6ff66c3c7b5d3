//! The `systole` command.

fn main() -> std::process::ExitCode {
    systole::sys::use_one_arena();
    systole::cli::main()
}
