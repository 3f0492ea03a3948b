// What the workers for Rust share of the workers' protocol (see test/perl/Worker.pm).

use std::env;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, NoTls};

pub fn say(words: &[&str]) {
    println!("{}", words.join("\t"));
}

/// A connection, and the task that runs it.
pub async fn connect() -> Result<(Client, JoinHandle<()>), Error> {
    let [host, port, user, database] = ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE"].map(|name| env::var(name).unwrap());
    let parameters = format!("host={host} port={port} user={user} dbname={database}");
    let (client, connection) = tokio_postgres::connect(&parameters, NoTls).await?;
    Ok((client, tokio::spawn(async { connection.await.unwrap_or(()) })))
}
