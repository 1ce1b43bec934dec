//! Counters that never go backwards although the kernel's belong to ids, and ids are given away again.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use lb_common::stats::{BackendStats, ServiceStats};

/// Names of removed holders whose totals are remembered, should they come back.
const REMEMBERED: usize = 4096;

/// A block of counters.
pub trait Sums: Copy + PartialEq {
    /// Nothing counted.
    const ZERO: Self;
    /// Both together.
    #[must_use]
    fn plus(&self, other: &Self) -> Self;
    /// What was counted since `earlier`.
    #[must_use]
    fn since(&self, earlier: &Self) -> Self;
}

macro_rules! sums {
    ($($t:ty),+) => {$(
        impl Sums for $t {
            const ZERO: Self = Self::ZERO;
            fn plus(&self, other: &Self) -> Self {
                Self::plus(self, other)
            }
            fn since(&self, earlier: &Self) -> Self {
                Self::since(self, earlier)
            }
        }
    )+};
}

sums!(BackendStats, ServiceStats);

/// Who holds an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder<K> {
    /// The labels of the series.
    pub labels: K,
    /// Index of the counters in the kernel.
    pub id: u16,
    /// Rises when the id is given to another holder.
    pub generation: u16,
    /// The holder had the id before this agent looked, so all that the kernel counted is its own.
    pub adopted: bool,
}

/// Names of holders, and the group that each belongs to.
pub trait Labels: Ord + Clone {
    /// Name of a group.
    type Group: Ord + Clone;
    /// The group of the holder with this name.
    fn group(&self) -> Self::Group;
}

/// A service is its own group.
impl Labels for String {
    type Group = Self;
    fn group(&self) -> Self {
        self.clone()
    }
}

/// A backend's is its service.
impl Labels for (String, String) {
    type Group = String;
    fn group(&self) -> String {
        self.0.clone()
    }
}

/// Turns counters by id into totals by name.
///
/// A holder's total is what the kernel counted since it got the id, and what earlier holders of the same name
/// left behind. A reading that fails costs exactness, never the rise: the last total stands in for it.
#[derive(Debug)]
pub struct Ledger<K: Labels, S> {
    live: BTreeMap<K, Live<S>>,
    left: BTreeMap<K, S>,
    left_order: VecDeque<K>,
    gone: BTreeMap<K::Group, S>,
}

#[derive(Debug)]
struct Live<S> {
    id: u16,
    generation: u16,
    base: Option<S>,
    before: S,
    last: S,
}

impl<S: Sums> Live<S> {
    fn total(&mut self, reading: &S) -> S {
        let mut base = *self.base.get_or_insert(*reading);
        // The kernel's counters were cleared for the new owner of the id: they are all its own from here on.
        let went_back = reading.since(&base).plus(&base) != *reading;
        if went_back {
            (base, self.before) = (S::ZERO, self.last);
            self.base = Some(base);
        }
        self.last = self.before.plus(&reading.since(&base));
        self.last
    }
}

impl<K: Labels, S: Sums> Default for Ledger<K, S> {
    fn default() -> Self {
        Self {
            live: BTreeMap::new(),
            left: BTreeMap::new(),
            left_order: VecDeque::new(),
            gone: BTreeMap::new(),
        }
    }
}

impl<K: Labels, S: Sums> Ledger<K, S> {
    /// Says who holds which id from now on. Call it before the change is written to the kernel; `read` gives
    /// the counters of an id and is asked only for holders that come or go. Gives the names that hold nothing any more.
    pub fn assign(
        &mut self,
        holders: impl IntoIterator<Item = Holder<K>>,
        read: impl Fn(u16) -> Option<S>,
    ) -> Vec<K> {
        let wanted: BTreeMap<K, Holder<K>> = holders.into_iter().map(|h| (h.labels.clone(), h)).collect();
        let gone: Vec<K> = self
            .live
            .iter()
            .filter(|(k, l)| wanted.get(k).is_none_or(|h| (h.id, h.generation) != (l.id, l.generation)))
            .map(|(k, _)| k.clone())
            .collect();
        for labels in &gone {
            self.retire(labels.clone(), &read);
        }
        let gone = gone.into_iter().filter(|labels| !wanted.contains_key(labels)).collect();
        for (labels, h) in wanted {
            if self.live.contains_key(&labels) {
                continue;
            }
            let before = self.left.remove(&labels).unwrap_or(S::ZERO);
            self.left_order.retain(|k| *k != labels);
            if let Some(gone) = self.gone.get_mut(&labels.group()) {
                *gone = gone.since(&before);
            }
            let base = if h.adopted { Some(S::ZERO) } else { read(h.id) };
            self.live.insert(labels, Live { id: h.id, generation: h.generation, base, before, last: before });
        }
        gone
    }

    /// Totals of every live holder. `read` gives the counters of an id; a holder whose counters cannot be read
    /// shows its last total.
    pub fn totals(&mut self, read: impl Fn(u16) -> Option<S>) -> Vec<(K, S)> {
        self.live
            .iter_mut()
            .map(|(k, l)| (k.clone(), read(l.id).map_or(l.last, |reading| l.total(&reading))))
            .collect()
    }

    /// Live holders, their ids and those ids' generations.
    #[must_use]
    pub fn holders(&self) -> Vec<(K, u16, u16)> {
        self.live.iter().map(|(k, l)| (k.clone(), l.id, l.generation)).collect()
    }

    /// Everything that holders left behind who are gone now, by their group.
    #[must_use]
    pub const fn gone(&self) -> &BTreeMap<K::Group, S> {
        &self.gone
    }

