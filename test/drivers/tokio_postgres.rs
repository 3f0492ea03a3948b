// Rust's tokio-postgres. A future that is dropped goes on in the server, and would get its lock there: what ends the
// connection frees it. A key that is an integer wants $1::bigint.

mod worker;

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{future::Future, io::BufRead, pin::Pin};
use tokio::signal::unix::{signal, SignalKind};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{types::ToSql, Client, Error, SimpleQueryMessage};
use worker::say;

// [recipe]
pub struct Session {
    pub client: Client,
    pub connection: JoinHandle<()>, // the task that runs the connection
}

/// Ends the connection, and so what it holds or waits for, unless it is forgotten.
struct Unfinished<'a>(&'a Session);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.connection.abort();
    }
}

pub async fn with_lock<T, E: From<Error>>(
    session: &Session, key: &str, timeout: Option<Duration>, shared: bool, scope: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let client = &session.client;
    let unfinished = Unfinished(session);
    let seconds = timeout.map(|timeout| timeout.as_secs_f64());
    let take = "CALL pglock.lock($1, make_interval(secs => $2), $3, $4)";
    if let Err(error) = client.execute(take, &[&key, &seconds, &shared, &scope]).await {
        std::mem::forget(unfinished);
        return Err(error.into());
    }
    let result = work.await;
    if scope == "session" {
        if result.is_err() {
            client.batch_execute("ROLLBACK").await?;
        }
        client.execute("SELECT pglock.release($1, $2)", &[&key, &shared]).await?;
    }
    std::mem::forget(unfinished);
    result
}
// [end]

async fn example(session: &Session) -> Result<(), Error> {
    // [example]
    with_lock(session, "order:42", Some(Duration::from_secs(5)), false, "session", async {
        session.client.execute("UPDATE orders SET state = 'paid' WHERE id = 42", &[]).await
    })
    .await?;
    // [end]
    Ok(())
}

// a worker: see test/perl/Worker.pm
enum Failure {
    Told,
    GaveUp,
    Sql(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Sql(error)
    }
}

type Outcome = Result<bool, Failure>;

// Does what it is told until the end of the block that it is in: true; or of the input: false.
fn block(session: &Session) -> Pin<Box<dyn Future<Output = Outcome> + '_>> {
    Box::pin(async move {
        let mut line = String::new();
        loop {
            line.clear();
            if std::io::stdin().lock().read_line(&mut line).unwrap() == 0 {
                return Ok(false);
            }
            let words: Vec<&str> = line.trim_end_matches('\n').split('\t').collect();
            if words[0] == "end" {
                return Ok(true);
            }
            match command(session, &words).await {
                Err(Failure::Sql(error)) => say(&["error", error.code().map_or("", |state| state.code())]),
                Err(failure) => return Err(failure),
                Ok(_) => {}
            }
        }
    })
}

async fn command(session: &Session, words: &[&str]) -> Outcome {
    let client = &session.client;
    match words[0] {
        "lock" => {
            let timeout = words[3].parse().ok().map(Duration::from_millis);
            with_lock(session, words[1], timeout, words[4] == "shared", words[5], async {
                say(&["held"]);
                block(session).await
            })
            .await?;
            say(&["released"]);
        }
        "example" => {
            example(session).await?;
            say(&["done"]);
        }
        "transaction" => {
            client.batch_execute("BEGIN").await?;
            say(&["begun"]);
            if let Err(failure) = block(session).await {
                client.batch_execute("ROLLBACK").await?;
                return Err(failure);
            }
            client.batch_execute("COMMIT").await?;
            say(&["committed"]);
        }
        "begin" => {
            client.batch_execute("BEGIN").await?;
            say(&["begun"]);
        }
        "trap" => say(&["trapped", &trap(client, words[1]).await?]),
        "give_up" => {
            let mut told = signal(SignalKind::user_defined2()).unwrap();
            tokio::select! {
                _ = told.recv() => return Err(Failure::GaveUp),
                result = with_lock(session, words[1], None, false, "session", block(session)) => result?,
            };
        }
        "interrupt" => {
            let counts = interrupt(words[2].parse().unwrap(), words[3].parse().unwrap(), words[4] == "bare").await?;
            say(&["interrupted", &counts.map(|count| count.to_string()).join("\t")]);
        }
        "run" => say(&["row", &value(client, words[1]).await?]),
        _ => return Err(Failure::Told),
    }
    Ok(true)
}

// Drops futures that take the lock, on a connection of its own, and counts what comes of it.
async fn interrupt(rounds: usize, microseconds: u64, bare: bool) -> Result<[usize; 3], Error> {
    let acquire = "SELECT pglock.acquire('raced', timeout => '60s')";
    let locks = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'";
    let [mut interrupted, mut left, mut closed] = [0; 3];
    let mut session = connect().await;
    for _ in 0..rounds {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let limit = Duration::from_micros(u64::from(now.subsec_nanos()) % microseconds);
        let done = if bare {
            timeout(limit, value(&session.client, acquire)).await.is_ok()
        } else {
            let work = async { Ok::<(), Error>(()) };
            timeout(limit, with_lock(&session, "raced", None, false, "session", work)).await.is_ok()
        };
        if done {
            value(&session.client, "SELECT pglock.release_all()").await?;
            continue;
        }
        interrupted += 1;
        match value(&session.client, locks).await {
            Ok(locks) => left += usize::from(locks != "0"),
            Err(_) => {
                closed += 1;
                session = connect().await;
            }
        }
        if bare && left > 0 {
            break;
        }
    }
    Ok([interrupted, left, closed])
}

async fn value(client: &Client, sql: &str) -> Result<String, Error> {
    Ok(match &client.simple_query(sql).await?[0] {
        SimpleQueryMessage::Row(row) => row.get(0).unwrap_or("").to_string(),
        _ => String::new(),
    })
}

// Drops a future that waits, and lets the server grant what it waits for.
async fn trap(client: &Client, key: &str) -> Result<String, Error> {
    let (other, _) = worker::connect().await?;
    other.execute("CALL pglock.lock($1)", &[&key]).await?;
    let parameters: [&(dyn ToSql + Sync); 1] = [&key];
    let take = client.prepare("CALL pglock.lock($1)").await?; // else it would not be sent at once
    let waits = client.execute(&take, &parameters);
    let dropped = timeout(Duration::from_millis(10), waits).await.is_err();
    other.execute("SELECT pglock.release($1)", &[&key]).await?;
    // after the call in the queue
    let held: bool = client.query_one("SELECT pglock.held($1)", &[&key]).await?.get(0);
    Ok(format!("{dropped}, {held}"))
}

async fn connect() -> Session {
    let (client, connection) = worker::connect().await.unwrap();
    Session { client, connection }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let mut session = connect().await;

    say(&["ready", ""]);
    loop {
        match block(&session).await {
            Ok(_) => break,
            Err(Failure::GaveUp) => {
                let left = value(&session.client, "SELECT pg_backend_pid()").await;
                session = connect().await;
                say(&["gave up", &left.unwrap_or("none".to_string())]);
            }
            Err(_) => say(&["failed"]),
        }
    }
}
