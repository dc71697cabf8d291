//! `updateStrategy.prePull`: the sidecar is down for as long as its container is replaced, not for as long as its image is pulled.

use serde_json::json;

use crate::place::{ORDINARY, agent, fleet, status, until_done, untouched};

#[tokio::test]
async fn the_image_is_on_the_node_before_a_sidecar_is_stopped() {
    let strategy = json!({"maxUnavailable": "100%", "minReadySeconds": 1, "prePull": true});
    let Some(world) = fleet("prepull", ORDINARY, 2, &strategy).await else { return };
    let before = world.pods().await;
    // The registry takes 5 s; no other test pulls this image.
    world.apply(&agent(&world, ORDINARY, "slow/sidecar:v2", &strategy)).await;
    until_done(&world, 2).await;
    let after = world.pods().await;
    assert_eq!(untouched(&after), untouched(&before));
    for pod in &after {
        let agent = status(pod, "agent");
        let ended = agent.last_state.unwrap().terminated.unwrap().finished_at.unwrap().0;
        let started = agent.state.unwrap().running.unwrap().started_at.unwrap().0;
        let gap = started.duration_since(ended).as_secs();
        assert!(gap < 4, "no container for {gap} s");
    }
    world.end().await;
}
