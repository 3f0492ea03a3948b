// Rust's tokio-postgres. When the lease can't be renewed, the future of the work is dropped.

mod worker;

use std::{future::Future, pin::Pin, time::Duration};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::select;
use tokio::time::{error::Elapsed, sleep, timeout_at, Instant};
use tokio_postgres::{Client, Error};
use worker::say;

// [recipe]
pub async fn with_lease<T, E: From<Error> + From<Elapsed>, C, W>(
    connect: impl Fn() -> C, key: &str, ttl: Duration, timeout: Option<Duration>, work: impl FnOnce(i64) -> W,
) -> Result<T, E>
where
    C: Future<Output = Result<Client, Error>>,
    W: Future<Output = Result<T, E>>,
{
    let take = "CALL pglock.lease($1, make_interval(secs => $2), make_interval(secs => $3))";
    let [seconds, patience] = [Some(ttl), timeout].map(|time| time.map(|time| time.as_secs_f64()));
    let token: i64 = connect().await?.query_one(take, &[&key, &seconds, &patience]).await?.get(0);
    let renew = || async {
        let sent = Instant::now();
        let row = connect().await?.query_one("SELECT pglock.renew_lease($1, $2)", &[&key, &token]).await?;
        Ok::<_, Error>(if row.get(0) { sent + ttl * 9 / 10 } else { sent })
    };
    let mut until = renew().await?;
    let keep = async {
        loop {
            let renewed = timeout_at(until, async { sleep(ttl / 3).await; renew().await }).await?;
            until = renewed.unwrap_or(until); // if one fails, the next may succeed
        }
    };
    let result = select! { biased; lost = keep => lost, done = work(token) => done };
    if let Ok(client) = connect().await {
        client.execute("SELECT pglock.release_lease($1, $2)", &[&key, &token]).await.ok();
    }
    result
}
// [end]

async fn example() -> Result<(), Failure> {
    // [example]
    with_lease(connect, "billing", Duration::from_secs(30), None, |token| async move {
        let mut client = connect().await?;
        for order in [42, 43] {
            let transaction = client.transaction().await?;
            transaction.execute("SELECT pglock.check_lease($1, $2)", &[&"billing", &token]).await?;
            transaction.execute("UPDATE orders SET state = 'paid' WHERE id = $1", &[&order]).await?;
            transaction.commit().await?;
        }
        Ok(())
    })
    .await
    // [end]
}

// a worker: see test/perl/Worker.pm
enum Failure {
    Lost,
    Sql(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Sql(error)
    }
}

impl From<Elapsed> for Failure {
    fn from(_: Elapsed) -> Self {
        Failure::Lost
    }
}

type Outcome = Result<(), Failure>;
type Input = Lines<BufReader<Stdin>>;

async fn connect() -> Result<Client, Error> {
    Ok(worker::connect().await?.0)
}

// Does what it is told until the end of the block that it is in, which may be that of a lease.
fn block(lines: &mut Input, leased: bool) -> Pin<Box<dyn Future<Output = Outcome> + '_>> {
    Box::pin(async move {
        while let Some(line) = lines.next_line().await.unwrap() {
            let words: Vec<&str> = line.split('\t').collect();
            if words[0] == "end" {
                break;
            }
            match command(lines, leased, &words).await {
                Err(Failure::Sql(error)) => say(&["error", error.code().map_or("", |state| state.code())]),
                Err(Failure::Lost) => say(&["lost"]),
                Ok(()) => {}
            }
        }
        Ok(())
    })
}

async fn command(lines: &mut Input, leased: bool, words: &[&str]) -> Outcome {
    match words[0] {
        "lease" => {
            let [ttl, timeout] = [words[2], words[3]].map(|word| word.parse().ok().map(Duration::from_millis));
            with_lease(connect, words[1], ttl.unwrap(), timeout, |token| {
                say(&["held", &token.to_string()]);
                block(lines, true)
            })
            .await?;
            say(&["released"]);
        }
        // with_lease ends that, or has ended the block before
        "lose" if leased => std::future::pending().await,
        "lose" => {}
        "write" => {
            let mut client = connect().await?;
            let transaction = client.transaction().await?;
            let token: i64 = words[2].parse().unwrap();
            transaction.execute("SELECT pglock.check_lease($1, $2)", &[&words[1], &token]).await?;
            transaction.execute("INSERT INTO written VALUES ($1)", &[&words[1]]).await?;
            transaction.commit().await?;
            say(&["written"]);
        }
        "example" => {
            example().await?;
            say(&["done"]);
        }
        unknown => panic!("{unknown}"),
    }
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    say(&["ready", ""]);
    block(&mut BufReader::new(tokio::io::stdin()).lines(), false).await.unwrap_or(());
}
