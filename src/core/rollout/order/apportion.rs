//! Whose turn it is: spreads the pods of several classes evenly over one order.
//!
//! R. Tijdeman, "The chairman assignment problem" (1980): of the first p of N pods, a class of n pods has p·n/N up to an
//! error of less than one pod, however many classes there are. Merging the classes by the relative positions of their
//! pods alone would put all classes of one pod next to each other, in the middle.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Takes the next pod of each class and says which goes first. `T` breaks ties.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    /// Pods of all classes.
    total: usize,
    /// 2 · classes − 2, the denominator of Tijdeman's margin.
    margin: usize,
    /// Pods before whose first turn nothing may be taken: first turn, last turn.
    early: BinaryHeap<Reverse<(usize, usize, T)>>,
    /// The others: last turn.
    due: BinaryHeap<Reverse<(usize, T)>>,
}

impl<T: Ord> Turns<T> {
    pub(crate) fn new(classes: usize, total: usize) -> Self {
        Self { total, margin: (2 * classes.max(2)) - 2, early: BinaryHeap::new(), due: BinaryHeap::new() }
    }

    /// Enters the next pod of a class of `pods`, of which `done` have had their turn.
    pub(crate) fn push(&mut self, pods: usize, done: usize, next: T) {
        let turn = |numerator: usize| numerator * self.total;
        let (first, divisor) = (turn(self.margin * done + 1), self.margin * pods.max(1));
        let last = turn(self.margin * done + self.margin - 1) / divisor + 1;
        self.early.push(Reverse((first.div_ceil(divisor), last, next)));
    }

    /// Takes the pod that has this turn; turns are counted from 1.
    pub(crate) fn pop(&mut self, turn: usize) -> Option<T> {
        // If all are early, because a class is missing that has no pod to give, the first to come takes the turn.
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

    /// The classes in the order of their turns, taken in batches of `batch`.
    fn order(classes: &[usize], batch: usize) -> Vec<usize> {
        let total: usize = classes.iter().sum();
        let mut done = vec![0; classes.len()];
        let mut order = Vec::new();
        while order.len() < total {
            let mut turns = Turns::new(classes.len(), total);
            let enter = |turns: &mut Turns<usize>, done: &[usize], class: usize| {
                if done[class] < classes[class] {
                    turns.push(classes[class], done[class], class);
                }
            };
            (0..classes.len()).for_each(|class| enter(&mut turns, &done, class));
            for _ in 0..batch {
                let Some(class) = turns.pop(order.len() + 1) else { break };
                order.push(class);
                done[class] += 1;
                enter(&mut turns, &done, class);
            }
        }
        order
    }

    fn text(classes: &[usize]) -> String {
        order(classes, 1).into_iter().map(|class| char::from(b'a' + u8::try_from(class).unwrap())).collect()
    }

    #[test]
    fn classes_are_spread() {
        assert_eq!(text(&[3]), "aaa");
        assert_eq!(text(&[6, 3]), "abaabaaba");
        assert_eq!(text(&[9, 1]), "aaaaabaaaa");
        assert_eq!(text(&[1, 1, 1]), "abc");
        assert_eq!(text(&[12, 1, 1, 1]), "aaaabaaaacaadaa");
    }

    proptest! {
        #[test]
        fn any_start_of_the_order_has_its_share_of_each_class(
            classes in prop::collection::vec(1..40_usize, 1..12), batch in 1..20_usize,
        ) {
            let total: usize = classes.iter().sum();
            let order = order(&classes, batch);
            prop_assert_eq!(order.len(), total);
            let mut done = vec![0; classes.len()];
            for (i, class) in order.into_iter().enumerate() {
                done[class] += 1;
                for (done, pods) in done.iter().zip(&classes) {
                    let share = (i + 1) * pods;
                    prop_assert!((share / total..=share.div_ceil(total)).contains(done), "{done} of {pods} at {i}");
                }
            }
        }
    }
}