    fn retire(&mut self, labels: K, read: impl Fn(u16) -> Option<S>) {
        let Some(mut live) = self.live.remove(&labels) else { return };
        let total = read(live.id).map_or(live.last, |reading| live.total(&reading));
        let gone = self.gone.entry(labels.group()).or_insert(S::ZERO);
        *gone = gone.plus(&total);
        self.left.insert(labels.clone(), total);
        self.left_order.push_back(labels);
        if self.left_order.len() > REMEMBERED
            && let Some(oldest) = self.left_order.pop_front()
        {
            self.left.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Labels for u8 {
        type Group = ();
        fn group(&self) {}
    }

    fn holder(labels: u8, id: u16, generation: u16) -> Holder<u8> {
        Holder { labels, id, generation, adopted: false }
    }

    fn flows(n: u64) -> ServiceStats {
        ServiceStats { new_flows: n, ..ServiceStats::ZERO }
    }

    #[test]
    fn a_new_holder_of_an_id_starts_at_zero_and_an_adopted_one_does_not() {
        let mut l = Ledger::default();
        l.assign([holder(1, 7, 1), Holder { adopted: true, ..holder(2, 8, 1) }], |_| Some(flows(100)));
        let seen = l.totals(|_| Some(flows(130)));
        assert_eq!(seen, vec![(1, flows(30)), (2, flows(130))]);
    }

    #[test]
    fn a_name_that_returns_with_another_id_goes_on_where_it_stood() {
        let mut l = Ledger::default();
        l.assign([holder(1, 7, 1)], |_| Some(flows(0)));
        l.assign([], |_| Some(flows(40)));
        assert_eq!(l.gone()[&()].new_flows, 40);
        l.assign([holder(1, 9, 1)], |_| Some(flows(1000)));
        assert_eq!(l.gone()[&()].new_flows, 0);
        assert_eq!(l.totals(|_| Some(flows(1005))), vec![(1, flows(45))]);
    }

    #[test]
    fn counters_that_were_cleared_for_a_new_holder_are_its_own() {
        let mut l = Ledger::default();
        l.assign([holder(1, 7, 1)], |_| Some(flows(0)));
        assert_eq!(l.totals(|_| Some(flows(100))), vec![(1, flows(100))]);
        l.assign([holder(2, 7, 2)], |_| Some(flows(100)));
        assert_eq!(l.totals(|_| Some(flows(101))), vec![(2, flows(1))], "not cleared yet");
        assert_eq!(l.totals(|_| Some(flows(3))), vec![(2, flows(4))]);
        assert_eq!(l.totals(|_| Some(flows(103))), vec![(2, flows(104))]);
        assert_eq!(l.gone()[&()].new_flows, 100);
    }

    #[test]
    fn an_unreadable_counter_shows_the_last_total() {
        let mut l = Ledger::default();
        l.assign([holder(1, 7, 1)], |_| None);
        assert_eq!(l.totals(|_| Some(flows(50))), vec![(1, flows(0))], "the base is the first reading");
        assert_eq!(l.totals(|_| Some(flows(60))), vec![(1, flows(10))]);
        assert_eq!(l.totals(|_| None), vec![(1, flows(10))]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Count(u16, u64),
        Assign(Vec<Option<u8>>),
        Fail(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u16..4, 1u64..100).prop_map(|(id, n)| Step::Count(id, n)),
            proptest::collection::vec(proptest::option::of(0u8..4), 4).prop_map(Step::Assign),
            any::<bool>().prop_map(Step::Fail),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        /// Whoever holds which id, and whether readings fail or not: no name's total and no grand total falls,
        /// and nobody is credited with more than the kernel counted.
        #[test]
        fn totals_never_fall(steps in steps()) {
            let (mut kernel, mut counted) = ([5u64; 4], 0);
            let mut held: [(Option<u8>, u16); 4] = [(None, 0); 4];
            let mut failing = false;
            let mut ledger: Ledger<u8, ServiceStats> = Ledger::default();
            let mut seen: BTreeMap<u8, u64> = BTreeMap::new();
            let mut grand = 0;
            for step in steps {
                match step {
                    Step::Count(id, n) => {
                        kernel[usize::from(id)] += n;
                        counted += n;
                    }
                    Step::Fail(f) => failing = f,
                    Step::Assign(names) => {
                        let (mut used, mut cleared) = (Vec::new(), Vec::new());
                        for (id, (slot, name)) in held.iter_mut().zip(names).enumerate() {
                            let name = name.filter(|n| !used.contains(n));
                            used.extend(name);
                            if slot.0 != name {
                                *slot = (name, slot.1 + 1);
                                cleared.push(id);
                            }
                        }
                        let holders = held.iter().enumerate().filter_map(|(id, (name, generation))| {
                            name.map(|n| holder(n, u16::try_from(id).unwrap(), *generation))
                        });
                        ledger.assign(holders, |id| (!failing).then(|| flows(kernel[usize::from(id)])));
                        for id in cleared {
                            kernel[id] = 0;
                        }
                    }
                }
                let totals = ledger.totals(|id| (!failing).then(|| flows(kernel[usize::from(id)])));
                for (name, s) in &totals {
                    let before = seen.insert(*name, s.new_flows).unwrap_or(0);
                    prop_assert!(s.new_flows >= before, "{name}: {before} then {}", s.new_flows);
                }
                let sum = totals.iter().map(|(_, s)| s.new_flows).sum::<u64>() + ledger.gone().get(&()).map_or(0, |gone| gone.new_flows);
                prop_assert!(sum >= grand, "{grand} then {sum}");
                prop_assert!(sum <= counted);
                grand = sum;
            }
        }
    }
}
