//! The manifest of the runtimes as it is written: shape-checked and located, not yet understood.
//!
//! What the words mean (personas, presets, schedules, dependencies) is decided by `supervisor`, which
//! reports its faults with the places kept here.

use std::path::Path;
use std::time::Duration;

use toml::de::DeValue;

use super::located::{ByteSize, Document, Found, Place, Section, Value, expected};
use super::server_file::units::{TIME_FORM, parse_time};

/// Largest manifest, in bytes: thousands of runtimes with comments fit.
pub const MAX_MANIFEST: u64 = 4 << 20;

/// `runtimes.toml`.
#[derive(Debug)]
pub struct RuntimesFile {
    /// Reports what is found wrong later, beside what was found wrong in the shape.
    pub document: Document,
    /// `[[runtimes]]`, in file order.
    pub runtimes: Vec<RuntimeForm>,
}

/// One `[[runtimes]]`.
#[derive(Debug, Clone)]
pub struct RuntimeForm {
    /// Where it starts.
    pub place: Place,
    /// `id`.
    pub id: Option<Found<String>>,
    /// `name`.
    pub name: Option<Found<String>>,
    /// `persona`.
    pub persona: Option<Found<String>>,
    /// `profile`.
    pub profile: Option<Found<String>>,
    /// `preset`.
    pub preset: Option<Found<String>>,
    /// `justification`.
    pub justification: Option<Found<String>>,
    /// `accelerator`.
    pub accelerator: Option<Found<String>>,
    /// `auto_start`.
    pub auto_start: Option<Found<bool>>,
    /// `schedule`.
    pub schedule: Option<Found<String>>,
    /// `timezone`.
    pub timezone: Option<Found<String>>,
    /// `depends_on`.
    pub depends_on: Vec<Found<String>>,
    /// `tags`.
    pub tags: Vec<Found<String>>,
    /// `consent`.
    pub consent: Vec<Found<String>>,
    /// `publish`.
    pub publish: Vec<Found<String>>,
    /// `require`.
    pub require: Vec<Found<String>>,
    /// `[runtimes.process]`; its absence was reported.
    pub process: ProcessForm,
    /// `[runtimes.health]`.
    pub health: Option<HealthForm>,
    /// `[runtimes.watchdog] sec`.
    pub watchdog: Option<Found<u64>>,
    /// `[runtimes.restart]`.
    pub restart: RestartForm,
    /// `[runtimes.budget]`.
    pub budget: BudgetForm,
    /// `[runtimes.limits]`.
    pub limits: LimitsForm,
    /// `[runtimes.gpu]`.
    pub gpu: Option<GpuForm>,
}

/// `[runtimes.process]`.
#[derive(Debug, Clone, Default)]
pub struct ProcessForm {
    /// `command`.
    pub command: Option<Found<String>>,
    /// `args`.
    pub args: Vec<Found<String>>,
    /// `env`, by name.
    pub env: Vec<(String, Found<String>)>,
    /// `secrets`: the files that hold the values, by name of the variable.
    pub secrets: Vec<(String, Found<String>)>,
    /// `workspaces`.
    pub workspaces: Vec<Found<String>>,
    /// `workdir`.
    pub workdir: Option<Found<String>>,
    /// `user`.
    pub user: Option<Found<u64>>,
    /// `stop_grace`.
    pub stop_grace: Option<Found<Duration>>,
}

/// `[runtimes.health]`.
#[derive(Debug, Clone)]
pub struct HealthForm {
    /// Where it starts.
    pub place: Place,
    /// `http`.
    pub http: Option<Found<String>>,
    /// `tcp`.
    pub tcp: Option<Found<String>>,
    /// `exec`.
    pub exec: Option<Vec<Found<String>>>,
    /// `log`.
    pub log: Option<Found<String>>,
    /// `notify`.
    pub notify: Option<Found<bool>>,
    /// `interval`.
    pub interval: Option<Found<Duration>>,
    /// `timeout`.
    pub timeout: Option<Found<Duration>>,
    /// `grace`.
    pub grace: Option<Found<Duration>>,
    /// `failure_threshold`.
    pub failure_threshold: Option<Found<u64>>,
}

/// `[runtimes.restart]`.
#[derive(Debug, Clone, Default)]
pub struct RestartForm {
    /// `policy`.
    pub policy: Option<Found<String>>,
    /// `backoff`: the bound of the first wait.
    pub backoff: Option<Found<Duration>>,
    /// `backoff_max`: the bound of every wait.
    pub backoff_max: Option<Found<Duration>>,
    /// `max`.
    pub max: Option<Found<u64>>,
    /// `window`.
    pub window: Option<Found<Duration>>,
}

