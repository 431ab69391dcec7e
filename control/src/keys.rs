//! Keys that stand in files: the provider's API key and the join key of workers.
//!
//! A key file is made on first start, readable by its owner only, and whole from the moment it exists: replicas that
//! start at once on a shared folder all end up with the same key.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rand::RngExt as _;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A key as text. A secret: no `Debug`, no `Display`, no `Serialize`; compared in constant time.
#[derive(Clone)]
pub struct Key(Zeroizing<String>);

impl Key {
    /// Wraps a key that was read elsewhere.
    pub fn from_text(text: &str) -> Self {
        Self(Zeroizing::new(text.trim().to_owned()))
    }

    /// Whether `presented` is this key. Takes as long for a wrong key as for the right one.
    pub fn matches(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }

    /// The bytes, to key an HMAC with.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read or made.
    #[error("cannot {what} key file {path}: {source}")]
    Io {
        /// `read` or `create`.
        what: &'static str,
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It holds too little to be a key.
    #[error(
        "key file {path} holds {length} characters; expected at least 32 (remove the file to have a new key made)"
    )]
    TooShort {
        /// Which file.
        path: String,
        /// How many it holds.
        length: usize,
    },
}

/// Whether a key was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The file was there.
    Found,
    /// It was made now.
    Created,
}

/// Reads the key in `path`, or makes one: `prefix` and 256 random bits as hexadecimal digits.
///
/// # Errors
/// If the file can be neither read nor made, or holds too little.
pub fn load_or_create(path: &Path, prefix: &str) -> Result<(Key, Origin), Error> {
    let origin = if path.exists() {
        Origin::Found
    } else {
        let text = Zeroizing::new(format!("{prefix}{}\n", hex::encode(rand::rng().random::<[u8; 32]>())));
        create(path, text.as_bytes()).map_err(io_error("create", path))?
    };
    Ok((load(path)?, origin))
}

/// Reads the key in `path`, and makes none.
///
/// # Errors
/// If the file cannot be read, or holds too little.
pub fn load(path: &Path) -> Result<Key, Error> {
    let text = Zeroizing::new(fs::read_to_string(path).map_err(io_error("read", path))?);
    let key = Key::from_text(&text);
    match key.0.len() {
        length if length < 32 => Err(Error::TooShort { path: path.display().to_string(), length }),
        _ => Ok(key),
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, path: path.display().to_string(), source }
}

/// Makes `path` with `content` unless it exists; never leaves a half-written file under that name.
pub(crate) fn create(path: &Path, content: &[u8]) -> io::Result<Origin> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let unfinished = path.with_extension(format!("new-{}", std::process::id()));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    // A hard link fails if the name is taken, so of several writers one wins and the others read its key.
    let linked = fs::hard_link(&unfinished, path);
    fs::remove_file(&unfinished)?;
    match linked {
        Ok(()) => {
            fs::File::open(folder)?.sync_all()?;
            Ok(Origin::Created)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Origin::Found),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/provider.key");
        let (_, first) = load_or_create(&path, "lwk_").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let (key, second) = load_or_create(&path, "lwk_").unwrap();
        assert_eq!((first, second), (Origin::Created, Origin::Found));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(key.matches(text.trim()));
        assert!(!key.matches("lwk_"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_short_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        fs::write(&path, "secret\n").unwrap();
        assert!(matches!(load_or_create(&path, ""), Err(Error::TooShort { length: 6, .. })));
    }
}
