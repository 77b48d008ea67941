//! Reading every account of a node, a page at a time.

use crate::api::Account;
use crate::client::{AdminClient, ClientError, PAGE};

/// Reads every account, a page at a time.
pub(in crate::cli) struct Pages<'c> {
    client: &'c AdminClient,
    with_tokens: bool,
    name: Option<&'c str>,
    after: Option<String>,
    ended: bool,
}

impl<'c> Pages<'c> {
    /// Starts at the first account.
    pub(in crate::cli) fn new(client: &'c AdminClient, with_tokens: bool) -> Self {
        Self {
            client,
            with_tokens,
            name: None,
            after: None,
            ended: false,
        }
    }

    /// The accounts of one name. A page may be empty and not the last.
    pub(in crate::cli) fn named(client: &'c AdminClient, name: &'c str) -> Self {
        Self {
            name: Some(name),
            ..Self::new(client, false)
        }
    }

    /// Reads the next page; `None` after the last one.
    pub(in crate::cli) async fn next(&mut self) -> Result<Option<Vec<Account>>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        let page = self
            .client
            .accounts(self.after.as_deref(), PAGE, self.with_tokens, self.name)
            .await?;
        // A node that returned the same `next` again would keep the caller in an endless loop.
        self.ended = page.next.is_none() || page.next == self.after;
        self.after = page.next;
        Ok(Some(page.items))
    }
}
