//! Reading every account of a node, a page at a time.

use crate::api::Account;
use crate::client::{AdminClient, ClientError, PAGE};

/// Reads every account, a page at a time.
pub(in crate::cli) struct Pages<'c> {
    client: &'c AdminClient,
    with_tokens: bool,
    after: Option<String>,
    ended: bool,
}

impl<'c> Pages<'c> {
    /// Starts at the first account.
    pub(in crate::cli) fn new(client: &'c AdminClient, with_tokens: bool) -> Self {
        Self {
            client,
            with_tokens,
            after: None,
            ended: false,
        }
    }

    /// Reads the next page; `None` after the last one.
    pub(in crate::cli) async fn next(&mut self) -> Result<Option<Vec<Account>>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let page = self
            .client
            .accounts(self.after.as_deref(), PAGE, self.with_tokens)
            .await?;
        // A node that returned the same `next` again would keep the caller in an endless loop.
        self.ended = page.next.is_none() || page.next == self.after;
        self.after = page.next;
        Ok(Some(page.items))
    }
}
