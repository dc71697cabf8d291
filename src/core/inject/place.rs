//! One attempt to put the sidecars of all candidates into a pod, each at its place, or to say which set cannot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::budget::failure;
use super::compile::{CompiledSet, CompiledTemplate, Prepared};
use super::converge::{converge, covers};
use super::draft::{Draft, elements};
use super::marks::{Mark, Marks};
use super::metadata::{self, Wishes};
use super::resources::{PodLevel, Unfit};
use super::sets::CompiledSets;
use super::share::Sources;
use super::{is_injected, strangers, volumes};
use crate::api::keys;
use crate::api::order::{Block, Node, Order, order};
use crate::api::reasons::InjectionReason;
use crate::api::v1beta1::FailurePolicy;
use crate::core::revision::List;

pub(super) const VOLUMES: [&str; 2] = ["spec", "volumes"];
pub(super) const PULL_SECRETS: [&str; 2] = ["spec", "imagePullSecrets"];

pub(super) fn path(list: List) -> [&'static str; 2] {
    ["spec", list.field()]
}

/// Whether the pod has a container of this name.
pub(super) fn has(draft: &Draft, container: &str) -> bool {
    List::ALL.into_iter().any(|list| draft.position(&path(list), container).is_some())
}

/// A set that injects, and with which revision.
pub(super) struct Candidate<'a> {
    pub(super) set: &'a CompiledSet,
    pub(super) template: Arc<CompiledTemplate>,
}

/// Why a candidate cannot inject into this pod.
pub(super) struct Failure {
    /// Position among the candidates.
    pub(super) candidate: usize,
    pub(super) reason: InjectionReason,
    pub(super) message: String,
}

/// A sidecar as it should be in this pod.
pub(super) struct Rendered<'a> {
    pub(super) candidate: usize,
    pub(super) prepared: &'a Prepared,
    pub(super) json: Value,
}

/// What was done for one candidate.
#[derive(Clone, Default)]
pub(super) struct Done {
    pub(super) changed: bool,
    pub(super) notes: Vec<String>,
}

/// The pod as it came, and what is edited.
pub(super) struct Placement<'a> {
    pub(super) raw: &'a Value,
    pub(super) all: &'a CompiledSets,
    pub(super) draft: Draft,
    pub(super) marks: Marks,
    pub(super) candidates: &'a [Candidate<'a>],
}

impl<'a> Placement<'a> {
    /// Places everything, or nothing: on a failure the draft is thrown away.
    pub(super) fn place(mut self) -> Result<(Draft, Vec<Done>), Failure> {
        self.check_names()?;
        self.check_volumes()?;
        let order = self.order()?;
        let mut done: Vec<Done> = self.candidates.iter().map(|_| Done::default()).collect();
        self.forget_older(&mut done);
        let mut new_marks = self.metadata(&mut done);
        let mut wanted = self.render(&order, &mut done)?;
        let pod_level = self.share_budget(&order, &mut wanted)?;
        self.containers(&order, &wanted, &mut done);
        if let Some((candidate, PodLevel::Write(value))) = &pod_level {
            let edits = self.draft.edits();
            self.draft.set(&["spec", "resources"], value);
            done[*candidate].changed |= self.draft.edits() > edits;
            new_marks[*candidate].resources = true;
        }
        self.check_resources()?;
        let mut claimed = BTreeSet::new();
        for ((candidate, mark), done) in self.candidates.iter().zip(&mut new_marks).zip(&mut done) {
            let edits = self.draft.edits();
            self.volumes(candidate, mark, &mut claimed);
            self.pull_secrets(candidate, mark);
            self.write_marks(candidate, mark);
            done.changed |= self.draft.edits() > edits;
        }
        self.default_container();
        Ok((self.draft, done))
    }

