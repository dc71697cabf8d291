//! Running numbers and groups: something comes (`add`), or goes. What is empty is not kept.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) fn tally(number: &mut usize, by: usize, add: bool) {
    *number = if add { *number + by } else { *number - by };
}

/// One more, or one less, of a kind.
pub(crate) fn count<K: Ord>(kinds: &mut BTreeMap<K, usize>, kind: K, add: bool) {
    if add {
        *kinds.entry(kind).or_default() += 1;
    } else if let Some(number) = kinds.get_mut(&kind) {
        *number -= 1;
        if *number == 0 {
            kinds.remove(&kind);
        }
    }
}

pub(crate) fn member<T: Ord>(set: &mut BTreeSet<T>, member: T, add: bool) {
    if add {
        set.insert(member);
    } else {
        set.remove(&member);
    }
}

/// A member of the group with this name.
pub(crate) fn group_member<K: Ord, T: Ord>(groups: &mut BTreeMap<K, BTreeSet<T>>, name: K, of: T, add: bool) {
    if add {
        groups.entry(name).or_default().insert(of);
    } else if let Some(group) = groups.get_mut(&name) {
        group.remove(&of);
        if group.is_empty() {
            groups.remove(&name);
        }
    }
}
