use super::*;

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn ours() -> BTreeSet<String> {
    names(&["127.0.0.1", "localhost", "hook.sidecarset-system.svc"])
}

fn start() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

fn rotate(contents: &Contents, now: Timestamp, names: &BTreeSet<String>) -> (Contents, RotationReason) {
    match plan(contents, now, names).unwrap() {
        Plan::Rotate { contents, reason } => (contents, reason),
        Plan::Keep { next_check } => panic!("kept until {next_check}"),
    }
}

fn keep(contents: &Contents, now: Timestamp) -> Timestamp {
    match plan(contents, now, &ours()).unwrap() {
        Plan::Keep { next_check } => next_check,
        Plan::Rotate { reason, .. } => panic!("rotated: {reason:?}"),
    }
}

fn fresh() -> Contents {
    rotate(&Contents::default(), start(), &ours()).0
}

/// Whether a client that trusts `bundle` accepts the leaf at `now`.
fn trusted_by(contents: &Contents, bundle: &[u8], now: Timestamp) -> bool {
    let parsed = Contents { ca_crt: Vec::new(), ca_bundle: bundle.to_vec(), ..contents.clone() };
    leaf(&parsed, &super::bundle(&parsed, now), now).is_some()
}

#[test]
fn an_empty_secret_becomes_a_ca_and_a_leaf() {
    let (contents, reason) = rotate(&Contents::default(), start(), &ours());
    assert_eq!(reason, RotationReason::Unusable);
    assert!(trusted_by(&contents, &contents.ca_bundle, start()));
    let leaf = certificates(&contents.tls_crt)[0].clone();
    assert_eq!(leaf.names, ours());
    assert!(!leaf.is_ca);
    assert_eq!(leaf.not_after, start() + LEAF_LIFE);
    let ca = certificates(&contents.ca_crt)[0].clone();
    assert!(ca.is_ca);
    assert_eq!(ca.not_after, start() + CA_LIFE);
    let next = keep(&contents, start());
    assert!(next > start() + days(59) && next < start() + days(61), "{next}");
}

#[test]
fn a_leaf_is_renewed_at_two_thirds_of_its_life_by_the_same_ca() {
    let contents = fresh();
    let due = keep(&contents, start());
    keep(&contents, due - SignedDuration::from_secs(1));
    let (renewed, reason) = rotate(&contents, due, &ours());
    assert_eq!(reason, RotationReason::LeafAge);
    assert_eq!((&renewed.ca_crt, &renewed.ca_bundle), (&contents.ca_crt, &contents.ca_bundle));
    assert_ne!(renewed.tls_crt, contents.tls_crt);
    keep(&renewed, due);
}

#[test]
fn a_new_ca_is_published_before_it_signs() {
    let mut old = fresh();
    let ca_due = start() + days(490);
    old = rotate(&old, ca_due - days(30), &ours()).0;
    let (published, reason) = rotate(&old, ca_due, &ours());
    assert_eq!(reason, RotationReason::NewCa);
    assert_eq!((&published.tls_crt, &published.tls_key), (&old.tls_crt, &old.tls_key), "the old leaf serves on");
    assert_eq!(certificates(&published.ca_bundle).len(), 2);
    assert!(trusted_by(&published, &old.ca_bundle, ca_due) && trusted_by(&published, &published.ca_bundle, ca_due));

    let use_at = keep(&published, ca_due);
    assert_eq!(use_at, ca_due + PUBLISH_DELAY);
    let (used, reason) = rotate(&published, use_at, &ours());
    assert_eq!(reason, RotationReason::UseNewCa);
    assert_eq!(used.ca_bundle, published.ca_bundle);
    assert!(trusted_by(&used, &published.ca_bundle, use_at), "clients knew the CA before");
    assert!(!trusted_by(&used, &old.ca_bundle, use_at));
    keep(&used, use_at);
}

