//! Hot upgrades: the twins `<name>-1` and `<name>-2` of a sidecar hand over to each other, so that one always serves.
//!
//! | Phase | Images | `version…` annotations | Next |
//! | --- | --- | --- | --- |
//! | at rest | `v1`, idle | `1`, `0` | a new image goes to the idle twin |
//! | handing over | `v1`, `v2` | `1`, `2` | the new twin becomes ready, or another image goes to it |
//! | handed over | `v1`, `v2`, proved | `1`, `2` | the old twin is reset |
//! | at rest | idle, `v2` | `0`, `2` | |
//!
//! The phase is read off the pod alone. Which twin serves changes only with a request (the versions are written with
//! the images) or when the new twin is proved, so it cannot flip by itself.

use k8s_openapi::jiff::Timestamp;

use crate::api::image::{is_rewritten, same_image};
use crate::api::keys;
use crate::core::pod::{ContainerView, Mark, PodView};
use crate::core::revision::Sidecar;
use crate::core::rollout::assess::admission;
use crate::core::rollout::assess::attempt::{Attempt, Progress};
use crate::core::rollout::assess::state::{Obstacle, ObstacleKind};
use crate::core::rollout::target::Target;

/// What a hot sidecar of a pod needs to reach the target: its image in one twin, and the idle image in the other.
#[derive(Debug)]
pub(crate) enum Need<'a> {
    Nothing,
    /// The new twin has the image, and is to prove itself.
    Proof,
    /// The twin that does not serve gets an image.
    Move(Move<'a>),
    /// It cannot be told; the text says why.
    Unclear(String),
}

/// A new image for one twin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move<'a> {
    pub(crate) to: &'a ContainerView,
    pub(crate) serving: &'a ContainerView,
    /// The sidecar's own, or the idle one.
    pub(crate) image: &'a str,
    pub(crate) is_reset: bool,
}

/// What goes to a pod in one request.
#[derive(Debug, Default)]
pub(crate) struct Moves<'a> {
    /// One for each hot sidecar at most.
    pub(crate) moves: Vec<Move<'a>>,
    /// They complete the revision that the pod has, before it can get another one. Nothing else goes with them.
    pub(crate) before_upgrade: bool,
}

struct Twins<'a> {
    serving: &'a ContainerView,
    other: &'a ContainerView,
    /// The other one is to take over.
    hands_over: bool,
}

pub(crate) fn need<'a>(
    pod: &'a PodView,
    mark: &Mark,
    sidecar: &'a Sidecar,
    target: &Target,
    now: Timestamp,
) -> Need<'a> {
    let Twins { serving, other, hands_over } = match twins(pod, sidecar) {
        Ok(twins) => twins,
        Err(text) => return Need::Unclear(text),
    };
    let (image, idle) = (sidecar.image.as_str(), sidecar.idle_image.as_str());
    let has = |twin: &ContainerView, image: &str| admission::has(pod, mark, target, sidecar, twin, image);
    let recorded = mark.update.as_ref().filter(|update| update.containers.contains_key(&other.name));
    if hands_over {
        let proved = recorded.and_then(|update| Attempt { pod, update, target, now }.proved_at(other));
        if proved.is_some_and(|at| at <= now) {
            return Need::Move(Move { to: serving, serving: other, image: idle, is_reset: true });
        }
        if has(other, image) && recorded.is_none() {
            let name = &other.name;
            return Need::Unclear(format!(
                "{name} is to take over, and no annotation {} says since when",
                update(target)
            ));
        }
        if has(other, image) {
            return Need::Proof;
        }
    }
    if !has(serving, image) {
        return Need::Move(Move { to: other, serving, image, is_reset: false });
    }
    // Asked for once; whoever sets another image then, such as an admission webhook, would do it again.
    let asked_for = recorded.is_some_and(|update| target.is_reached_by(&update.revision));
    if has(other, idle) || (asked_for && !hands_over) {
        return Need::Nothing;
    }
    Need::Move(Move { to: other, serving, image: idle, is_reset: true })
}

/// The image serves, or is about to.
pub(crate) fn has_image(pod: &PodView, mark: &Mark, sidecar: &Sidecar, target: &Target, now: Timestamp) -> bool {
    match need(pod, mark, sidecar, target, now) {
        Need::Nothing | Need::Proof => true,
        Need::Move(next) => next.is_reset && serves(&next, pod, mark, sidecar, target),
        Need::Unclear(_) => false,
    }
}

/// The image is in the twin that serves.
fn serves(next: &Move<'_>, pod: &PodView, mark: &Mark, sidecar: &Sidecar, target: &Target) -> bool {
    admission::has(pod, mark, target, sidecar, next.serving, &sidecar.image)
}

/// A pod at the target has a twin that is to be reset.
pub(crate) fn is_reset_due(pod: &PodView, mark: &Mark, target: &Target, now: Timestamp) -> bool {
    moves(pod, mark, target, now).moves.iter().any(|next| next.is_reset)
}

