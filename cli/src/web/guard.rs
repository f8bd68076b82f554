//! Access to the page: only with the token, from the page itself, and by its own name.
//!
//! The page listens on loopback, where every program of the machine and every page in a browser can
//! reach it. `Host` is checked against names that others give to this address (DNS rebinding).
//! `Origin` and `Sec-Fetch-Site` are checked against pages of others. The cookie keeps out all
//! else.

use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const HEADERS: [(header::HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

#[derive(Clone)]
pub struct Guard {
    token: String,
    cookie: String,
    hosts: [String; 2],
}

impl Guard {
    pub fn new(address: SocketAddr) -> std::io::Result<Self> {
        let mut random = [0; 16];
        // So few bytes come at once, or not at all.
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let port = address.port();
        Ok(Self {
            token,
            // Cookies do not tell ports apart.
            cookie: format!("presencectl-{port}"),
            hosts: [address.to_string(), format!("localhost:{port}")],
        })
    }

    /// The address to open.
    pub fn url(&self) -> String {
        format!("http://{}/?token={}", self.hosts[0], self.token)
    }

    fn is_own_host(&self, host: Option<&HeaderValue>) -> bool {
        let host = host.and_then(|host| host.to_str().ok());
        host.is_some_and(|host| self.hosts.iter().any(|own| own == host))
    }

    fn is_own_page(&self, headers: &HeaderMap) -> bool {
        let text =
            |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
        let origin = text(header::ORIGIN).is_none_or(|origin| {
            let host = origin.strip_prefix("http://");
            host.is_some_and(|host| self.hosts.iter().any(|own| own == host))
        });
        let site = text(header::HeaderName::from_static("sec-fetch-site"));
        origin && site.is_none_or(|site| matches!(site, "same-origin" | "none"))
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let cookies =
            headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name == self.cookie && same(value, &self.token))
    }

    fn has_token(&self, uri: &Uri) -> bool {
        let query = uri.query().unwrap_or_default();
        uri.path() == "/"
            && query.strip_prefix("token=").is_some_and(|token| same(token, &self.token))
    }
}

/// Takes the same time wherever they differ.
fn same(left: &str, right: &str) -> bool {
    left.len() == right.len()
        && left.bytes().zip(right.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Before anything is answered.
pub async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let mut response = if !guard.is_own_host(headers.get(header::HOST)) {
        refuse("this is not the name of this page")
    } else if guard.has_token(request.uri()) {
        let cookie = format!("{}={}; Path=/; HttpOnly; SameSite=Strict", guard.cookie, guard.token);
        let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, "/".to_owned())];
        (StatusCode::SEE_OTHER, headers).into_response()
    } else if !guard.is_own_page(headers) {
        refuse("this is not asked by the page itself")
    } else if !guard.has_cookie(headers) {
        refuse("open the address that `presencectl web` has printed")
    } else {
        next.run(request).await
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

pub fn refuse(why: &'static str) -> Response {
    (StatusCode::FORBIDDEN, format!("{why}\n")).into_response()
}
