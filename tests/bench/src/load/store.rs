//! Writes and removes the values that GET expects, in batches, at the server itself.

use anyhow::{Result, ensure};

use super::connection::{Connection, Target};
use super::data::Dataset;

/// Requests in a batch.
const BATCH: usize = 100;

/// Writes all.
pub(super) async fn fill(target: &Target, dataset: &Dataset) -> Result<()> {
    let mut connection = target.dialer(false)?.connect().await?;
    for batch in batches(dataset.keys) {
        let requests: Vec<u8> = batch.clone().flat_map(|number| dataset.set(number)).collect();
        connection.ask(&requests, &b"+OK\r\n".repeat(batch.len())).await?;
    }
    read_back(&mut connection, dataset, dataset.keys.min(BATCH)).await?;
    connection.close().await
}

/// Removes all; each must have been there.
pub(super) async fn purge(target: &Target, dataset: &Dataset) -> Result<()> {
    let mut connection = target.dialer(false)?.connect().await?;
    for batch in batches(dataset.keys) {
        let requests: Vec<u8> = batch.clone().flat_map(|number| dataset.unlink(number)).collect();
        connection.ask(&requests, &b":1\r\n".repeat(batch.len())).await?;
    }
    connection.close().await
}

/// Reads the first keys, each of which must hold its value.
pub(super) async fn read_back(connection: &mut Connection, dataset: &Dataset, keys: usize) -> Result<()> {
    ensure!(keys > 0, "nothing was written");
    for number in 0..keys {
        connection.ask(&dataset.get(number), &dataset.bulk(number)).await?;
    }
    Ok(())
}

fn batches(keys: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..keys).step_by(BATCH).map(move |first| first..keys.min(first + BATCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_all_keys_once() {
        let all: Vec<usize> = batches(250).flatten().collect();
        assert_eq!(all, (0..250).collect::<Vec<_>>());
        assert_eq!(batches(0).count(), 0);
    }
}
