//! `systole man`: manual pages, made of what `--help` knows and of [`man_sections`], one for each command: printed, or written for a package.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, FAILED, USAGE, man_sections, print_error, written};

#[derive(Args)]
pub(super) struct ManArgs {
    /// The command whose page is printed, such as `presence list`; without it that of the program
    command: Vec<String>,
    /// Write the pages of all commands into this folder, as `systole.1`, `systole-run.1` and so on, and print none
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    out: Option<PathBuf>,
}

/// Prints one page, or writes all; the exit code.
pub(super) fn run(args: &ManArgs) -> u8 {
    // `help` has nothing to tell that `--help` does not.
    let mut program = Cli::command().disable_help_subcommand(true);
    // Gives each command its full name.
    program.build();
    match &args.out {
        Some(folder) => match write_all(&program, folder) {
            Ok(()) => 0,
            Err(problem) => {
                print_error(format!("{}: {problem}", folder.display()));
                FAILED
            }
        },
        None => match find(&program, &args.command) {
            Ok(command) => written(&page(command)),
            Err(problem) => {
                print_error(problem);
                USAGE
            }
        },
    }
}

fn find<'a>(program: &'a Command, names: &[String]) -> Result<&'a Command, String> {
    names.iter().try_fold(program, |command, name| {
        command.find_subcommand(name).ok_or_else(|| {
            let known: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
            let of = command.get_bin_name().unwrap_or("systole");
            if known.is_empty() {
                format!("`{of}` has no commands of its own")
            } else {
                format!("`{of}` has no command `{name}`, but {}", known.join(", "))
            }
        })
    })
}

fn write_all(command: &Command, folder: &Path) -> io::Result<()> {
    for inner in command.get_subcommands() {
        write_all(inner, folder)?;
    }
    let name = command.get_display_name().unwrap_or("systole");
    std::fs::write(folder.join(format!("{name}.1")), page(command))
}

fn page(command: &Command) -> Vec<u8> {
    let mut text = Vec::new();
    let man = Man::new(command.clone()).source(concat!("systole ", env!("CARGO_PKG_VERSION"))).manual("Systole");
    // Writing to memory cannot fail.
    let _ = man.render(&mut text);
    let mut more = Roff::new();
    for (head, entries) in man_sections::of(command) {
        more.control("SH", [head]);
        for (name, says) in entries {
            more.control("TP", []);
            more.text([bold(name)]);
            more.text([roman(says)]);
        }
    }
    text.extend_from_slice(more.to_roff().as_bytes());
    text
}
