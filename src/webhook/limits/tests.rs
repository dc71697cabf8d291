use axum::body::{Body, Bytes};
use axum::routing::post;
use futures::future::join_all;
use futures::stream;
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::*;

async fn send(router: &Router, path: &str, body: Body, length: Option<usize>) -> StatusCode {
    let mut request = Request::post(path);
    if let Some(length) = length {
        request = request.header(header::CONTENT_LENGTH, length);
    }
    router.clone().oneshot(request.body(body).unwrap()).await.unwrap().status()
}

fn router() -> Router {
    let hold = async |_: Bytes| tokio::time::sleep(Duration::from_secs(1)).await;
    let fail = async || -> &str { unreachable!("as a test") };
    limited(Router::new().route("/hold", post(hold)).route("/fail", post(fail)))
}

#[tokio::test]
async fn a_review_that_is_too_large_is_refused_and_a_panic_is_an_answer() {
    let router = router();
    assert_eq!(send(&router, "/hold", vec![b' '; MAX_REVIEW + 1].into(), None).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(send(&router, "/fail", Body::empty(), None).await, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up_and_its_room_with_it() {
    let router = router();
    let stalled = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let started = Instant::now();
    // They take all the room.
    let many = join_all((0..3).map(|_| send(&router, "/hold", stalled(), Some(MAX_REVIEW)))).await;
    assert_eq!(many, [StatusCode::SERVICE_UNAVAILABLE; 3]);
    assert_eq!(started.elapsed(), TIMEOUT);
    assert_eq!(send(&router, "/hold", "x".into(), Some(1)).await, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn large_reviews_wait_for_each_other_and_small_ones_do_not() {
    let router = router();
    let started = Instant::now();
    let large = || send(&router, "/hold", vec![b' '; MAX_REVIEW].into(), Some(MAX_REVIEW));
    let all = join_all([large(), large(), large()]);
    let small = async {
        tokio::task::yield_now().await;
        (send(&router, "/hold", "x".into(), Some(1)).await, started.elapsed())
    };
    let (all, small) = tokio::join!(all, small);
    assert_eq!((all, started.elapsed().as_secs()), (vec![StatusCode::OK; 3], 2));
    assert_eq!((small.0, small.1.as_secs()), (StatusCode::OK, 1));
}
