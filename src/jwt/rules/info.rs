//! Rules of the description and the URL that people read (jwt `types.go`).

use super::issues::Issues;
use super::url::Url;
use crate::jwt::json::Fields;
use crate::jwt::quote::cut;
use crate::jwt::rejection::Rejection;

/// The longest description or URL (jwt `types.go`, `MaxInfoLength`).
const MAX_INFO_BYTES: usize = 8 * 1024;

/// Checks the description and `info_url` of `of`.
pub(super) fn info(fields: &Fields<'_, '_>, of: &str, issues: &mut Issues) -> Result<(), Rejection> {
    if fields.text("description")?.len() > MAX_INFO_BYTES {
        issues.add("info", || {
            format!("the description of {of} is longer than {MAX_INFO_BYTES} bytes: shorten it")
        });
    }
    let url = fields.text("info_url")?;
    if url.len() > MAX_INFO_BYTES {
        issues.add("info", || {
            format!("the info URL of {of} is longer than {MAX_INFO_BYTES} bytes: shorten it")
        });
    }
    let defect = match Url::parse(url) {
        Ok(parsed) if parsed.scheme.is_empty() || parsed.host_name.is_empty() => "it lacks a scheme or a host",
        Ok(_) => return Ok(()),
        Err(defect) => defect,
    };
    if !url.is_empty() {
        issues.add("info", || {
            format!(
                "the info URL {:?} of {of} cannot be used: {defect}; write https://HOST/...",
                cut(url)
            )
        });
    }
    Ok(())
}
