//! Environment variables: an empty variable counts as unset, and white space around a value is
//! ignored.

use std::str::FromStr;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _};

use crate::Cli;

/// Returns the command line, ignoring empty environment variables.
pub(crate) fn command() -> Command {
    without_blank_variables(Cli::command())
}

fn without_blank_variables(command: Command) -> Command {
    let subcommands: Vec<String> = command
        .get_subcommands()
        .map(|subcommand| subcommand.get_name().to_owned())
        .collect();
    let command = command.mut_args(|arg| {
        if has_blank_variable(&arg) {
            arg.env(None::<&'static str>)
        } else {
            arg
        }
    });
    subcommands.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, without_blank_variables)
    })
}

fn has_blank_variable(arg: &Arg) -> bool {
    let value = arg.get_env().and_then(std::env::var_os);
    value.is_some_and(|value| value.to_str().is_some_and(|text| text.trim().is_empty()))
}

/// Parses the command line and the environment; prints an error and exits if either is invalid.
pub(crate) fn parse() -> Cli {
    let matches = command()
        .try_get_matches()
        .unwrap_or_else(|error| exit_with(&error));
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| exit_with(&error))
}

/// Prints a command-line error, with the variable that the value came from, and exits.
fn exit_with(error: &clap::Error) -> ! {
    let variable = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(shown)) => variable_of(shown),
        _ => None,
    };
    if let Some(variable) = variable {
        let _ = error.print();
        eprintln!("\nthe value comes from the environment variable {variable}");
        std::process::exit(error.exit_code());
    }
    error.exit()
}

/// Returns the variable that an argument, shown as `--listen <ADDRESS>`, took its value from.
fn variable_of(shown: &str) -> Option<String> {
    let flag = shown.split([' ', '=']).next()?;
    let with_value = format!("{flag}=");
    if std::env::args().any(|given| given == flag || given.starts_with(&with_value)) {
        return None;
    }
    let long = flag.strip_prefix("--")?;
    variable_in(&Cli::command(), long)
}

fn variable_in(command: &Command, long: &str) -> Option<String> {
    let here = command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(long) && arg.get_env().is_some());
    let name = here.and_then(|arg| Some(arg.get_env()?.to_string_lossy().into_owned()));
    name.or_else(|| {
        command
            .get_subcommands()
            .find_map(|subcommand| variable_in(subcommand, long))
    })
}

/// Parses a value without the white space around it.
pub(crate) fn trimmed<T>(text: &str) -> Result<T, T::Err>
where
    T: FromStr,
{
    text.trim().parse()
}

/// Parses one of a fixed set of words, like [`trimmed`].
pub(crate) fn trimmed_word<T: clap::ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text.trim(), true).map_err(|_| {
        let words = T::value_variants()
            .iter()
            .filter_map(clap::ValueEnum::to_possible_value);
        let words: Vec<String> = words.map(|word| word.get_name().to_owned()).collect();
        format!("expected one of {}", words.join(", "))
    })
}