/// `[runtimes.budget]`.
#[derive(Debug, Clone, Default)]
pub struct BudgetForm {
    /// `wall_time`.
    pub wall_time: Option<Found<Duration>>,
    /// `cpu_time`.
    pub cpu_time: Option<Found<Duration>>,
    /// `gpu_time`.
    pub gpu_time: Option<Found<Duration>>,
    /// `egress`.
    pub egress: Option<Found<ByteSize>>,
    /// `requests`.
    pub requests: Option<Found<u64>>,
    /// `tokens`.
    pub tokens: Option<Found<u64>>,
    /// `spend`.
    pub spend: Option<Found<String>>,
    /// `window`.
    pub window: Option<Found<WindowForm>>,
}

/// How long budgets last: `run`, or a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowForm {
    /// From one start that was asked for to the next.
    Run,
    /// For so long.
    Every(Duration),
}

impl Value for WindowForm {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some("run") => Ok(Self::Run),
            Some(_) => Duration::read(value).map(Self::Every),
            None => Err(expected("`\"run\"` or a time such as `\"24h\"`", value)),
        }
    }
}

/// `[runtimes.limits]`.
#[derive(Debug, Clone, Default)]
pub struct LimitsForm {
    /// `cpu_percent`.
    pub cpu_percent: Option<Found<u64>>,
    /// `memory`.
    pub memory: Option<Found<ByteSize>>,
    /// `swap`.
    pub swap: Option<Found<ByteSize>>,
    /// `processes`.
    pub processes: Option<Found<u64>>,
    /// `open_files`.
    pub open_files: Option<Found<u64>>,
    /// `connections`.
    pub connections: Option<Found<u64>>,
}

/// `[runtimes.gpu]`.
#[derive(Debug, Clone)]
pub struct GpuForm {
    /// Where it starts.
    pub place: Place,
    /// `count`.
    pub count: Option<Found<u64>>,
    /// `uuids`.
    pub uuids: Option<Vec<Found<String>>>,
    /// `memory`.
    pub memory: Option<Found<ByteSize>>,
}

/// A time as operators write it: `500ms`, `10s`, `5m`, `1h`, `30d`.
impl Value for Duration {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| expected("a time such as \"10s\"", value))?;
        parse_time(text).ok_or_else(|| format!("not a time: {TIME_FORM}"))
    }
}

impl RuntimesFile {
    /// Reads `text` as the contents of `path`.
    ///
    /// # Errors
    /// The document with its faults when the text is not TOML. Faults of the shape do not stop the
    /// reading: they wait in `document` for those that the meaning adds.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Document> {
        let document = Document::new(path, text);
        let Some(mut root) = document.root(text) else { return Err(document) };
        let runtimes = root.sections("runtimes").into_iter().map(RuntimeForm::take).collect();
        root.end();
        Ok(Self { document, runtimes })
    }
}

impl RuntimeForm {
    pub(super) fn take(mut section: Section<'_, '_>) -> Self {
        let form = Self {
            place: section.place().clone(),
            id: section.require("id"),
            name: section.take("name"),
            persona: section.require("persona"),
            profile: section.take("profile"),
            preset: section.take("preset"),
            justification: section.take("justification"),
            accelerator: section.take("accelerator"),
            auto_start: section.take("auto_start"),
            schedule: section.take("schedule"),
            timezone: section.take("timezone"),
            depends_on: section.list("depends_on").unwrap_or_default(),
            tags: section.list("tags").unwrap_or_default(),
            consent: section.list("consent").unwrap_or_default(),
            publish: section.list("publish").unwrap_or_default(),
            require: section.list("require").unwrap_or_default(),
            process: ProcessForm::take(&mut section),
            health: section.section("health").map(HealthForm::take),
            watchdog: section.section("watchdog").and_then(|mut watchdog| {
                let sec = watchdog.require("sec");
                watchdog.end();
                sec
            }),
            restart: section.section("restart").map(RestartForm::take).unwrap_or_default(),
            budget: section.section("budget").map(BudgetForm::take).unwrap_or_default(),
            limits: section.section("limits").map(LimitsForm::take).unwrap_or_default(),
            gpu: section.section("gpu").map(GpuForm::take),
        };
        section.end();
        form
    }

    /// The place of `key` of this runtime as a whole.
    pub fn at(&self, key: &str) -> Place {
        Place { key: format!("{}.{key}", self.place.key), line: self.place.line }
    }
}

