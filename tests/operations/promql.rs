//! What a PromQL expression asks for: its series and the labels that it goes by. The expression's grammar is checked by
//! Prometheus itself ([`crate::rules`], [`crate::prometheus`]); this only finds the words.

/// One selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) metric: String,
    /// Label, operator, value.
    pub(crate) matchers: Vec<(String, String, String)>,
}

/// What an expression asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) selectors: Vec<Selector>,
    /// Labels of `by`, `without`, `on`, `ignoring` and the `group_` modifiers.
    pub(crate) labels: Vec<String>,
}

const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const WORDS: [&str; 8] = ["and", "or", "unless", "bool", "offset", "inf", "nan", "atan2"];
const AGGREGATIONS: [&str; 11] =
    ["sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "topk", "quantile"];

/// Reads an expression; Grafana's variables may stand where a duration or a string does.
pub(crate) fn asked(expr: &str) -> Asked {
    let mut asked = Asked::default();
    let mut text = Text { rest: expr };
    while let Some(letter) = text.rest.chars().next() {
        if letter == '"' || letter == '\'' {
            text.string();
        } else if letter == '[' {
            text.skip_through(']');
        } else if letter == '$' || letter.is_ascii_digit() {
            text.skip(1);
            text.word();
        } else if letter.is_ascii_alphabetic() || letter == '_' || letter == ':' {
            let word = text.word().to_owned();
            let next = text.rest.trim_start();
            if GROUPING.contains(&word.as_str()) {
                if next.starts_with('(') {
                    let inner = text.skip_through(')');
                    let names = inner.trim_start().trim_start_matches('(').trim_end_matches(')').split(',');
                    asked.labels.extend(names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
                }
            } else if !next.starts_with('(')
                && !WORDS.contains(&word.as_str())
                && !AGGREGATIONS.contains(&word.as_str())
            {
                let matchers = if next.starts_with('{') { text.matchers() } else { Vec::new() };
                asked.selectors.push(Selector { metric: word, matchers });
            }
        } else {
            assert!(letter != '{', "a selector without a name: {expr}");
            text.skip(letter.len_utf8());
        }
    }
    asked
}

struct Text<'a> {
    rest: &'a str,
}

impl<'a> Text<'a> {
    fn skip(&mut self, count: usize) {
        self.rest = &self.rest[count..];
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != ':');
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn string(&mut self) -> String {
        let quote = self.rest.chars().next().expect("a quote");
        let mut value = String::new();
        let mut escaped = false;
        for (at, letter) in self.rest.char_indices().skip(1) {
            if escaped {
                value.push(letter);
                escaped = false;
            } else if letter == '\\' {
                escaped = true;
            } else if letter == quote {
                self.skip(at + 1);
                return value;
            } else {
                value.push(letter);
            }
        }
        panic!("a string without its end: {}", self.rest);
    }

    fn skip_through(&mut self, last: char) -> &'a str {
        let end = self.rest.find(last).unwrap_or_else(|| panic!("no {last} in {}", self.rest));
        let (inner, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        inner
    }

    fn matchers(&mut self) -> Vec<(String, String, String)> {
        self.skip_through('{');
        let mut found = Vec::new();
        loop {
            self.rest = self.rest.trim_start_matches([' ', ',', '\n']);
            if self.rest.starts_with('}') {
                self.skip(1);
                return found;
            }
            let label = self.word().to_owned();
            assert!(!label.is_empty(), "no label in {}", self.rest);
            self.rest = self.rest.trim_start();
            let end = self.rest.find(['"', '\'']).expect("a value");
            let operator = self.rest[..end].trim().to_owned();
            self.skip(end);
            found.push((label, operator, self.string()));
        }
    }
}

#[test]
fn words_are_told_apart() {
    let names = |expr: &str| asked(expr).selectors.into_iter().map(|found| found.metric).collect::<Vec<_>>();
    assert_eq!(names("up == 0"), ["up"]);
    assert_eq!(names("sum by (a, b) (rate(x_total{c=\"y\\\"z(\"}[5m])) > 2"), ["x_total"]);
    assert_eq!(names("sum(x) by (a) / on (b) group_left (c) y:z:w offset 10m or vector(1)"), ["x", "y:z:w"]);
    assert_eq!(
        names("histogram_quantile(0.99, sum by (le) (rate(h_bucket[$__rate_interval]))) > bool 1e9"),
        ["h_bucket"]
    );
    assert_eq!(names("topk(5, x unless y) and z"), ["x", "y", "z"]);
    assert_eq!(names("x{a=\"1\", b!~\"$c\"} > 10 * inf"), ["x"]);
    let found = asked("sum by (job, le) (x{a=\"1\",b!~\"$c\"})");
    assert_eq!(found.labels, ["job", "le"]);
    let matchers = [("a", "=", "1"), ("b", "!~", "$c")].map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
    assert_eq!(found.selectors, [Selector { metric: "x".to_owned(), matchers: matchers.to_vec() }]);
}
