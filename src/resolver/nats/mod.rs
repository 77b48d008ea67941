//! WHAT IS KEPT FOR PUBLISHERS and of what they see, as plain data: the resolver's handle holds it.

mod resend;
mod seen;
mod streams;
mod travel;
mod versions;

pub(super) use resend::{Resend, Resends};
pub use seen::{Answered, Enforcement, Found, Inquiry, Seen, Standing, Told};
pub use streams::{Asking, StreamsFound, StreamsInquiry, StreamsUnknown};
pub(super) use travel::{About, OtherVersion, Question, decode, encode, not_understood};
pub(super) use versions::Versions;
