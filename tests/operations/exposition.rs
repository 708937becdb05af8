//! Reads an exposition as the OpenMetrics 1.0.0 text demands, and refuses everything else.

use std::collections::{BTreeMap, BTreeSet};

/// One family.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) unit: Option<String>,
    pub(crate) samples: Vec<Sample>,
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// The families of an exposition, by name.
pub(crate) type Families = BTreeMap<String, Family>;

/// Reads `text`; every rule of the format that it breaks is named.
pub(crate) fn read(text: &str) -> Result<Families, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("no `# EOF` at the end")?;
    let mut families = Families::new();
    let mut present: Option<String> = None;
    let mut seen = BTreeSet::new();
    for line in body.lines() {
        let fault = |what: &str| Err(format!("{what}: {line}"));
        if let Some(meta) = line.strip_prefix("# ") {
            let mut words = meta.splitn(3, ' ');
            let (kind, name, value) =
                (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""));
            if !is_name(name, true) {
                return fault("no name");
            }
            if present.as_deref() != Some(name) {
                if families.contains_key(name) {
                    return fault("a family in two places");
                }
                families.insert(name.to_owned(), Family::default());
                present = Some(name.to_owned());
            }
            let family = families.get_mut(name).expect("there");
            if !family.samples.is_empty() {
                return fault("metadata behind a sample");
            }
            match kind {
                "HELP" if value.ends_with('.') => {}
                "HELP" => return fault("help that is no sentence"),
                "TYPE" if family.kind.is_empty() => family.kind = value.to_owned(),
                "UNIT" if family.unit.is_none() => {
                    if !name.ends_with(&format!("_{value}")) {
                        return fault("a unit that is not in the name");
                    }
                    family.unit = Some(value.to_owned());
                }
                _ => return fault("metadata that is unknown or stands twice"),
            }
            continue;
        }
        let sample = sample(line).ok_or_else(|| format!("no sample: {line}"))?;
        let Some((name, family)) = present.as_ref().and_then(|name| families.get_mut_entry(name)) else {
            return fault("a sample without a family");
        };
        if !suffixes(&family.kind).iter().any(|suffix| sample.name == format!("{name}{suffix}")) {
            return fault("a sample of another family");
        }
        let sound = match family.kind.as_str() {
            "counter" => sample.value >= 0.0,
            "info" => sample.value == 1.0,
            _ => !sample.value.is_nan(),
        };
        if !sound {
            return fault("a value that its type cannot have");
        }
        if !seen.insert((sample.name.clone(), sample.labels.clone())) {
            return fault("a sample that stands twice");
        }
        family.samples.push(sample);
    }
    for (name, family) in &families {
        let names_unit = ["seconds", "bytes", "ratio", "celsius", "watts"].iter().find(|unit| name.ends_with(*unit));
        if family.kind.is_empty() || names_unit.map(|unit| (*unit).to_owned()) != family.unit {
            return Err(format!("{name}: {family:?}"));
        }
        if family.kind == "histogram" {
            buckets(name, family)?;
        }
    }
    Ok(families)
}

trait Entry {
    fn get_mut_entry(&mut self, name: &str) -> Option<(String, &mut Family)>;
}

impl Entry for Families {
    fn get_mut_entry(&mut self, name: &str) -> Option<(String, &mut Family)> {
        self.get_mut(name).map(|family| (name.to_owned(), family))
    }
}

/// What may stand behind the family's name.
pub(crate) fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_count", "_sum"],
        "summary" => &["_count", "_sum"],
        // We have no other; its samples belong nowhere.
        _ => &[],
    }
}

fn is_name(text: &str, colons: bool) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || (colons && letter == ':');
    text.chars().all(fits) && text.chars().next().is_some_and(|letter| !letter.is_ascii_digit())
}

/// `name{label="value",…} value`, strictly, without a time.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, value) = rest.split_once("=\"")?;
            let (text, behind) = quoted(value)?;
            if !is_name(label, false) || labels.insert(label.to_owned(), text).is_some() {
                return None;
            }
            rest = behind;
            if let Some(behind) = rest.strip_prefix('}') {
                rest = behind;
                break;
            }
            rest = rest.strip_prefix(',')?;
        }
    }
    let value = rest.strip_prefix(' ')?;
    let number = value.chars().all(|letter| letter.is_ascii_digit() || "+-.e".contains(letter)) || value == "+Inf";
    let value = value.replace("+Inf", "inf").parse().ok().filter(|_| number)?;
    is_name(name, true).then(|| Sample { name: name.to_owned(), labels, value })
}

/// A label's value up to its quote, and what is behind.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                escaped @ ('"' | '\\') => escaped,
                _ => return None,
            }),
            letter => value.push(letter),
        }
    }
    None
}

/// Buckets rise, the last is `+Inf`, and it is the count.
fn buckets(name: &str, family: &Family) -> Result<(), String> {
    let of = |suffix: &str| {
        let wanted = format!("{name}{suffix}");
        family.samples.iter().filter(move |sample| sample.name == wanted)
    };
    let bound = |sample: &Sample| sample.labels.get("le").and_then(|le| le.replace("+Inf", "inf").parse::<f64>().ok());
    let all: Vec<(Option<f64>, f64)> = of("_bucket").map(|sample| (bound(sample), sample.value)).collect();
    let rises = all.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
    let last = all.last().map(|(bound, count)| (*bound, *count));
    let count = of("_count").next().map(|sample| sample.value);
    let whole = last.is_some_and(|(bound, total)| bound == Some(f64::INFINITY) && Some(total) == count);
    if rises && whole && of("_sum").count() == 1 { Ok(()) } else { Err(format!("{name}: {all:?}, count {count:?}")) }
}

#[test]
fn what_breaks_the_format_is_refused() {
    let good = "# HELP a A.\n# TYPE a counter\na_total{x=\"y,}\\\"\"} 1\n# HELP b_bytes B.\n# TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 2.5\n# EOF\n";
    let found = read(good).unwrap();
    assert_eq!(found["a"].samples[0].labels["x"], "y,}\"");
    for (from, to) in [
        ("# EOF\n", ""),
        ("# EOF\n", "# EOF"),
        ("a_total{", "a{"),
        ("b_bytes 2.5\n", "b_bytes 2.5\na_total 3\n"),
        ("b_bytes 2.5\n", "b_bytes 2.5\nb_bytes 2.5\n"),
        ("# UNIT b_bytes bytes\n", ""),
        ("bytes bytes", "bytes seconds"),
        ("\"} 1", "\"} -1"),
        ("\"} 1", "\"} NaN"),
        ("\"} 1", "\"} 1 1700000000"),
        ("\"} 1", "\"} 1 "),
        ("# TYPE a counter\n", ""),
        ("b_bytes 2.5\n", "b_bytes 2.5\n# HELP b_bytes B.\n"),
        ("b_bytes 2.5\n", "b_bytes 2.5\n# TYPE a gauge\n"),
        ("b_bytes 2.5\n", "b_bytes 2.5\n\n"),
        ("x=\"y", "x=y\""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from:?}");
        assert!(read(&bad).is_err(), "{bad}");
    }
}