impl ProcessForm {
    fn take(runtime: &mut Section<'_, '_>) -> Self {
        let place = runtime.place_of("process");
        let Some(mut section) = runtime.section("process") else {
            // A value of the wrong kind at the key was reported; a missing table is reported here.
            if place == runtime.place_of("process") {
                runtime.fault("process", "the table is missing: there is nothing to run");
            }
            return Self::default();
        };
        let form = Self {
            command: section.require("command"),
            args: section.list("args").unwrap_or_default(),
            env: section.entries("env"),
            secrets: section.entries("secrets"),
            workspaces: section.list("workspaces").unwrap_or_default(),
            workdir: section.take("workdir"),
            user: section.take("user"),
            stop_grace: section.take("stop_grace"),
        };
        section.end();
        form
    }
}

impl HealthForm {
    fn take(mut section: Section<'_, '_>) -> Self {
        let form = Self {
            place: section.place().clone(),
            http: section.take("http"),
            tcp: section.take("tcp"),
            exec: section.filled_list("exec"),
            log: section.take("log"),
            notify: section.take("notify"),
            interval: section.take("interval"),
            timeout: section.take("timeout"),
            grace: section.take("grace"),
            failure_threshold: section.take("failure_threshold"),
        };
        section.end();
        form
    }
}

impl RestartForm {
    fn take(mut section: Section<'_, '_>) -> Self {
        let form = Self {
            policy: section.take("policy"),
            backoff: section.take("backoff"),
            backoff_max: section.take("backoff_max"),
            max: section.take("max"),
            window: section.take("window"),
        };
        section.end();
        form
    }
}

impl BudgetForm {
    pub(super) fn take(mut section: Section<'_, '_>) -> Self {
        let form = Self {
            wall_time: section.take("wall_time"),
            cpu_time: section.take("cpu_time"),
            gpu_time: section.take("gpu_time"),
            egress: section.take("egress"),
            requests: section.take("requests"),
            tokens: section.take("tokens"),
            spend: section.take("spend"),
            window: section.take("window"),
        };
        section.end();
        form
    }
}

impl LimitsForm {
    fn take(mut section: Section<'_, '_>) -> Self {
        let form = Self {
            cpu_percent: section.take("cpu_percent"),
            memory: section.take("memory"),
            swap: section.take("swap"),
            processes: section.take("processes"),
            open_files: section.take("open_files"),
            connections: section.take("connections"),
        };
        section.end();
        form
    }
}

impl GpuForm {
    fn take(mut section: Section<'_, '_>) -> Self {
        let form = Self {
            place: section.place().clone(),
            count: section.take("count"),
            uuids: section.filled_list("uuids"),
            memory: section.take("memory"),
        };
        section.end();
        form
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(text: &str) -> Vec<String> {
        let document = match RuntimesFile::parse(Path::new("r.toml"), text) {
            Ok(file) => file.document,
            Err(document) => document,
        };
        document.into_faults().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_of_the_shape_is_reported_with_its_line() {
        let text = r#"
[[runtimes]]
id = "a"
persna = "demo"
tags = "x"
[runtimes.process]
command = 5
stop_grace = 10
[runtimes.health]
interval = "10 seconds"
exec = []
[runtimes.watchdog]
[runtimes.budget]
egress = "1 gallon"
[[runtimes]]
id = "b"
persona = "demo"
"#;
        assert_eq!(
            faults_of(text),
            [
                "r.toml:2: runtimes[0].persona: the key is missing",
                "r.toml:4: runtimes[0].persna: unknown key `persna` (hint: did you mean `persona`?)",
                "r.toml:5: runtimes[0].tags: expected a list (hint: tags = [ … ])",
                "r.toml:7: runtimes[0].process.command: expected a text in quotes, found a whole number",
                "r.toml:8: runtimes[0].process.stop_grace: expected a time such as \"10s\", found a whole number",
                "r.toml:10: runtimes[0].health.interval: not a time: write one number and one of `ms`, `s`, `m`, `h`, \
                 `d`, such as \"10s\"",
                "r.toml:11: runtimes[0].health.exec: the list is empty (hint: name what is meant, or leave the key out)",
                "r.toml:12: runtimes[0].watchdog.sec: the key is missing",
                "r.toml:14: runtimes[0].budget.egress: expected a size such as `64KiB`, `1GiB` or `5MB`",
                "r.toml:15: runtimes[1].process: the table is missing: there is nothing to run",
            ]
        );
    }

    #[test]
    fn a_key_outside_of_the_runtimes_is_refused() {
        assert_eq!(faults_of("runtime = []\n").len(), 1);
        assert_eq!(faults_of("").len(), 0);
    }
}
