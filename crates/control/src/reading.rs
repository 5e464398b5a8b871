//! Reads a list of the cloud to its end, or says why not. A repeated page token, too many pages, a time-out
//! and any error are failures, never the end of the list.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keystile_model::arn::Arn;
use keystile_model::cloud::{Cloud, CloudError, List, Page, Place, Record, Tags};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Most pages of one list: 100,000 resources a region, far above every quota.
const MAX_PAGES: usize = 1_000;
/// Calls under way at once, over all places: fast enough for thousands of caches, polite to the API.
const MAX_CALLS: usize = 24;
/// How often a list is begun again because its token expired.
const RESTARTS: usize = 1;

/// What was read of one list.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// The entries, as far as they came.
    pub records: Vec<Record>,
    /// Why the list was not read to its end.
    pub failure: Option<CloudError>,
    /// Calls made.
    pub calls: u64,
    /// How long it took.
    pub took: Duration,
}

/// Asks the cloud, with a bound on calls at once and on time. Clones share both, and the count.
#[derive(Clone)]
pub struct Reader {
    cloud: Arc<dyn Cloud>,
    turns: Arc<Semaphore>,
    calls: Arc<AtomicU64>,
    deadline: Option<Instant>,
}

impl Reader {
    /// A reader that stops at the deadline.
    #[must_use]
    pub fn new(cloud: Arc<dyn Cloud>, deadline: Option<Instant>) -> Self {
        Self { cloud, turns: Arc::new(Semaphore::new(MAX_CALLS)), calls: Arc::default(), deadline }
    }

    /// Calls made so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// The account of our own credentials.
    ///
    /// # Errors
    /// Why it could not be told.
    pub async fn home_account(&self) -> Result<String, CloudError> {
        self.limited("sts:GetCallerIdentity", self.cloud.home_account()).await
    }

    /// The first page of a list, to be handed to [`Reader::rest`].
    pub async fn first(&self, place: &Place, list: &List) -> Result<Page, CloudError> {
        self.limited(list.action(), self.cloud.page(place, list, None)).await
    }

    /// A whole list.
    pub async fn all(&self, place: &Place, list: &List) -> Read {
        let begun = Instant::now();
        let first = self.first(place, list).await;
        self.rest(place, list, first, begun).await
    }

    /// A list of which the first page is there already.
    pub async fn rest(
        &self,
        place: &Place,
        list: &List,
        first: Result<Page, CloudError>,
        begun: Instant,
    ) -> Read {
        let mut read = Read { calls: 1, ..Read::default() };
        let mut page = first;
        let mut tokens = HashSet::new();
        let mut restarts = 0;
        loop {
            let token = match page {
                Ok(Page { records, next }) => {
                    read.records.extend(records);
                    match next.filter(|token| !token.is_empty()) {
                        None => break,
                        Some(token) => Some(token),
                    }
                }
                Err(CloudError::TokenExpired(_)) if restarts < RESTARTS => {
                    restarts += 1;
                    read.records.clear();
                    tokens.clear();
                    None
                }
                Err(error) => {
                    read.failure = Some(error);
                    break;
                }
            };
            if let Some(token) = &token
                && !tokens.insert(token.clone())
            {
                read.failure = Some(CloudError::TokenRepeated(list.action().to_owned()));
                break;
            }
            if tokens.len() >= MAX_PAGES {
                read.failure = Some(CloudError::TooManyPages(list.action().to_owned()));
                break;
            }
            read.calls += 1;
            page = self.limited(list.action(), self.cloud.page(place, list, token.as_deref())).await;
        }
        read.took = begun.elapsed();
        read
    }

    /// Tags of up to 100 resources in one call.
    ///
    /// # Errors
    /// Why they could not be read.
    pub async fn tags_by_arn(&self, place: &Place, arns: &[Arn]) -> Result<Vec<(String, Tags)>, CloudError> {
        self.limited("tag:GetResources", self.cloud.tags_by_arn(place, arns)).await
    }

    /// Tags of one resource.
    ///
    /// # Errors
    /// Why they could not be read.
    pub async fn tags_of(&self, place: &Place, arn: &Arn) -> Result<Tags, CloudError> {
        self.limited("the resource's tags", self.cloud.tags_of(place, arn)).await
    }

    async fn limited<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, CloudError>>,
    ) -> Result<T, CloudError> {
        let counted = async {
            let _turn = self.turns.acquire().await;
            self.calls.fetch_add(1, Ordering::Relaxed);
            call.await
        };
        match self.deadline {
            None => counted.await,
            Some(deadline) => tokio::time::timeout_at(deadline, counted)
                .await
                .unwrap_or_else(|_| Err(CloudError::OutOfTime(what.to_owned()))),
        }
    }
}
