//! Asks servers which streams accounts have.

use tokio::time::Instant;

use super::Publisher;
use super::streams::{Expected, tell};
use crate::nats::connection::Connection;
use crate::nats::subjects::{self, MissingPermission};
use crate::resolver::{StreamsInquiry, StreamsUnknown};

impl Publisher {
    /// Takes a question which accounts have streams.
    pub(super) fn search(&mut self, inquiry: StreamsInquiry) {
        if !self.is_publishing {
            return;
        }
        if self.lacks.contains(MissingPermission::Ask.lack()) {
            return tell(inquiry, Err(StreamsUnknown::ServersUnknown));
        }
        let Some(account) = inquiry.accounts.first().copied() else {
            return tell(inquiry, Ok(Vec::new()));
        };
        // Of what is said of each server, which ones there are.
        let servers = self.propagation.in_force(account, 0);
        if servers.iter().any(|told| told.server.id.is_empty()) {
            return tell(inquiry, Err(StreamsUnknown::TooManyServers));
        }
        let expected = servers.into_iter().map(|told| Expected {
            is_reached: self.propagation.is_reached(&told.server.id),
            id: told.server.id,
            name: told.server.name,
        });
        let expected = expected.collect();
        self.streams.begin(inquiry, expected);
    }

    /// Asks servers what questions need that is not known here; gives when to look again.
    pub(super) async fn ask_for_inquiries(&mut self, connection: &Connection) -> Result<Option<Instant>, String> {
        let count_at = self.count_closed(connection).await?;
        let search_at = self.search_streams(connection).await?;
        Ok([count_at, search_at].into_iter().flatten().min())
    }

    /// Asks for the streams of accounts, for those who want to know; gives when to look again.
    async fn search_streams(&mut self, connection: &Connection) -> Result<Option<Instant>, String> {
        let (questions, wake) = self.streams.next();
        for (number, account) in questions {
            let asked = |inbox: &str| {
                let reply = subjects::reply_to_streams(inbox, number);
                (subjects::STREAMS.to_owned(), reply, subjects::streams_request(account))
            };
            self.ask_everywhere(connection, asked).await?;
        }
        Ok(wake)
    }
}
