//! Where a read model is: addresses, and how they are shown. Never shows a password.

use super::Error;

/// How the address of a SQLite file begins.
pub(super) const SQLITE: &str = "sqlite://";
/// How the address of a PostgreSQL database begins.
pub(super) const POSTGRES: [&str; 2] = ["postgres://", "postgresql://"];

/// The address may not be shown as it is: this is.
pub(super) fn error(url: &str, why: &str) -> Error {
    Error::Address { url: without_userinfo(url), why: why.to_owned() }
}

/// The address as it may be shown: what stands before `@` in its authority (RFC 3986, section 3.2.1) is left out, and
/// so are the values of its parameters, which may hold a password as well. Works on what is no valid address, too.
fn without_userinfo(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    // A password may hold anything, a slash or a question mark included, if nobody checks; a host never holds an @.
    let behind = rest.rsplit_once('@').map_or(rest, |(_, behind)| behind);
    let (place, parameters) =
        behind.split_once(['?', '#']).map_or((behind, ""), |(place, _)| (place, "?***"));
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    format!("{scheme}{place}{parameters}")
}

#[cfg(test)]
mod tests {
    use super::super::open;

    #[tokio::test]
    async fn an_address_that_is_refused_is_shown_without_its_password() {
        for (url, shown) in [
            ("mysql://lw:s3cret@db/lw", "mysql://db/lw"),
            ("mysql://lw:s3c/r@et@db:5432/lw", "mysql://db:5432/lw"),
            ("mysql://lw:s3c?r#et@db:5432/lw", "mysql://db:5432/lw"),
            ("mysql://db/lw?password=s3cret", "mysql://db/lw?***"),
            ("mysql://db/lw?password=s3c@ret", "mysql://ret"),
            ("lw:s3cret@db", "db"),
            ("sqlite://", "sqlite://"),
            ("postgres://lw:s3cret@db:port/lw", "postgres://db:port/lw"),
            ("postgres://lw:s3cret@db/lw?s3cret=s3cret", "postgres://db/lw?***"),
            ("postgres://db/lw?sslmode=s3cret", "postgres://db/lw?***"),
            ("postgresql://lw:s3c/ret@db/lw", "postgresql://db/lw"),
        ] {
            let error = open(url).await.err().unwrap();
            let (text, debug) = (error.to_string(), format!("{error:?}"));
            assert!(text.contains(&format!("`{shown}`")), "{text}");
            assert!(!text.contains("s3c") && !debug.contains("s3c"), "{text} {debug}");
        }
    }
}