/// Why a move cannot be made, or not yet.
pub(crate) fn obstacle(next: &Move<'_>, mark: &Mark, sidecar: &Sidecar, target: &Target) -> Option<Obstacle> {
    let name = &next.to.name;
    if next.is_reset {
        return None;
    }
    if same_image(next.image, &sidecar.idle_image) {
        let text = format!("image and hotUpgradeEmptyImage of {} are the same", sidecar.name);
        return Some(Obstacle::new(ObstacleKind::Template, text));
    }
    let update = mark.update.as_ref();
    let asked_for = target.is_reached_by(&mark.revision) && update.is_some_and(|u| target.is_reached_by(&u.revision));
    if asked_for && !same_image(&next.to.image, &sidecar.idle_image) {
        let text = "has another image than was set: something else sets it, such as an admission webhook";
        return Some(Obstacle::new(ObstacleKind::Pod, format!("{name} {text}")));
    }
    // The kubelet would see no change, and a program that has handed over already would be taken for the new one.
    let is_it = |image: &str| image == next.image || is_rewritten(image, next.image);
    let replaced = update.and_then(|update| update.containers.get(name)).filter(|replaced| is_it(&replaced.image));
    let status = next.to.status.as_ref().filter(|status| status.running_since.is_some());
    let still_runs = replaced.zip(status).is_some_and(|(replaced, status)| status.id == replaced.id);
    let text = || format!("{name} still runs {}", next.image);
    (still_runs && !is_it(&next.to.image)).then(|| Obstacle::new(ObstacleKind::Passing, text()))
}

pub(crate) fn moves<'a>(pod: &'a PodView, mark: &Mark, target: &'a Target, now: Timestamp) -> Moves<'a> {
    let needs = hot(target).map(|sidecar| (sidecar, need(pod, mark, sidecar, target, now)));
    let all: Vec<(&Sidecar, Move<'_>)> = needs
        .filter_map(|(sidecar, need)| match need {
            Need::Move(next) => Some((sidecar, next)),
            _ => None,
        })
        .collect();
    let first = all.iter().filter(|(sidecar, next)| next.is_reset && !serves(next, pod, mark, sidecar, target));
    let first: Vec<Move<'_>> = first.map(|(_, next)| *next).collect();
    let before_upgrade = !first.is_empty();
    Moves {
        moves: if before_upgrade { first } else { all.into_iter().map(|(_, next)| next).collect() },
        before_upgrade,
    }
}

/// A twin that has the image to take over with. Its record is kept until the other one is reset: it says since when.
pub(crate) fn takes_over(pod: &PodView, name: &str, target: &Target) -> bool {
    let mut twins = hot(target).filter_map(|sidecar| twins(pod, sidecar).ok());
    twins.any(|twins| twins.hands_over && twins.other.name == name)
}

/// An update is not done before each new twin has proved itself, however late: the old one would be stopped for it.
pub(crate) fn progress(attempt: &Attempt<'_>, mark: &Mark) -> Progress {
    let Attempt { pod, update, target, now } = *attempt;
    let proves = |sidecar: &Sidecar| matches!(need(pod, mark, sidecar, target, now), Need::Proof);
    let twins: Vec<String> = hot(target).filter(|s| proves(s)).flat_map(|s| keys::twins(&s.name)).collect();
    let Some(name) = update.containers.keys().find(|name| twins.iter().any(|twin| **twin == ***name)) else {
        return Progress::Done;
    };
    match pod.container(name).and_then(|twin| attempt.proved_at(twin)) {
        Some(at) => Progress::Undecided(Some(at)),
        None => attempt.by(attempt.deadline(), format!("{name}: not ready by podUpdateTimeoutSeconds")),
    }
}

/// Of twins that both have a real image, the one of the lower version serves: the higher one was written later. Version 0
/// idles, whatever its image.
fn twins<'a>(pod: &'a PodView, sidecar: &Sidecar) -> Result<Twins<'a>, String> {
    let find = |name: &String| pod.container(name).ok_or_else(|| format!("the pod has no container {name}"));
    let [first, second] = keys::twins(&sidecar.name);
    let (first, second) = (find(&first)?, find(&second)?);
    let idles = |twin: &ContainerView| same_image(&twin.image, &sidecar.idle_image);
    match (idles(first), idles(second)) {
        (false, true) => return Ok(Twins { serving: first, other: second, hands_over: false }),
        (true, false) => return Ok(Twins { serving: second, other: first, hands_over: false }),
        _ => {}
    }
    let version = |twin: &ContainerView| {
        let version = pod.versions.get(&twin.name).copied();
        let key = format!("{}{}", keys::VERSION_PREFIX, twin.name);
        version.ok_or_else(|| format!("which twin serves is not known: the pod has no annotation {key} with a number"))
    };
    let (one, two) = (version(first)?, version(second)?);
    if one == two {
        let (first, second) = (&first.name, &second.name);
        return Err(format!("which twin serves is not known: {first} and {second} have version {one}"));
    }
    let (low, high) = if one < two { (first, second) } else { (second, first) };
    Ok(match one.min(two) {
        0 => Twins { serving: high, other: low, hands_over: false },
        _ => Twins { serving: low, other: high, hands_over: true },
    })
}

fn hot(target: &Target) -> impl Iterator<Item = &Sidecar> {
    target.sidecars.iter().filter(|sidecar| sidecar.hot && sidecar.long_running)
}

fn update(target: &Target) -> String {
    keys::update_annotation(&target.set)
}
