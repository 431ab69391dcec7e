//! What a worker is told of giving out recorded video: where it listens, and how viewers reach that.

use std::net::SocketAddr;

use clap::Args;

use super::{Error, invalid};
use crate::media_server::Settings;

const LISTEN: &str = "--media-listen";
const URL: &str = "--media-url";

/// Flags for it.
#[derive(Debug, Default, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Address and port on which recorded video is given out over HTTP, to whoever holds an address that control signed;
    /// port 0: a free one [default: nowhere]
    #[arg(long, env = "LONGWATCH_MEDIA_LISTEN", value_name = "ADDR:PORT")]
    pub(super) media_listen: Option<String>,
    /// How viewers reach it, through a proxy that adds TLS for instance: https://host:port. Required if it listens on all
    /// addresses [default: http:// and the address it listens on]
    #[arg(long, env = "LONGWATCH_MEDIA_URL", value_name = "URL")]
    pub(super) media_url: Option<String>,
}

impl Arguments {
    /// These, and where they say nothing what `others` say.
    pub(super) fn or(self, others: Self) -> Self {
        Self {
            media_listen: self.media_listen.or(others.media_listen),
            media_url: self.media_url.or(others.media_url),
        }
    }

    /// What they mean; `None`: nothing is given out.
    pub(super) fn check(self) -> Result<Option<Settings>, Error> {
        let url = self.media_url.map(|text| url(&text)).transpose()?;
        let Some(listen) = self.media_listen else {
            return match url {
                None => Ok(None),
                Some(_) => {
                    invalid(URL, "it is for a server that gives out video: expected --media-listen, too")
                }
            };
        };
        let listen = address(&listen)?;
        if url.is_none() && listen.ip().is_unspecified() {
            let port = listen.port();
            let detail = format!(
                "{listen} is every address of this machine, and none that viewers could be told: expected --media-url, \
                 e.g. http://192.0.2.7:{port}, or one address to listen on"
            );
            return invalid(LISTEN, detail);
        }
        Ok(Some(Settings { listen, url }))
    }
}

fn address(text: &str) -> Result<SocketAddr, Error> {
    let detail =
        || format!("`{text}`: expected an address and a port, e.g. 192.0.2.7:8081 or [2001:db8::7]:8081");
    text.parse().or_else(|_| invalid(LISTEN, detail()))
}

/// The URL as it is told, without a `/` at its end.
fn url(text: &str) -> Result<String, Error> {
    let wrong = |what: &str| {
        invalid(
            URL,
            format!("`{text}` {what}: expected scheme and host only, e.g. https://video.example.com:8443"),
        )
    };
    let Ok(url) = url::Url::parse(text) else { return wrong("is no URL") };
    if !url.username().is_empty() || url.password().is_some() {
        return invalid(URL, "expected no user and no password in it: every viewer is told this URL");
    }
    if !matches!(url.scheme(), "http" | "https") {
        return wrong("is neither http:// nor https://");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return wrong("names no host");
    }
    if url.path() != "/" {
        return wrong("has a path");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("has a query or a fragment");
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(listen: Option<&str>, url: Option<&str>) -> Result<Option<Settings>, String> {
        let arguments =
            Arguments { media_listen: listen.map(str::to_owned), media_url: url.map(str::to_owned) };
        arguments.check().map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_is_given_out_unless_it_is_said_where() {
        assert_eq!(told(None, None), Ok(None));
        let settings = told(Some("127.0.0.1:0"), None).unwrap().unwrap();
        assert_eq!(settings, Settings { listen: "127.0.0.1:0".parse().unwrap(), url: None });
        for listen in ["0.0.0.0:8081", "[::]:8081"] {
            let settings = told(Some(listen), Some("https://Video.example.com:443/")).unwrap().unwrap();
            assert_eq!(settings.listen, listen.parse().unwrap());
            assert_eq!(settings.url.as_deref(), Some("https://video.example.com"));
        }
    }

    #[test]
    fn it_is_told_in_the_file_as_in_flags() {
        let text = "nats = 'nats://a'\nname = 'w'\narchive = '/a'\njoin_key_file = '/k'\n";
        let told = |more: &str| crate::config::Config::from_toml(&format!("{text}{more}"));
        assert_eq!(told("").unwrap().media, None);
        let media = told("media_listen = '0.0.0.0:81'\nmedia_url = 'http://a/'").unwrap().media.unwrap();
        assert_eq!((media.listen.port(), media.url.as_deref()), (81, Some("http://a")));
        assert!(told("media_listen = '0.0.0.0:81'").is_err());
    }

    #[test]
    fn flags_win_over_others() {
        let flags = Arguments { media_listen: Some("127.0.0.1:1".to_owned()), media_url: None };
        let others = Arguments {
            media_listen: Some("127.0.0.1:2".to_owned()),
            media_url: Some("http://a".to_owned()),
        };
        let settings = flags.or(others).check().unwrap().unwrap();
        assert_eq!((settings.listen.port(), settings.url.as_deref()), (1, Some("http://a")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let here = Some("127.0.0.1:0");
        for (listen, url, expected) in [
            (Some("8081"), None, "expected an address and a port"),
            (Some("localhost:8081"), None, "expected an address and a port"),
            (Some("0.0.0.0:8081"), None, "expected --media-url, e.g. http://192.0.2.7:8081"),
            (Some("[::]:8081"), None, "expected --media-url"),
            (None, Some("http://a"), "expected --media-listen"),
            (here, Some("a"), "is no URL"),
            (here, Some("ftp://a"), "neither http:// nor https://"),
            (here, Some("http://"), "is no URL"),
            (here, Some("http://a/b"), "has a path"),
            (here, Some("http://a?b"), "has a query"),
            (here, Some("http://a#b"), "has a query or a fragment"),
            (here, Some("http://u:p@a"), "no password"),
        ] {
            let error = told(listen, url).unwrap_err();
            assert!(error.contains(expected), "{listen:?} {url:?}: {error}");
        }
    }
}
