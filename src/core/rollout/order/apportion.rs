//! Whose turn it is: spreads the pods of several groups evenly over one order.
//!
//! R. Tijdeman, "The chairman assignment problem" (1980): of the first p of N pods, a group of n pods has p·n/N up to an
//! error of less than one pod, however many groups there are. Merging the groups by the relative positions of their
//! pods alone would put all groups of one pod next to each other, in the middle.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Takes the next pod of each group and says which goes first. `T` breaks ties.
#[derive(Debug)]
pub(crate) struct Apportion<T> {
    /// Pods of all groups.
    total: usize,
    /// 2 · groups − 2, the denominator of Tijdeman's margin.
    margin: usize,
    /// Pods before whose first turn nothing may be taken: first turn, last turn.
    early: BinaryHeap<Reverse<(usize, usize, T)>>,
    /// The others: last turn.
    due: BinaryHeap<Reverse<(usize, T)>>,
}

impl<T: Ord> Apportion<T> {
    pub fn new(groups: usize, total: usize) -> Self {
        Self { total, margin: (2 * groups.max(2)) - 2, early: BinaryHeap::new(), due: BinaryHeap::new() }
    }

    /// Enters the next pod of a group of `pods`, of which `done` have had their turn.
    pub(crate) fn push(&mut self, pods: usize, done: usize, next: T) {
        let turn = |numerator: usize| numerator * self.total;
        let (first, divisor) = (turn(self.margin * done + 1), self.margin * pods.max(1));
        let last = turn(self.margin * done + self.margin - 1) / divisor + 1;
        self.early.push(Reverse((first.div_ceil(divisor), last, next)));
    }

    /// Takes the pod that has this turn; turns are counted from 1.
    pub(crate) fn pop(&mut self, turn: usize) -> Option<T> {
        // If all are early, because a group is missing that has no pod to give, the first to come takes the turn.
        while self.early.peek().is_some_and(|Reverse((first, ..))| *first <= turn || self.due.is_empty()) {
            let Reverse((_, last, next)) = self.early.pop()?;
            self.due.push(Reverse((last, next)));
        }
        self.due.pop().map(|Reverse((_, next))| next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The groups in the order of their turns, taken in batches of `batch`.
    fn order(groups: &[usize], batch: usize) -> Vec<usize> {
        let total: usize = groups.iter().sum();
        let mut done = vec![0; groups.len()];
        let mut order = Vec::new();
        while order.len() < total {
            let mut turns = Apportion::new(groups.len(), total);
            let enter = |turns: &mut Apportion<usize>, done: &[usize], group: usize| {
                if done[group] < groups[group] {
                    turns.push(groups[group], done[group], group);
                }
            };
            (0..groups.len()).for_each(|group| enter(&mut turns, &done, group));
            for _ in 0..batch {
                let Some(group) = turns.pop(order.len() + 1) else { break };
                order.push(group);
                done[group] += 1;
                enter(&mut turns, &done, group);
            }
        }
        order
    }

    fn text(groups: &[usize]) -> String {
        order(groups, 1).into_iter().map(|group| char::from(b'a' + u8::try_from(group).unwrap())).collect()
    }

    #[test]
    fn groups_are_spread() {
        assert_eq!(text(&[3]), "aaa");
        assert_eq!(text(&[6, 3]), "abaabaaba");
        assert_eq!(text(&[9, 1]), "aaaaabaaaa");
        assert_eq!(text(&[1, 1, 1]), "abc");
        assert_eq!(text(&[12, 1, 1, 1]), "aaaabaaaacaadaa");
    }

    proptest! {
        #[test]
        fn any_start_of_the_order_has_its_share_of_each_group(
            groups in prop::collection::vec(1..40_usize, 1..12), batch in 1..20_usize,
        ) {
            let total: usize = groups.iter().sum();
            let order = order(&groups, batch);
            prop_assert_eq!(order.len(), total);
            let mut done = vec![0; groups.len()];
            for (i, group) in order.into_iter().enumerate() {
                done[group] += 1;
                for (done, pods) in done.iter().zip(&groups) {
                    let share = (i + 1) * pods;
                    prop_assert!((share / total..=share.div_ceil(total)).contains(done), "{done} of {pods} at {i}");
                }
            }
        }
    }
}
