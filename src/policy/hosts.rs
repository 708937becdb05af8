//! Which host patterns match a name.

use std::collections::HashMap;

/// Names and the rules that name them: one hash look-up for the name and one for each of its
/// parents, however many rules there are.
#[derive(Debug, Default)]
pub(super) struct HostIndex {
    entries: HashMap<Box<str>, Entry>,
    /// Labels of the deepest base of a `*.` pattern: no longer parent needs a look-up, so a client
    /// gains nothing by a name of a hundred labels.
    deepest: usize,
}

#[derive(Debug, Default)]
struct Entry {
    /// Rules that name exactly this, in file order.
    exact: Vec<u32>,
    /// Rules that name everything below this, in file order.
    below: Vec<u32>,
}

impl HostIndex {
    /// Adds `name` as named by `rule`. Rules must come in file order.
    pub(super) fn insert_exact(&mut self, name: &str, rule: u32) {
        push(&mut self.entries.entry(name.into()).or_default().exact, rule);
    }

    /// Adds `*.base` as named by `rule`. Rules must come in file order.
    pub(super) fn insert_below(&mut self, base: &str, rule: u32) {
        self.deepest = self.deepest.max(base.split('.').count());
        push(&mut self.entries.entry(base.into()).or_default().below, rule);
    }

    /// The lists of rules that match `name`, and whether they name it exactly.
    pub(super) fn matching<'n>(&'n self, name: &'n str) -> impl Iterator<Item = (&'n [u32], bool)> {
        let exact = self.entries.get(name).map(|entry| (&*entry.exact, true));
        let parents = Parents { name, end: name.len() }.take(self.deepest);
        let below = parents.filter_map(|parent| self.entries.get(parent)).map(|entry| (&*entry.below, false));
        exact.into_iter().chain(below).filter(|(rules, _)| !rules.is_empty())
    }

    /// The lists of rules that match every name below `base`.
    pub(super) fn covering_below<'n>(&'n self, base: &'n str) -> impl Iterator<Item = &'n [u32]> {
        let parents = Parents { name: base, end: base.len() };
        std::iter::once(base).chain(parents).filter_map(|parent| self.entries.get(parent)).map(|entry| &*entry.below)
    }

    /// Whether there is no pattern at all.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn push(rules: &mut Vec<u32>, rule: u32) {
    if rules.last() != Some(&rule) {
        rules.push(rule);
    }
}

/// The parents of a name, shortest first, never the name itself.
struct Parents<'n> {
    name: &'n str,
    /// Where the next shorter parent starts, less its dot.
    end: usize,
}

impl<'n> Iterator for Parents<'n> {
    type Item = &'n str;

    fn next(&mut self) -> Option<&'n str> {
        let dot = memchr::memrchr(b'.', &self.name.as_bytes()[..self.end])?;
        self.end = dot;
        self.name.get(dot + 1..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(index: &HostIndex, name: &str) -> Vec<u32> {
        let mut rules: Vec<u32> = index.matching(name).flat_map(|(rules, _)| rules).copied().collect();
        rules.sort_unstable();
        rules
    }

    #[test]
    fn a_star_is_any_depth_and_not_the_apex() {
        let mut index = HostIndex::default();
        index.insert_exact("x.org", 0);
        index.insert_below("x.org", 1);
        index.insert_below("b.x.org", 2);
        for (name, expected) in [
            ("x.org", vec![0]),
            ("a.x.org", vec![1]),
            ("a.b.x.org", vec![1, 2]),
            ("b.x.org", vec![1]),
            ("a.a.a.a.x.org", vec![1]),
            ("ax.org", vec![]),
            ("org", vec![]),
            ("x.org.evil", vec![]),
            ("x.org.x.org", vec![1]),
        ] {
            assert_eq!(rules(&index, name), expected, "{name}");
        }
    }

    #[test]
    fn a_deep_name_costs_no_more_than_the_deepest_pattern() {
        let mut index = HostIndex::default();
        index.insert_below("x.org", 0);
        let name = format!("{}x.org", "a.".repeat(120));
        assert_eq!(Parents { name: &name, end: name.len() }.take(index.deepest).count(), 2);
        assert_eq!(rules(&index, &name), [0]);
    }

    proptest::proptest! {
        #[test]
        fn the_index_agrees_with_a_scan(
            patterns in proptest::collection::vec(("[ab](\\.[ab]){0,3}", proptest::bool::ANY), 0..30),
            name in "[ab](\\.[ab]){0,5}",
        ) {
            let mut index = HostIndex::default();
            for ((base, star), rule) in patterns.iter().zip(0..) {
                if *star { index.insert_below(base, rule) } else { index.insert_exact(base, rule) }
            }
            let matches = |(base, star): &(String, bool)| {
                if *star { name.ends_with(&format!(".{base}")) } else { *base == name }
            };
            let naive: Vec<u32> =
                (0..).zip(&patterns).filter(|(_, pattern)| matches(pattern)).map(|(rule, _)| rule).collect();
            proptest::prop_assert_eq!(rules(&index, &name), naive);
        }
    }
}
