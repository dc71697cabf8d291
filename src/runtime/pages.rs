//! Listings in pages.

use std::time::Duration;

use kube::api::ListParams;
use kube::core::ObjectList;

/// Objects per page: kubectl's own size.
pub(crate) const PAGE: u32 = 500;

/// Wait before a page that failed is asked for again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A listing under way. After an error it goes on with the page that failed.
pub(crate) struct Pages {
    params: ListParams,
    is_done: bool,
}

impl Pages {
    /// No resourceVersion may be asked for: with "0" the apiserver ignores the size and sends all at once.
    pub(crate) fn new(params: ListParams, size: u32) -> Self {
        Self { params: params.limit(size), is_done: false }
    }

    /// The next page; `None` after the last. `list` sends the request.
    pub(crate) async fn next<T: Clone, F: Future<Output = Result<ObjectList<T>, kube::Error>>>(
        &mut self,
        list: impl FnOnce(ListParams) -> F,
    ) -> Result<Option<Vec<T>>, kube::Error> {
        if self.is_done {
            return Ok(None);
        }
        let page = list(self.params.clone()).await.inspect_err(|error| self.restart_if_expired(error))?;
        self.params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        self.is_done = self.params.continue_token.is_none();
        Ok(Some(page.items))
    }

    /// The next page, however often it must be asked for. `what`: for the log.
    pub(crate) async fn next_at_last<T: Clone, F: Future<Output = Result<ObjectList<T>, kube::Error>>>(
        &mut self,
        what: &str,
        list: impl Fn(ListParams) -> F,
    ) -> Option<Vec<T>> {
        loop {
            match self.next(&list).await {
                Ok(page) => return page,
                Err(error) => tracing::warn!(%error, "cannot list {what}; nothing is upgraded before that"),
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// The apiserver keeps the state that a listing is of for some minutes only.
    fn restart_if_expired(&mut self, error: &kube::Error) {
        if matches!(error, kube::Error::Api(status) if status.code == 410) {
            self.params.continue_token = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(token: &str) -> ObjectList<u8> {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "List", "metadata": {"continue": token}, "items": [1]
        }))
        .unwrap()
    }

    /// Asks for the next page; the answer is this, and the token that was sent is returned.
    async fn token(pages: &mut Pages, answer: Result<ObjectList<u8>, kube::Error>) -> Option<Option<String>> {
        let mut sent = None;
        let list = |params: ListParams| {
            sent = Some(params.continue_token);
            std::future::ready(answer)
        };
        let _ = pages.next(list).await;
        sent
    }

    fn error(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(serde_json::from_value(json!({"status": "Failure", "code": code})).unwrap()))
    }

    #[tokio::test]
    async fn a_listing_goes_on_where_it_failed() {
        let mut pages = Pages::new(ListParams::default(), 1);
        assert_eq!(token(&mut pages, Ok(page("second"))).await, Some(None));
        assert_eq!(token(&mut pages, Err(error(500))).await, Some(Some("second".to_owned())));
        assert_eq!(token(&mut pages, Ok(page(""))).await, Some(Some("second".to_owned())));
        assert_eq!(token(&mut pages, Ok(page(""))).await, None, "after the last page nothing is asked for");
    }

    #[tokio::test]
    async fn a_listing_whose_state_the_apiserver_forgot_begins_anew() {
        let mut pages = Pages::new(ListParams::default(), 1);
        token(&mut pages, Ok(page("second"))).await;
        token(&mut pages, Err(error(410))).await;
        assert_eq!(token(&mut pages, Ok(page(""))).await, Some(None));
    }
}