    fn check_names(&self) -> Result<(), Failure> {
        let mut claimed: BTreeMap<&str, &str> = BTreeMap::new();
        for (candidate, Candidate { set, template }) in self.candidates.iter().enumerate() {
            for prepared in &template.containers {
                let name = prepared.name.as_str();
                let existing = List::ALL.into_iter().find_map(|list| {
                    elements(self.draft.pod(), &path(list)).find(|container| container["name"] == name)
                });
                let there = existing.is_some();
                let owner = self.marks.owner(name);
                let other = claimed.get(name).copied().or(owner).filter(|owner| *owner != set.name);
                let by = match other {
                    Some(other) if there || claimed.contains_key(name) => format!("SidecarSet {other:?}"),
                    _ if existing.is_some_and(is_injected) && owner.is_none() => {
                        "a sidecar that a deleted SidecarSet or another injector left".to_owned()
                    }
                    _ if there && owner.is_none() => "one of the pod's own containers".to_owned(),
                    _ => continue,
                };
                let message = format!("container name {name:?} is taken by {by}; rename one of them");
                return Err(Failure { candidate, reason: InjectionReason::NameConflict, message });
            }
            claimed.extend(template.containers.iter().map(|prepared| (prepared.name.as_str(), set.name.as_str())));
        }
        Ok(())
    }

    fn check_volumes(&self) -> Result<(), Failure> {
        let mut claimed: BTreeMap<&str, &Value> = BTreeMap::new();
        for (candidate, Candidate { template, .. }) in self.candidates.iter().enumerate() {
            for volume in &template.volumes {
                let name = volume["name"].as_str().unwrap_or_default();
                let ours = self.was_added(name);
                let existing = elements(self.draft.pod(), &VOLUMES).find(|existing| existing["name"] == name && !ours);
                if existing.or(claimed.get(name).copied()).is_some_and(|other| !volumes::same(other, volume)) {
                    let message = format!(
                        "there is another volume {name:?} in the pod or in another SidecarSet; rename one of them or make the two equal"
                    );
                    return Err(Failure { candidate, reason: InjectionReason::VolumeConflict, message });
                }
                claimed.insert(name, volume);
            }
        }
        Ok(())
    }

