//! Which of the two text formats a collector is answered in.

use axum::http::{HeaderMap, header};

/// A text format of series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenMetrics 1.0.0, for whoever says nothing else.
    OpenMetrics,
    /// The older text format of Prometheus, version 0.0.4, for collectors that know no other.
    Plain,
}

impl Dialect {
    /// The content type of an answer in it.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// What a client that sends these headers likes best (RFC 9110 section 12.5.1). Who accepts neither is answered
    /// in OpenMetrics all the same: an answer that can be read says more than `406`.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut liked = Liked::default();
        let fields = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for range in fields.flat_map(|field| field.split(',')) {
            liked.add(range);
        }
        if liked.plain() > liked.open_metrics() { Self::Plain } else { Self::OpenMetrics }
    }
}

/// The weights of a client in thousandths, by how exactly it names the format.
#[derive(Debug, Default)]
struct Liked {
    open_metrics: Option<u16>,
    plain: Option<u16>,
    any_text: Option<u16>,
    any: Option<u16>,
}

impl Liked {
    fn add(&mut self, range: &str) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut weight, mut version) = (1000, None);
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "q" => weight = thousandths(value),
                "version" => version = Some(value),
                _ => {}
            }
        }
        let fits = |ours: &str| version.is_none_or(|version| version == ours);
        let slot = match name.as_str() {
            "application/openmetrics-text" if fits("1.0.0") => &mut self.open_metrics,
            "text/plain" if fits("0.0.4") => &mut self.plain,
            "text/*" => &mut self.any_text,
            "*/*" => &mut self.any,
            _ => return,
        };
        *slot = Some(slot.unwrap_or(0).max(weight));
    }

    fn open_metrics(&self) -> u16 {
        self.open_metrics.or(self.any).unwrap_or(0)
    }

    fn plain(&self) -> u16 {
        self.plain.or(self.any_text).or(self.any).unwrap_or(0)
    }
}

/// `0`, `1`, or up to three digits behind the point. What is none of these weighs nothing.
fn thousandths(text: &str) -> u16 {
    match text.parse::<f32>() {
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0).round() as u16,
        _ => 0,
    }
}

/// The same series in the older format: a counter is named with its suffix, an `info` is a gauge, and there is neither a
/// unit nor an end mark.
pub(super) fn plain(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = text.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(text) = line.strip_prefix("# TYPE ") {
            let (name, kind) = text.split_once(' ').unwrap_or((text, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            out.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_gets_the_format_that_it_likes_best() {
        use Dialect::{OpenMetrics, Plain};
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let old = "text/plain;version=0.0.4;q=1,*/*;q=0.1";
        for (accept, expected) in [
            (prometheus_2, OpenMetrics),
            (prometheus_3, OpenMetrics),
            (old, Plain),
            ("text/plain", Plain),
            ("TEXT/Plain; Version=\"0.0.4\"", Plain),
            ("text/*;q=0.3", Plain),
            ("text/plain;version=1.0.0, application/openmetrics-text", OpenMetrics),
            ("application/openmetrics-text;q=0.2, text/plain;q=0.9", Plain),
            ("application/openmetrics-text;version=0.0.1, text/plain;q=0.1", Plain),
            ("*/*", OpenMetrics),
            ("", OpenMetrics),
            ("text/html", OpenMetrics),
            ("text/plain;q=0, */*", OpenMetrics),
            ("text/plain;q=nan", OpenMetrics),
            ("text/plain;q=7", OpenMetrics),
            (";;;q,=,", OpenMetrics),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("a value"));
            assert_eq!(Dialect::of(&headers), expected, "{accept}");
        }
        assert_eq!(Dialect::of(&HeaderMap::new()), OpenMetrics);
        let mut twice = HeaderMap::new();
        twice.append(header::ACCEPT, "application/openmetrics-text;q=0.1".parse().expect("a value"));
        twice.append(header::ACCEPT, "text/plain".parse().expect("a value"));
        assert_eq!(Dialect::of(&twice), Plain, "fields of one name are one list");
    }

    #[test]
    fn the_older_format_has_the_same_samples() {
        let text = "# HELP a Things.\n# TYPE a counter\na_total{x=\"# y\"} 1\n# HELP b B.\n# TYPE b info\nb_info{v=\"1\"} 1\n\
                    # HELP c_bytes C.\n# TYPE c_bytes gauge\n# UNIT c_bytes bytes\nc_bytes 2\n# EOF\n";
        assert_eq!(
            plain(text),
            "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"# y\"} 1\n# HELP b_info B.\n# TYPE b_info gauge\n\
             b_info{v=\"1\"} 1\n# HELP c_bytes C.\n# TYPE c_bytes gauge\nc_bytes 2\n"
        );
    }
}