#[test]
fn an_expired_ca_leaves_the_bundle() {
    let old = fresh();
    let at = start() + days(490);
    // Leaf and CA are both overdue here: the operator was off for a year.
    let contents = rotate(&old, at, &ours()).0;
    assert_eq!(certificates(&contents.ca_bundle).len(), 2);
    let later = start() + days(731);
    assert_eq!(certificates(&trusted(&contents, later)).len(), 1);
}

#[test]
fn a_leaf_that_is_due_waits_for_the_new_ca_to_be_known() {
    let contents = fresh();
    let at = start() + days(61);
    let lost = Contents { ca_key: Vec::new(), ..contents };
    let (published, reason) = rotate(&lost, at, &ours());
    assert_eq!(reason, RotationReason::NewCa);
    assert_eq!(keep(&published, at), at + PUBLISH_DELAY);
}

#[test]
fn a_leaf_that_expires_first_does_not_wait() {
    let contents = fresh();
    let at = start() + LEAF_LIFE - SignedDuration::from_mins(10);
    let lost = Contents { ca_crt: b"garbage".to_vec(), ..contents };
    let published = rotate(&lost, at, &ours()).0;
    assert_eq!(keep(&published, at), start() + LEAF_LIFE);
    assert_eq!(rotate(&published, start() + LEAF_LIFE, &ours()).1, RotationReason::LeafUnusable);
}

#[test]
fn other_names_give_a_new_leaf() {
    let contents = fresh();
    let other = names(&["127.0.0.1", "other.sidecarset-system.svc"]);
    let (renamed, reason) = rotate(&contents, start(), &other);
    assert_eq!(reason, RotationReason::Names);
    assert!(reason.is_urgent());
    assert_eq!(renamed.ca_crt, contents.ca_crt);
    assert_eq!(certificates(&renamed.tls_crt)[0].clone().names, other);
}

#[test]
fn a_leaf_without_its_key_is_issued_again() {
    let good = fresh();
    let stranger = fresh();
    for broken in [
        Contents { tls_key: b"garbage".to_vec(), ..good.clone() },
        Contents { tls_key: stranger.tls_key.clone(), ..good.clone() },
        Contents { tls_crt: Vec::new(), ..good.clone() },
        Contents { tls_crt: stranger.tls_crt.clone(), tls_key: stranger.tls_key.clone(), ..good.clone() },
    ] {
        let (repaired, reason) = rotate(&broken, start(), &ours());
        assert_eq!(reason, RotationReason::LeafUnusable);
        assert_eq!(repaired.ca_crt, good.ca_crt);
        keep(&repaired, start());
    }
}

#[test]
fn damage_to_everything_makes_everything_new() {
    let good = fresh();
    let broken = Contents { ca_key: b"garbage".to_vec(), tls_key: b"garbage".to_vec(), ..good.clone() };
    let (repaired, reason) = rotate(&broken, start(), &ours());
    assert_eq!(reason, RotationReason::Unusable);
    assert_ne!(repaired.ca_crt, good.ca_crt);
    assert!(trusted_by(&good, &repaired.ca_bundle, start()), "another replica may still serve the old leaf");
    keep(&repaired, start());
}

#[test]
fn the_bundle_is_bounded_and_always_has_the_ca() {
    let mut contents = fresh();
    for _ in 0..2 * MAX_BUNDLE {
        contents = rotate(&Contents { ca_key: Vec::new(), tls_key: Vec::new(), ..contents }, start(), &ours()).0;
    }
    assert_eq!(certificates(&contents.ca_bundle).len(), MAX_BUNDLE);
    let emptied = Contents { ca_bundle: Vec::new(), ..contents };
    keep(&emptied, start());
    assert_eq!(certificates(&trusted(&emptied, start())), certificates(&emptied.ca_crt));
}

#[test]
fn keys_survive_the_secret_and_stay_out_of_logs() {
    let contents = fresh();
    let data = contents.clone().into_data();
    assert_eq!(Contents::from_data(|key| data.get(key).map(Vec::as_slice)), contents);
    assert_eq!(format!("{contents:?}"), "Contents { .. }");
}
