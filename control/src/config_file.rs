//! `--config FILE.toml`: settings in a file. Flags win over environment variables, these over the file.
//!
//! A key of the file is a flag without its dashes (`key_file` for `--key-file`); what the program does not know fails, as
//! an unknown flag does. Pure but for reading the file: it turns the file into flags that stand before the given ones.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Command;

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read --config {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("--config {path} is not TOML: {reason}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// It holds a key that is no setting.
    #[error("--config {path}: unknown key `{key}`; known are {known}")]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: String,
        /// What it may hold.
        known: String,
    },
    /// A value that a flag cannot take.
    #[error(
        "--config {path}: `{key}` is a {found}; expected text, a number, true or false, or a list of these"
    )]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: String,
        /// What it is.
        found: &'static str,
    },
}

/// The arguments of this process with the settings of its `--config` file put in, if it names one.
///
/// `command` is the whole command line's definition, `is_set` tells whether an environment variable is set.
///
/// # Errors
/// If the file cannot be used; the error says what would be right.
pub fn expand(
    command: &Command,
    args: Vec<OsString>,
    is_set: impl Fn(&str) -> bool,
) -> Result<Vec<OsString>, Error> {
    let Some(path) = named(&args) else { return Ok(args) };
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| Error::Syntax { path: path.clone(), reason: error.to_string() })?;
    // Flags of a subcommand stand behind its name.
    let (at, definition) = args
        .iter()
        .enumerate()
        .skip(1)
        .find_map(|(at, arg)| Some((at + 1, command.find_subcommand(arg)?)))
        .unwrap_or((1, command));
    let given: Vec<_> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let mut flags = Vec::new();
    for (key, value) in &table {
        let long = key.replace('_', "-");
        let arg = definition
            .get_arguments()
            .find(|arg| arg.get_long() == Some(long.as_str()) && long != "config")
            .ok_or_else(|| Error::UnknownKey {
                path: path.clone(),
                key: key.clone(),
                known: known(definition),
            })?;
        let flag = format!("--{long}");
        let on_line = given.iter().any(|arg| *arg == flag || arg.starts_with(&format!("{flag}=")));
        let in_environment = arg.get_env().and_then(|name| name.to_str()).is_some_and(&is_set);
        if !on_line && !in_environment {
            flags.extend(as_flags(&flag, value, &path, key)?);
        }
    }
    Ok([&args[..at], &flags, &args[at..]].concat())
}

fn named(args: &[OsString]) -> Option<PathBuf> {
    // What stands behind `--` belongs to another program.
    let mut args = args.iter().take_while(|arg| *arg != "--");
    while let Some(arg) = args.next() {
        if arg == "--config" {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    None
}

fn known(definition: &Command) -> String {
    let names: Vec<_> = definition
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .filter(|long| !matches!(*long, "config" | "help" | "version"))
        .map(|long| long.replace('-', "_"))
        .collect();
    names.join(", ")
}

fn as_flags(
    flag: &str,
    value: &toml::Value,
    path: &std::path::Path,
    key: &str,
) -> Result<Vec<OsString>, Error> {
    let wrong = |found| Error::Value { path: path.to_owned(), key: key.to_owned(), found };
    Ok(match value {
        toml::Value::String(text) => vec![format!("{flag}={text}").into()],
        toml::Value::Integer(number) => vec![format!("{flag}={number}").into()],
        toml::Value::Boolean(true) => vec![flag.into()],
        toml::Value::Boolean(false) => Vec::new(),
        toml::Value::Array(items) => {
            let each: Result<Vec<_>, _> = items.iter().map(|item| as_flags(flag, item, path, key)).collect();
            each?.concat()
        }
        toml::Value::Float(_) => return Err(wrong("fraction")),
        toml::Value::Datetime(_) => return Err(wrong("date")),
        toml::Value::Table(_) => return Err(wrong("table")),
    })
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn command() -> Command {
        let flag = |name: &'static str, env: &'static str| Arg::new(name).long(name).env(env).num_args(1);
        Command::new("x").subcommand(
            Command::new("serve")
                .arg(flag("listen", "X_LISTEN"))
                .arg(flag("key-file", "X_KEY_FILE"))
                .arg(flag("config", "X_CONFIG")),
        )
    }

    fn expanded(toml: &str, line: &str, is_set: impl Fn(&str) -> bool) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, toml).unwrap();
        let args = line.split(' ').map(OsString::from).chain(["--config".into(), file.into()]).collect();
        let args = expand(&command(), args, is_set).map_err(|error| error.to_string())?;
        Ok(args[..args.len() - 2].iter().map(|arg| arg.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let toml = "listen = \"a:1\"\nkey_file = \"f\"";
        assert_eq!(
            expanded(toml, "x serve", |_| false).unwrap(),
            ["x", "serve", "--key-file=f", "--listen=a:1"]
        );
        let line = "x serve --listen b:2";
        assert_eq!(
            expanded(toml, line, |_| false).unwrap(),
            ["x", "serve", "--key-file=f", "--listen", "b:2"]
        );
        assert_eq!(
            expanded(toml, "x serve", |name| name == "X_LISTEN").unwrap(),
            ["x", "serve", "--key-file=f"]
        );
    }

    #[test]
    fn another_programs_config_is_not_ours() {
        let args: Vec<OsString> =
            "x child -- nats-server --config n.conf".split(' ').map(OsString::from).collect();
        assert_eq!(expand(&command(), args.clone(), |_| false).unwrap(), args);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let unknown = expanded("lisen = \"a\"", "x serve", |_| false).unwrap_err();
        assert!(unknown.contains("unknown key `lisen`") && unknown.contains("listen, key_file"), "{unknown}");
        assert!(expanded("listen = 1.5", "x serve", |_| false).unwrap_err().contains("fraction"));
        assert!(expanded("= 3", "x serve", |_| false).unwrap_err().contains("not TOML"));
    }
}
