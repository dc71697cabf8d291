//! What a review may take, whoever sends it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

/// Largest review that is read, as in controller-runtime. etcd refuses objects over 1.5 MiB by default; escaping and the old
/// object make it more.
const MAX_REVIEW: usize = 7 * 1024 * 1024;

/// Bytes from which on a review is large.
pub(super) const LARGE: usize = 256 * 1024;

/// Bytes of all large reviews that are read or decided at a time, and of all others; further ones wait.
const MAX_REVIEWS: [usize; 2] = [16 * 1024 * 1024, 8 * 1024 * 1024];

/// From a review's head to its answer; the API server does not wait longer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The same routes within these limits. A handler that panics answers 500, and the log says why.
pub(super) fn limited(router: Router) -> Router {
    let room = Arc::new(MAX_REVIEWS.map(|bytes| Semaphore::new(bytes / 1024)));
    router
        .layer(DefaultBodyLimit::max(MAX_REVIEW))
        .layer(from_fn_with_state(room, weigh))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, TIMEOUT))
        .layer(CatchPanicLayer::custom(panicked))
}

/// Waits until there is room for the bytes of this review. Small ones do not wait for large ones.
async fn weigh(State(room): State<Arc<[Semaphore; 2]>>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let bytes = length.unwrap_or(MAX_REVIEW).min(MAX_REVIEW);
    let (kilobytes, [large, small]) = (bytes.div_ceil(1024), &*room);
    // They are never closed, and the number is less than a u32.
    let _room =
        if bytes > LARGE { large } else { small }.acquire_many(u32::try_from(kilobytes).unwrap_or(u32::MAX)).await;
    next.run(request).await
}

fn panicked(why: Box<dyn Any + Send>) -> Response {
    let text = why.downcast_ref::<String>().map(String::as_str).or_else(|| why.downcast_ref::<&str>().copied());
    tracing::error!(panic = text, "a review was not answered: this is a bug");
    (StatusCode::INTERNAL_SERVER_ERROR, "the operator failed on this review; its log says more").into_response()
}

#[cfg(test)]
mod tests;
