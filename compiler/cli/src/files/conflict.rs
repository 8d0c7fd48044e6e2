//! Whether the files of a command line can be what they are there for, all together.
//!
//! Invariant: every argument of a command whose type is [`InputPath`] or [`OutputPath`] is compared, so that a new command or option is too.

use std::io;

use clap::{Arg, ArgMatches, Command};

use super::identity::{Identity, of_path, of_stream};
use super::{InputPath, OutputPath, Place};

/// An argument that names a file, or a stream.
struct Named {
    /// Such as `` `--input` in.safetensors ``.
    text: String,
    identity: Identity,
    standard: bool,
}

/// What is wrong with the files of a command line: an output that is read too or written twice, or two inputs from standard input.
pub fn conflict(command: &Command, matches: &ArgMatches) -> Option<String> {
    let (name, matches) = matches.subcommand()?;
    let command = command.find_subcommand(name)?;
    if matches.subcommand().is_some() {
        return conflict(command, matches);
    }
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        // An argument of another type is no file.
        if let Ok(Some(paths)) = matches.try_get_many::<InputPath>(id) {
            inputs.extend(paths.map(|path| named(argument, path, &path.0, &io::stdin())));
        }
        if let Ok(Some(paths)) = matches.try_get_many::<OutputPath>(id) {
            outputs.extend(paths.map(|path| named(argument, path, &path.0, &io::stdout())));
        }
    }
    if let [first, second, ..] = inputs.iter().filter(|input| input.standard).collect::<Vec<_>>()[..] {
        return Some(format!("{} and {}: standard input can be read once only", first.text, second.text));
    }
    for (place, output) in outputs.iter().enumerate() {
        if let Some(input) = inputs.iter().find(|input| input.identity.is_same(&output.identity)) {
            return Some(format!(
                "{} is the file that {} reads, and would overwrite it: give the output another name",
                output.text, input.text
            ));
        }
        let both_standard = |other: &&Named| other.standard && output.standard;
        let other =
            outputs[..place].iter().find(|other| other.identity.is_same(&output.identity) || both_standard(other));
        if let Some(other) = other {
            return Some(format!(
                "{} and {} are the same file, or may be: give them different names",
                other.text, output.text
            ));
        }
    }
    // A shell has opened these, whatever the command is going to say.
    let streams = [("standard output", of_stream(&io::stdout())), ("standard error", of_stream(&io::stderr()))];
    for (stream, identity) in streams {
        if let Some(input) = inputs.iter().find(|input| input.identity.is_same(&identity)) {
            return Some(format!("{stream} goes to the file that {} reads: send it elsewhere", input.text));
        }
        let output = outputs.iter().find(|output| !output.standard && output.identity.is_same(&identity));
        if let Some(output) = output {
            return Some(format!("{stream} goes to the file that {} writes: send it elsewhere", output.text));
        }
    }
    None
}

fn named(argument: &Arg, path: &impl ToString, place: &Place, stream: &impl std::os::fd::AsFd) -> Named {
    let option = match (argument.get_long(), argument.get_value_names()) {
        (Some(long), _) => format!("--{long}"),
        (None, Some([name, ..])) => name.to_string(),
        (None, _) => argument.get_id().as_str().to_uppercase(),
    };
    let (identity, standard) = match place {
        Place::Standard => (of_stream(stream), true),
        Place::File(path) => (of_path(path), false),
    };
    Named { text: format!("`{option} {}`", path.to_string()), identity, standard }
}
