//! How many files and sockets this process may have open at once. Cameras, segments, and viewers share them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many it may have; `None`: any number.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Takes as many as the system gives without being asked by an administrator: what a process gets at first is often 1,024, for
/// the sake of programs that this one is none of.
pub fn raise_limit() {
    let Rlimit { current: before, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is; expected a higher one for many cameras");
    }
    let said = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    tracing::info!(
        files = said(limit()),
        before = said(before),
        "files and sockets that may be open at once"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_may_be_had_are_taken() {
        raise_limit();
        assert_eq!(limit(), getrlimit(Resource::Nofile).maximum);
    }
}
