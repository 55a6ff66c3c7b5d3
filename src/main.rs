//! The `systole` command.

fn main() -> std::process::ExitCode {
    systole::command_line()
}
