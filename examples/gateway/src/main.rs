//! `presence-gateway [NATS URL] [ADDRESS]`: serves WebSockets until Ctrl-C or SIGTERM.

use presence_gateway::Gateway;
use presenced_client::{Service, Signals};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let (options, signals) = Signals::tap(async_nats::ConnectOptions::new(), |_| async {});
    let presence = Service::builder(options.connect(url).await?).signals(signals).build();
    let gateway = Gateway::new(presence, "gateway")?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        served = axum::serve(listener, gateway.router()) => served?,
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
    // Sockets that are still open end with the process. Their users stay online for a lease, so
    // that those who come back to the next gateway are never seen offline.
    Ok(gateway.hand_over().await?)
}
