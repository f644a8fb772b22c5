//! Who gets in: whoever was given the URL with the token, and no page of another origin.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::http::{HeaderMap, Uri, header, uri::Authority};

/// The secret of one start of the dashboard, and where it is good.
pub(crate) struct Access {
    /// 256 random bits in hexadecimal.
    token: String,
    listen: SocketAddr,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It shows the cookie: go on.
    Pass,
    /// It brings the token: give it the cookie.
    Enter,
    /// It brings neither.
    Locked,
    /// It was meant for another host: a name that a web page made point here (DNS rebinding).
    WrongHost,
}

impl Access {
    pub(crate) fn new(listen: SocketAddr) -> Self {
        let bits: [u8; 32] = rand::random();
        let token = bits.iter().map(|byte| format!("{byte:02x}")).collect();
        Access { token, listen }
    }

    pub(crate) fn url(&self) -> String {
        let mut address = self.listen;
        if address.ip().is_unspecified() {
            address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        format!("http://{address}/?token={}", self.token)
    }

    /// The `Set-Cookie` that lets a browser in until it is closed or the cluster restarts.
    pub(crate) fn set_cookie(&self) -> String {
        format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie_name(), self.token)
    }

    pub(crate) fn judge(&self, uri: &Uri, headers: &HeaderMap) -> Verdict {
        if !self.is_our_host(uri, headers) {
            return Verdict::WrongHost;
        }
        if uri.path() == "/"
            && let Some(token) = uri.query().into_iter().flat_map(|query| query.split('&')).find_map(token_of)
        {
            return if self.is_token(token) { Verdict::Enter } else { Verdict::Locked };
        }
        // A server on another port of this address is the same site to cookies, but another origin.
        let fetched_by_others = matches!(header(headers, "sec-fetch-site"), Some("same-site" | "cross-site"))
            && header(headers, "sec-fetch-mode") != Some("navigate");
        if !fetched_by_others && self.has_cookie(headers) { Verdict::Pass } else { Verdict::Locked }
    }

    /// Cookies are shared between the ports of an address: the name keeps clusters apart.
    fn cookie_name(&self) -> String {
        format!("coracle-dashboard-{}", self.listen.port())
    }

    fn is_our_host(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(header::HOST).into_iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let Ok(host) = Authority::try_from(host.as_bytes()) else { return false };
        self.is_our_name(host.host()) && uri.host().is_none_or(|host| self.is_our_name(host))
    }

    fn is_our_name(&self, host: &str) -> bool {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.is_loopback() || address == self.listen.ip())
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let name = self.cookie_name();
        let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
        cookies
            .flat_map(|line| line.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .any(|(key, value)| key == name && self.is_token(value))
    }

    /// Takes the same time wherever the first difference is.
    fn is_token(&self, text: &str) -> bool {
        let differences = self.token.bytes().zip(text.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
        text.len() == self.token.len() && std::hint::black_box(differences) == 0
    }
}

fn token_of(parameter: &str) -> Option<&str> {
    parameter.strip_prefix("token=")
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
