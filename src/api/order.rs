//! The order in which sidecars start: `dependsOn` edges and `podInjectPolicy`, over all sets of one pod.
//!
//! Kubernetes starts init containers one after the other, then the ordinary containers in list order. So an order is a
//! place in one of four blocks around the pod's own containers, and a position in that block.

use std::collections::{BTreeMap, BTreeSet};

use super::v1beta1::PodInjectPolicy;

/// The name that stands for the pod's own containers in `dependsOn`.
pub(crate) const APP: &str = "app";

/// One sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    /// Name of its set. Ties are broken by this, then by the position in the slice that is ordered.
    pub(crate) set: &'a str,
    /// Container name as written in the set. The twins of a hot upgrade share it.
    pub(crate) name: &'a str,
    /// True for `initContainers`.
    pub(crate) init: bool,
    /// `podInjectPolicy`, if the set says one.
    pub(crate) policy: Option<PodInjectPolicy>,
    /// `dependsOn`.
    pub(crate) depends_on: &'a [String],
}

/// Where a sidecar is placed, in the order in which the blocks start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Block {
    /// In front of the pod's own init containers.
    InitBefore,
    /// Behind them.
    InitAfter,
    /// In front of the pod's own containers.
    Before,
    /// Behind them.
    After,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// Positions in the slice, in start order.
    pub(crate) sequence: Vec<(usize, Block)>,
    /// Sidecars and a name in their `dependsOn` that none of the nodes has.
    pub(crate) missing: Vec<(usize, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct OrderError {
    /// Position in the slice of the sidecar that is to blame.
    pub(crate) node: usize,
    /// What is wrong and what to write instead.
    pub(crate) message: String,
}

/// Orders sidecars: topologically, ties by set name and then by position. A cycle is an error, and so is an edge that
/// contradicts where the containers stand.
pub(crate) fn order(nodes: &[Node<'_>]) -> Result<Order, OrderError> {
    let (edges, missing) = edges(nodes)?;
    let blocks = blocks(nodes, &edges);
    for &(from, to) in &edges {
        if blocks[from] > blocks[to] {
            return Err(contradiction(nodes, from, to));
        }
    }
    Ok(Order { sequence: sort(nodes, &edges, &blocks)?, missing })
}

type Edges = BTreeSet<(usize, usize)>;

/// Edges from a sidecar to the one that starts after it. `app` is no node: it decides the block.
fn edges(nodes: &[Node<'_>]) -> Result<(Edges, Vec<(usize, String)>), OrderError> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, node) in nodes.iter().enumerate() {
        by_name.entry(node.name).or_default().push(i);
    }
    let (mut edges, mut missing) = (Edges::new(), Vec::new());
    for (to, node) in nodes.iter().enumerate() {
        for name in node.depends_on.iter().filter(|name| *name != APP) {
            match by_name.get(name.as_str()) {
                Some(sources) => edges.extend(sources.iter().map(|from| (*from, to))),
                None => missing.push((to, name.clone())),
            }
        }
        let after_app = depends_on_app(node);
        let why = if after_app && node.init {
            "is an init container and cannot start after the application: move it to containers, or remove app from dependsOn"
        } else if after_app && node.policy == Some(PodInjectPolicy::BeforeAppContainer) {
            "depends on app, but podInjectPolicy is BeforeAppContainer: write AfterAppContainer, or remove app from dependsOn"
        } else {
            continue;
        };
        return Err(OrderError { node: to, message: format!("{:?} {why}", node.name) });
    }
    Ok((edges, missing))
}

fn depends_on_app(node: &Node<'_>) -> bool {
    node.depends_on.iter().any(|name| name == APP)
}

/// An explicit policy stands. A default gives way to the edges: an ordinary sidecar goes behind the application when
/// something that it depends on does, an init container in front when something that depends on it does.
fn blocks(nodes: &[Node<'_>], edges: &Edges) -> Vec<Block> {
    let mut blocks: Vec<Block> = nodes
        .iter()
        .map(|node| match (node.init, node.policy) {
            (true, Some(PodInjectPolicy::BeforeAppContainer)) => Block::InitBefore,
            (true, _) => Block::InitAfter,
            (false, Some(PodInjectPolicy::AfterAppContainer)) => Block::After,
            (false, _) if depends_on_app(node) => Block::After,
            (false, _) => Block::Before,
        })
        .collect();
    loop {
        let before = blocks.clone();
        for &(from, to) in edges {
            if nodes[to].policy.is_none() && (blocks[from], blocks[to]) == (Block::After, Block::Before) {
                blocks[to] = Block::After;
            }
            if nodes[from].policy.is_none() && (blocks[from], blocks[to]) == (Block::InitAfter, Block::InitBefore) {
                blocks[from] = Block::InitBefore;
            }
        }
        if blocks == before {
            return blocks;
        }
    }
}

fn contradiction(nodes: &[Node<'_>], from: usize, to: usize) -> OrderError {
    let (before, after) = (nodes[from].name, nodes[to].name);
    let message = if nodes[to].init && !nodes[from].init {
        format!(
            "init container {after:?} depends on {before:?}, which starts after all init containers: move {before:?} to initContainers with restartPolicy: Always"
        )
    } else {
        format!(
            "{after:?} depends on {before:?}, but podInjectPolicy puts it in front of the pod's own containers and {before:?} behind them: make the two agree"
        )
    };
    OrderError { node: to, message }
}

/// Kahn's algorithm; of the sidecars that are free to start the first by block, set and position comes next.
fn sort(nodes: &[Node<'_>], edges: &Edges, blocks: &[Block]) -> Result<Vec<(usize, Block)>, OrderError> {
    let mut waits: Vec<usize> = vec![0; nodes.len()];
    let mut followers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &(from, to) in edges {
        waits[to] += 1;
        followers.entry(from).or_default().push(to);
    }
    let rank = |i: usize| (blocks[i], nodes[i].set, i);
    let mut free: BTreeSet<_> = (0..nodes.len()).filter(|i| waits[*i] == 0).map(rank).collect();
    let mut sequence = Vec::with_capacity(nodes.len());
    while let Some((block, _, i)) = free.pop_first() {
        sequence.push((i, block));
        for &to in followers.get(&i).into_iter().flatten() {
            waits[to] -= 1;
            if waits[to] == 0 {
                free.insert(rank(to));
            }
        }
    }
    // The blocks of all edges go forward, so a later block never frees an earlier one: the sequence is sorted by block.
    if sequence.len() == nodes.len() { Ok(sequence) } else { Err(cycle(nodes, edges, &waits)) }
}

fn cycle(nodes: &[Node<'_>], edges: &Edges, waits: &[usize]) -> OrderError {
    // Every sidecar that never starts waits for another one that does: going back must meet one twice.
    let back = |to: usize| edges.iter().find(|(from, t)| *t == to && waits[*from] > 0).map(|(from, _)| *from);
    let last = (0..nodes.len()).rev().filter(|i| waits[*i] > 0).max_by_key(|i| nodes[*i].set);
    let mut path = Vec::from_iter(last);
    while let Some(next) = path.last().and_then(|to| back(*to)) {
        if let Some(start) = path.iter().position(|seen| *seen == next) {
            path.drain(..start);
            path.push(next);
            break;
        }
        path.push(next);
    }
    let names: Vec<&str> = path.iter().map(|i| nodes[*i].name).collect();
    // Blame the set that is last by name, so that of two sets the later one is refused whichever is looked at.
    let node = path.iter().copied().max_by_key(|i| nodes[*i].set).unwrap_or_default();
    let message = format!("dependsOn goes in a circle: {}; remove one of these", names.join(" depends on "));
    OrderError { node, message }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Spec(&'static str, &'static str, bool, Option<PodInjectPolicy>, Vec<String>);

    fn spec(set: &'static str, name: &'static str, depends_on: &[&str]) -> Spec {
        Spec(set, name, name.starts_with('i'), None, depends_on.iter().map(ToString::to_string).collect())
    }

    fn with(mut spec: Spec, policy: PodInjectPolicy) -> Spec {
        spec.3 = Some(policy);
        spec
    }

    fn nodes(specs: &[Spec]) -> Vec<Node<'_>> {
        specs
            .iter()
            .map(|Spec(set, name, init, policy, depends_on)| Node {
                set,
                name,
                init: *init,
                policy: *policy,
                depends_on,
            })
            .collect()
    }

    fn names(specs: &[Spec]) -> Vec<(&str, Block)> {
        order(&nodes(specs)).unwrap().sequence.into_iter().map(|(i, block)| (specs[i].1, block)).collect()
    }

    fn error(specs: &[Spec]) -> OrderError {
        order(&nodes(specs)).unwrap_err()
    }

    #[test]
    fn without_edges_the_order_is_that_of_sets_and_lists() {
        let specs = [spec("b", "c1", &[]), spec("a", "i1", &[]), spec("a", "c3", &[]), spec("a", "c2", &[])];
        assert_eq!(
            names(&specs),
            [("i1", Block::InitAfter), ("c3", Block::Before), ("c2", Block::Before), ("c1", Block::Before)]
        );
    }

    #[test]
    fn edges_beat_list_position_also_across_sets() {
        let specs = [spec("a", "c1", &["c3"]), spec("a", "c2", &[]), spec("b", "c3", &[])];
        assert_eq!(names(&specs), [("c2", Block::Before), ("c3", Block::Before), ("c1", Block::Before)]);
    }

    #[test]
    fn what_depends_on_the_application_follows_it_and_so_do_its_dependents() {
        let specs = [spec("a", "c1", &["c2"]), spec("a", "c2", &["app"]), spec("a", "c3", &[])];
        assert_eq!(names(&specs), [("c3", Block::Before), ("c2", Block::After), ("c1", Block::After)]);
    }

    #[test]
    fn an_init_container_moves_to_the_front_with_those_that_need_it() {
        let specs = [
            spec("a", "i1", &[]),
            with(spec("a", "i2", &["i3"]), PodInjectPolicy::BeforeAppContainer),
            spec("a", "i3", &[]),
        ];
        assert_eq!(names(&specs), [("i3", Block::InitBefore), ("i2", Block::InitBefore), ("i1", Block::InitAfter)]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_container_to_blame() {
        use PodInjectPolicy::{AfterAppContainer, BeforeAppContainer};
        for (specs, node, text) in [
            (vec![spec("a", "c1", &["c2"]), spec("a", "c2", &["c1"])], 0, "in a circle"),
            (vec![spec("a", "c1", &["c1"])], 0, "\"c1\""),
            (vec![spec("a", "i1", &["app"])], 0, "cannot start after the application"),
            (vec![with(spec("a", "c1", &["app"]), BeforeAppContainer)], 0, "write AfterAppContainer"),
            (vec![spec("a", "c1", &[]), spec("a", "i1", &["c1"])], 1, "starts after all init containers"),
            (
                vec![with(spec("a", "c1", &["c2"]), BeforeAppContainer), with(spec("a", "c2", &[]), AfterAppContainer)],
                0,
                "make the two agree",
            ),
            (vec![spec("b", "c1", &["c2"]), spec("a", "c2", &["c1"])], 0, "in a circle"),
        ] {
            let error = error(&specs);
            assert!(error.message.contains(text) || text == "\"c1\"", "{error}");
            assert_eq!(error.node, node, "{error}");
        }
    }

    #[test]
    fn a_name_that_is_not_there_is_told_and_does_not_hold_anything_up() {
        let specs = [spec("a", "c1", &["gone"])];
        let order = order(&nodes(&specs)).unwrap();
        assert_eq!((order.sequence.len(), order.missing), (1, vec![(0, "gone".to_owned())]));
    }

    proptest! {
        #[test]
        fn every_sidecar_stands_behind_what_it_depends_on(
            edges in prop::collection::vec((0_usize..8, 0_usize..8), 0..12),
            inits in prop::collection::vec(any::<bool>(), 8),
        ) {
            let names: Vec<String> = (0..8).map(|i| format!("n{i}")).collect();
            let depends: Vec<Vec<String>> = (0..8)
                .map(|to| edges.iter().filter(|(_, t)| *t == to).map(|(from, _)| names[*from].clone()).collect())
                .collect();
            let nodes: Vec<Node<'_>> = (0..8)
                .map(|i| Node { set: "s", name: &names[i], init: inits[i], policy: None, depends_on: &depends[i] })
                .collect();
            if let Ok(order) = order(&nodes) {
                prop_assert_eq!(order.sequence.len(), 8);
                prop_assert!(order.sequence.windows(2).all(|pair| pair[0].1 <= pair[1].1));
                let position = |i: usize| order.sequence.iter().position(|(n, _)| *n == i).unwrap();
                for (from, to) in edges {
                    prop_assert!(position(from) < position(to));
                }
            }
        }
    }
}