    /// The start order over all candidates; positions are those of [`Self::prepared`].
    fn order(&self) -> Result<Order, Failure> {
        let node = |(candidate, prepared): (usize, &'a Prepared)| Node {
            set: &self.candidates[candidate].set.name,
            name: &prepared.entry,
            init: prepared.list == List::Init,
            policy: prepared.policy,
            depends_on: &prepared.depends_on,
        };
        let (owners, nodes): (Vec<usize>, Vec<Node<'_>>) = self.prepared().map(|pair| (pair.0, node(pair))).unzip();
        order(&nodes).map_err(|error| Failure {
            candidate: owners[error.node],
            reason: InjectionReason::OrderConflict,
            message: error.message,
        })
    }

    /// All containers of all candidates, and whose they are.
    fn prepared(&self) -> impl Iterator<Item = (usize, &'a Prepared)> + use<'a> {
        let candidates = self.candidates.iter().enumerate();
        candidates.flat_map(|(i, candidate)| candidate.template.containers.iter().map(move |prepared| (i, prepared)))
    }

    /// Before the containers: they may take names from labels and annotations.
    fn metadata(&mut self, done: &mut [Done]) -> Vec<Mark> {
        let wishes: Vec<Wishes<'_>> = self
            .candidates
            .iter()
            .map(|Candidate { set, template }| Wishes { set: &set.name, patches: &template.metadata })
            .collect();
        let edits = self.draft.edits();
        let mut written = metadata::write(&mut self.draft, &self.marks, self.all, &wishes);
        let changed = self.draft.edits() > edits;
        let mut marks = Vec::new();
        for (Candidate { set, .. }, done) in self.candidates.iter().zip(done) {
            let written = written.remove(set.name.as_str()).unwrap_or_default();
            done.changed |= changed && !(written.labels.is_empty() && written.annotations.is_empty());
            done.notes.extend(written.notes);
            marks.push(Mark { labels: written.labels, annotations: written.annotations, ..Mark::default() });
        }
        marks
    }

    /// What each sidecar should look like in this pod, with what it takes over and computes from the pod's own containers.
    fn render(&self, order: &Order, done: &mut [Done]) -> Result<Vec<Rendered<'a>>, Failure> {
        let own = self.own_containers();
        let list = |list: List| own.iter().filter(|(of, _)| *of == list).map(|(_, container)| *container).collect();
        let sources = Sources { containers: list(List::Ordinary), init_containers: list(List::Init) };
        let targets: Vec<&Value> = own
            .iter()
            .filter(|(of, c)| *of == List::Ordinary || c["restartPolicy"] == "Always")
            .map(|(_, c)| *c)
            .collect();
        let mut rendered = Vec::new();
        for (candidate, prepared) in self.prepared() {
            let mut json = prepared.json.clone();
            let notes = &mut done[candidate].notes;
            notes.extend(prepared.shares.apply(&mut json, self.draft.pod(), &sources));
            match prepared.resources.as_ref().map(|policy| policy.evaluate(&targets)) {
                Some(Ok(evaluated)) => {
                    json["resources"] = evaluated.resources;
                    notes.extend(evaluated.warnings.iter().map(|warning| format!("{:?}: {warning}", prepared.name)));
                }
                // No pod is refused because a name is missing, unless the set says so.
                Some(Err(unfit @ Unfit::NoTarget { .. }))
                    if self.candidates[candidate].set.failure_policy == FailurePolicy::Ignore =>
                {
                    notes.push(format!("{:?} gets no resources: {unfit}", prepared.name));
                }
                Some(Err(unfit)) => return Err(failure(candidate, &unfit)),
                None => {}
            }
            rendered.push(Rendered { candidate, prepared, json });
        }
        for (node, name) in &order.missing {
            let Rendered { candidate, prepared, .. } = &rendered[*node];
            let note = format!("{:?} depends on {name:?}, which this pod does not get", prepared.entry);
            done[*candidate].notes.push(note);
        }
        Ok(rendered)
    }

    pub(super) fn containers(&mut self, order: &Order, wanted: &[Rendered<'_>], done: &mut [Done]) {
        let mut lifted = self.lift(order, wanted, done);
        // Where the next container in front of the pod's own goes.
        let mut front: BTreeMap<List, usize> = BTreeMap::new();
        for (node, block) in &order.sequence {
            let Rendered { candidate, prepared, json } = &wanted[*node];
            let edits = self.draft.edits();
            let in_front = matches!(block, Block::InitBefore | Block::Before);
            let at = if in_front { front.get(&prepared.list).copied().unwrap_or(0) } else { usize::MAX };
            let placed = self.put(prepared, json, lifted.remove(&prepared.name), at);
            if in_front {
                front.insert(prepared.list, placed + 1);
            }
            done[*candidate].changed |= self.draft.edits() > edits;
        }
    }

    /// The pod's own containers, as it came: not ours, and no other injector's that marks its own like OpenKruise.
    pub(super) fn own_containers(&self) -> Vec<(List, &'a Value)> {
        let sidecar = |container: &Value| {
            self.marks.owner(container["name"].as_str().unwrap_or_default()).is_some() || is_injected(container)
        };
        let raw = self.raw;
        let of = |list: List| elements(raw, &path(list)).map(move |container| (list, container)).collect::<Vec<_>>();
        List::ALL.into_iter().flat_map(of).filter(|(_, container)| !sidecar(container)).collect()
    }

    /// Takes out containers of ours that must be placed anew: those of another revision, as nobody can tell their old
    /// fields from those that others added, and all where they stand in another order. Returns what the latter were.
    fn lift(&mut self, order: &Order, wanted: &[Rendered<'_>], done: &mut [Done]) -> BTreeMap<String, Value> {
        let mut lifted = BTreeMap::new();
        for list in List::ALL {
            let mut ours: Vec<(&Rendered<'_>, Block)> = Vec::new();
            for (entry, block) in order.sequence.iter().map(|(node, block)| (&wanted[*node], *block)) {
                let Rendered { candidate, prepared: container, .. } = entry;
                let current = self.is_current(&self.candidates[*candidate]);
                let there = self.draft.position(&path(container.list), &container.name).is_some();
                if !current || container.list != list && there {
                    // Of another revision, or a second one in the other list.
                    done[*candidate].changed |= self.draft.remove_named(&path(list), &container.name);
                }
                if container.list == list {
                    ours.push((entry, block));
                }
            }
            let place =
                |(r, block): &(&Rendered<'_>, Block)| (self.draft.position(&path(list), &r.prepared.name), *block);
            let places: Vec<(Option<usize>, Block)> = ours.iter().map(place).collect();
            if places.iter().filter_map(|(position, _)| *position).is_sorted() && !is_overtaken(&places) {
                continue;
            }
            for (Rendered { candidate, prepared: Prepared { name, .. }, .. }, _) in ours {
                if let Some(container) = elements(self.draft.pod(), &path(list)).find(|c| c["name"] == name.as_str()) {
                    lifted.insert(name.clone(), container.clone());
                }
                done[*candidate].changed |= self.draft.remove_named(&path(list), name);
            }
        }
        lifted
    }

    /// What is there came from the very revision that the pod gets.
    fn is_current(&self, candidate: &Candidate<'_>) -> bool {
        self.marks.revisions.get(&candidate.set.name) == Some(&candidate.template.revision)
    }

    /// Puts one container where it belongs; returns where that is.
    fn put(&mut self, prepared: &Prepared, wanted: &Value, lifted: Option<Value>, at: usize) -> usize {
        let list = path(prepared.list);
        if let Some(index) = self.draft.position(&list, &prepared.name) {
            if let Some(converged) = converge(&self.draft.pod()["spec"][prepared.list.field()][index], wanted) {
                self.draft.replace(&list, index, &converged);
            }
            return index;
        }
        let container = lifted.map(|before| converge(&before, wanted).unwrap_or(before));
        self.draft.insert(&list, at, container.as_ref().unwrap_or(wanted));
        at
    }

    /// What another revision added and this one may not want: nobody can tell later whose it is.
    fn forget_older(&mut self, done: &mut [Done]) {
        for (candidate, done) in self.candidates.iter().zip(done) {
            let Some(mark) = self.marks.by_set.get(&candidate.set.name).filter(|_| !self.is_current(candidate)) else {
                continue;
            };
            let edits = self.draft.edits();
            strangers::added_around(&mut self.draft, mark);
            done.changed |= self.draft.edits() > edits;
        }
    }

    /// A volume that came with a set that injects now, or with one whose sidecars are gone: sets may share it.
    fn was_added(&self, volume: &str) -> bool {
        let listed = |candidate: &Candidate<'_>| self.marks.lists(&candidate.set.name, volume, |mark| &mark.volumes);
        self.candidates.iter().any(listed) || self.marks.orphans.contains(volume)
    }

    /// `claimed`: volumes that an earlier set has in its mark.
    fn volumes(&mut self, candidate: &Candidate<'_>, mark: &mut Mark, claimed: &mut BTreeSet<String>) {
        let Candidate { set, template } = candidate;
        let current = self.is_current(candidate);
        for volume in &template.volumes {
            let name = volume["name"].as_str().unwrap_or_default();
            let ours = self.was_added(name);
            let index = self.draft.position(&VOLUMES, name);
            match index {
                None => self.draft.insert(&VOLUMES, usize::MAX, volume),
                Some(index) => {
                    let existing = &self.draft.pod()["spec"]["volumes"][index];
                    // One of this very revision may have got defaults since.
                    if !(volumes::same(existing, volume) || ours && current && covers(existing, volume, false)) {
                        self.draft.replace(&VOLUMES, index, volume);
                    }
                }
            }
            if (ours || index.is_none()) && claimed.insert(name.to_owned()) {
                mark.volumes.push(name.to_owned());
            }
        }
        // Those of another revision.
        for volume in self.marks.by_set.get(&set.name).iter().flat_map(|mark| &mark.volumes) {
            if !strangers::is_mounted(&self.draft, volume) {
                self.draft.remove_named(&VOLUMES, volume);
            }
        }
    }

    fn pull_secrets(&mut self, candidate: &Candidate<'_>, mark: &mut Mark) {
        let Candidate { set, template } = candidate;
        for secret in &template.pull_secrets {
            let name = secret["name"].as_str().unwrap_or_default();
            let there = self.draft.position(&PULL_SECRETS, name).is_some();
            if !there {
                self.draft.insert(&PULL_SECRETS, usize::MAX, secret);
            }
            if !there || self.marks.lists(&set.name, name, |mark| &mark.image_pull_secrets) {
                mark.image_pull_secrets.push(name.to_owned());
            }
        }
    }

    fn write_marks(&mut self, candidate: &Candidate<'_>, mark: &mut Mark) {
        let Candidate { set, template } = candidate;
        let of = |list: List| template.containers.iter().filter(move |c| c.list == list).map(|c| c.name.clone());
        mark.containers = of(List::Ordinary).collect();
        mark.init_containers = of(List::Init).collect();
        mark.hot.clone_from(&template.hot);
        mark.base.clone_from(&set.base);
        mark.shape.clone_from(&template.shape);
        let twins: BTreeSet<&str> =
            template.containers.iter().filter(|c| c.name != c.entry).map(|c| c.name.as_str()).collect();
        for twin in twins {
            let works = template.hot.values().any(|first| first == twin);
            let (version, other) = if works { ("1", "0") } else { ("0", "1") };
            for (prefix, value) in [(keys::VERSION_PREFIX, version), (keys::VERSION_ALT_PREFIX, other)] {
                let key = format!("{prefix}{twin}");
                self.draft.set(&["metadata", "annotations", &key], &Value::from(value));
                mark.annotations.push(key);
            }
        }
        let text = |value: &str| Value::from(value);
        self.draft.set(&["metadata", "labels", keys::INJECTED], &text("true"));
        self.draft.set(&["metadata", "labels", &keys::revision_label(&set.name)], &text(&template.revision));
        self.draft.set(&["metadata", "annotations", &keys::injection_annotation(&set.name)], &text(&mark.to_json()));
    }

    /// `kubectl logs` and `exec` go to the first container unless told otherwise: keep them at the application.
    fn default_container(&mut self) {
        let ordinary = path(List::Ordinary);
        let names = elements(self.draft.pod(), &ordinary).filter_map(|container| container["name"].as_str());
        let ours: BTreeSet<&str> =
            self.candidates.iter().flat_map(|c| &c.template.containers).map(|c| c.name.as_str()).collect();
        let is_sidecar = |name: &str| ours.contains(name) || self.marks.owner(name).is_some();
        let names: Vec<&str> = names.collect();
        let app = names.iter().find(|name| !is_sidecar(name)).map(|name| Value::from(*name));
        let unset = self.draft.pod()["metadata"]["annotations"][keys::DEFAULT_CONTAINER].is_null();
        if let Some(app) = app
            && unset
            && names.first().is_some_and(|first| is_sidecar(first))
        {
            self.draft.set(&["metadata", "annotations", keys::DEFAULT_CONTAINER], &app);
        }
    }
}

/// Behind the pod's own containers a new one goes to the end: it would start after those that are there already.
fn is_overtaken(places: &[(Option<usize>, Block)]) -> bool {
    let behind = places.iter().filter(|(_, block)| matches!(block, Block::InitAfter | Block::After));
    behind.skip_while(|(position, _)| position.is_some()).any(|(position, _)| position.is_some())
}
