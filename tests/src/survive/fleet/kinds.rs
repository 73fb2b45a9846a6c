//! What connections are used for, until the fleet's end, and how each finds that it is broken.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use super::connection::{Connection, Duplex, patiently, read_line};
use super::order::Orders;
use crate::survive::outcome::Break;
use crate::survive::pattern::Pattern;
use crate::survive::server::{PACE, piece};

/// Bytes of each transfer: at their pace, more than a minute.
pub(super) const BYTES: u64 = 512 * 1024;

/// Bytes per second until the end.
pub(super) const RATE: u64 = 8 * 1024;

/// From one line of a chatty connection to the next.
const CHAT: Duration = Duration::from_millis(200);

/// How long a short connection lasts.
const SHORT: Duration = Duration::from_millis(300);

/// What is sent at once when there is no pace any more.
const LARGE_PIECE: usize = 16 * 1024;

/// Reads to the end, which it asks for when the fleet ends.
pub(super) async fn download(
    connection: &mut Connection<impl Duplex>,
    seed: u64,
    orders: Orders,
) -> Result<(), Break> {
    let mut pattern = Pattern::new(seed);
    let mut hurried = false;
    let mut last = Instant::now();
    let end = orders.end();
    tokio::pin!(end);
    while pattern.offset() < BYTES {
        let part = tokio::select! {
            part = patiently(connection.stream.fill_buf()) => part?,
            () = &mut end, if !hurried => {
                hurried = true;
                patiently(connection.stream.write_all(b"\n")).await?;
                continue;
            }
        };
        let length = part.len();
        if length == 0 {
            return Err(Break::Closed);
        }
        if !pattern.check(part) {
            return Err(Break::WrongBytes);
        }
        connection.stream.consume(length);
        let pace = if hurried { Duration::ZERO } else { PACE };
        connection.stalled(last.elapsed().saturating_sub(pace));
        last = Instant::now();
    }
    Ok(())
}

/// Sends at a pace until the fleet ends, then the rest; the server judges the bytes.
pub(super) async fn upload(
    connection: &mut Connection<impl Duplex>,
    seed: u64,
    orders: Orders,
) -> Result<(), Break> {
    let mut pattern = Pattern::new(seed);
    let mut part = vec![0; piece(RATE)];
    let mut pace = times(PACE);
    let end = orders.end();
    tokio::pin!(end);
    loop {
        tokio::select! {
            _ = pace.tick(), if pattern.offset() + RATE < BYTES => {}
            () = &mut end => break,
        }
        send(connection, &mut pattern, &mut part).await?;
    }
    part = vec![0; LARGE_PIECE];
    while pattern.offset() < BYTES {
        let left = usize::try_from(BYTES - pattern.offset()).unwrap_or(usize::MAX);
        part.truncate(left);
        send(connection, &mut pattern, &mut part).await?;
    }
    let sent = Instant::now();
    let answer = patiently(read_line(&mut connection.stream)).await;
    connection.stalled(sent.elapsed());
    connection.expect(&format!("received {BYTES}"), &answer?)
}

async fn send(
    connection: &mut Connection<impl Duplex>,
    pattern: &mut Pattern,
    part: &mut [u8],
) -> Result<(), Break> {
    pattern.fill(part);
    let began = Instant::now();
    let sent = patiently(connection.stream.write_all(part)).await;
    connection.stalled(began.elapsed());
    sent
}

/// Says nothing until the fleet ends.
pub(super) async fn idle(connection: &mut Connection<impl Duplex>, orders: Orders) -> Result<(), Break> {
    orders.end().await;
    connection.ask("still there?").await
}

/// Says something all the time, and a last time when the fleet ends.
pub(super) async fn chatty(connection: &mut Connection<impl Duplex>, orders: Orders) -> Result<(), Break> {
    let mut times = times(CHAT);
    let mut said: u64 = 0;
    let end = orders.end();
    tokio::pin!(end);
    loop {
        let last = tokio::select! {
            _ = times.tick() => false,
            () = &mut end => true,
        };
        said += 1;
        connection.ask(&format!("line {said}")).await?;
        if last {
            return Ok(());
        }
    }
}

/// Says two things, and that was it.
pub(super) async fn short(connection: &mut Connection<impl Duplex>) -> Result<(), Break> {
    connection.ask("good day").await?;
    sleep(SHORT).await;
    connection.ask("good bye").await
}

/// So often. A machine that stood still shall not make up for it by a burst.
pub(super) fn times(period: Duration) -> Interval {
    let mut times = interval(period);
    times.set_missed_tick_behavior(MissedTickBehavior::Skip);
    times
}
