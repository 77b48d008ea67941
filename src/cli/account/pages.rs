//! Every account of a node, a page at a time.

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
    /// From the first account on.
    pub(in crate::cli) fn new(client: &'c AdminClient, with_tokens: bool) -> Self {
        Self {
            client,
            with_tokens,
            after: None,
            ended: false,
        }
    }

    /// The next page; none after the last.
    pub(in crate::cli) async fn next(&mut self) -> Result<Option<Vec<Account>>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let page = self
            .client
            .accounts(self.after.as_deref(), PAGE, self.with_tokens)
            .await?;
        // A node that names the same place again would keep us here for ever.
        self.ended = page.next.is_none() || page.next == self.after;
        self.after = page.next;
        Ok(Some(page.items))
    }
}
