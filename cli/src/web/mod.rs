//! `web`: a page to look at, on this machine only. The browser never holds credentials of NATS.

mod api;
mod demo;
mod guard;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use clap::Args;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::live::Live;
use crate::output::{line, note};
use crate::session::{Door, Session, interrupted};
use api::Page;
use demo::Demo;
use guard::Guard;

/// The time that the deletion of the lively users may take at the end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Args)]
pub struct Web {
    /// The address of the page: one of this machine itself
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Let the page change and delete users
    #[arg(long)]
    write: bool,
    /// Two lively users to play with
    #[arg(long, requires = "write")]
    demo: bool,
    /// Open it in the browser
    #[arg(long)]
    open: bool,
}

impl Web {
    pub async fn run(self, session: Session) -> Result<(), Failure> {
        if !self.listen.ip().is_loopback() {
            let text = "the page has no login of its own: it listens on 127.0.0.1 or [::1] only";
            return Err(Failure::usage(text));
        }
        let door = Door::Service(session.service()?);
        let listener = TcpListener::bind(self.listen).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {}: {error}", self.listen))
        })?;
        let guard = Guard::new(listener.local_addr()?)?;
        let demo = if self.demo { Some(Demo::start(session.service()?).await?) } else { None };
        let live = Live::new();
        let session = Arc::new(session);
        let page = Page {
            door: Arc::new(door),
            live: Arc::clone(&live),
            session: Arc::clone(&session),
            write: self.write,
            demo: demo.clone(),
        };
        line(&guard.url())?;
        note("the address is a secret: it shows who is online. Ctrl-C ends the page");
        if self.open {
            open(&guard.url());
        }
        let served =
            async { axum::serve(listener, router(page, guard)).await.map_err(Failure::from) };
        let done = tokio::select! {
            served = served => served,
            ended = alive(&live, &session) => ended,
            () = interrupted() => Err(Failure::Interrupted),
        };
        if let Some(demo) = demo {
            // Without an answer they lapse; they are nobody's.
            let _ = timeout(END_TIMEOUT, demo.end()).await;
        }
        done
    }
}

/// Keeps the picture up to date, and says on the terminal when there is nothing to show yet.
async fn alive(live: &Live, session: &Session) -> Result<(), Failure> {
    let door = session.door()?;
    let look = async {
        if let Err(error) = door.check_served().await {
            let failure = session.explain(error.into()).with_advice(&session.events);
            note(&format!("the page has nothing to show yet: {failure}"));
        }
        Ok(())
    };
    tokio::try_join!(look, live.run(session)).map(|_| ())
}

fn open(url: &str) {
    if Command::new("xdg-open").arg(url).spawn().is_err() {
        note("no xdg-open here: open the address by hand");
    }
}

fn router(page: Page, guard: Guard) -> Router {
    Router::new()
        .route("/", asset("text/html; charset=utf-8", include_str!("../../web/index.html")))
        .route(
            "/page.js",
            asset("text/javascript; charset=utf-8", include_str!("../../web/page.js")),
        )
        .route(
            "/views.js",
            asset("text/javascript; charset=utf-8", include_str!("../../web/views.js")),
        )
        .route("/dom.js", asset("text/javascript; charset=utf-8", include_str!("../../web/dom.js")))
        .route("/page.css", asset("text/css; charset=utf-8", include_str!("../../web/page.css")))
        .route("/icon.svg", asset("image/svg+xml", include_str!("../../web/icon.svg")))
        .route("/api/overview", get(api::overview))
        .route("/api/changes", get(api::changes))
        .route("/api/users", get(api::users))
        .route("/api/channels", get(api::channels))
        .route("/api/user", get(api::user))
        .route("/api/set", post(api::set))
        .route("/api/delete", post(api::delete))
        .route("/api/demo", post(api::demo))
        .with_state(page)
        .layer(from_fn_with_state(guard, guard::check))
}

fn asset<S: Clone + Send + Sync + 'static>(
    kind: &'static str,
    text: &'static str,
) -> axum::routing::MethodRouter<S> {
    get(move || async move { ([(CONTENT_TYPE, kind)], text).into_response() })
}
